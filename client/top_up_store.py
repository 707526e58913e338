"""The client's own record of what it put into its payment channel: on disk before it is sent, with the bytes."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from billing.money import Nanotons
from billing.ton.transfer_request import TransferRequest, parse_request
from billing.voucher import Channel

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS top_ups (message BLOB PRIMARY KEY, channel BLOB NOT NULL, amount INTEGER NOT NULL,"
    " request BLOB NOT NULL, signed_at INTEGER NOT NULL, state TEXT NOT NULL)"
)
_OPEN, _ARRIVED, _VOID = "open", "arrived", "void"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTopUp:
    """A top-up that was signed, and whose end was not seen."""

    request: TransferRequest
    amount: Nanotons


class TopUpStore:
    """An SQLite file of top-ups, by channel (account id, 32 bytes)."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        with self._database:
            self._database.execute(_SCHEMA)

    def begin(self, channel: Channel, request: TransferRequest, *, now: int) -> None:
        """Note a signed request before it is sent.

        Raises:
            RuntimeError: an earlier one has no end yet.
        """
        if self.open(channel) is not None:
            raise RuntimeError("an earlier top-up of this channel has no end yet")
        row = (request.message_hash, channel.account, request.amount, request.encode(), now, _OPEN)
        with self._database:
            self._database.execute("INSERT INTO top_ups VALUES (?, ?, ?, ?, ?, ?)", row)

    def open(self, channel: Channel) -> OpenTopUp | None:
        """The one whose end was not seen."""
        row = self._database.execute(
            "SELECT request FROM top_ups WHERE channel = ? AND state = ?", (channel.account, _OPEN)
        ).fetchone()
        if row is None:
            return None
        request = parse_request(row[0])
        return OpenTopUp(request=request, amount=request.amount)

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
