"""The client's own record of what it put into its payment channel: on disk before it is sent, with the bytes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from billing.money import Nanotons
from billing.ton.transfer_request import TransferRequest, parse_request
from billing.voucher import Channel

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS top_ups (message BLOB PRIMARY KEY, channel BLOB NOT NULL, amount INTEGER NOT NULL,"
    " request BLOB NOT NULL, signed_at INTEGER NOT NULL, state TEXT NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS one_is_open ON top_ups (channel) WHERE state = 'open'",
)
_OPEN, _ARRIVED, _VOID = "open", "arrived", "void"


class TopUpStore:
    """An SQLite file of top-ups, by channel (account id, 32 bytes)."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        with self._database:
            for statement in _SCHEMA:
                self._database.execute(statement)

    def begin(self, channel: Channel, request: TransferRequest, *, now: int) -> TransferRequest:
        """Note a signed request before it is sent; returns it, or the one that another process noted first."""
        row = (request.message_hash, channel.account, request.amount, request.encode(), now, _OPEN)
        with self._database:
            begun = self._database.execute("INSERT OR IGNORE INTO top_ups VALUES (?, ?, ?, ?, ?, ?)", row).rowcount
        return request if begun else self.open(channel) or request

    def open(self, channel: Channel) -> TransferRequest | None:
        """The one whose end was not seen: there is at most one."""
        row = self._database.execute(
            "SELECT request FROM top_ups WHERE channel = ? AND state = ?", (channel.account, _OPEN)
        ).fetchone()
        return None if row is None else parse_request(row[0])

    def end(self, request: TransferRequest, *, arrived: bool) -> None:
        """Note that it is in the channel, or that it never can be."""
        with self._database:
            self._database.execute(
                "UPDATE top_ups SET state = ? WHERE message = ?",
                (_ARRIVED if arrived else _VOID, request.message_hash),
            )

    def sent_since(self, channel: Channel, moment: int) -> Nanotons:
        """What was sent, or may have been, since a unix time."""
        row = self._database.execute(
            "SELECT SUM(amount) FROM top_ups WHERE channel = ? AND signed_at > ? AND state != ?",
            (channel.account, moment, _VOID),
        ).fetchone()
        return Nanotons(row[0] or 0)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
