"""The client's own record of what it promised out of its payment channel, and of the leases it promised that for.

An SQLite file, on disk before anything is sent. A total is signed once: asked again for it, the same bytes come back,
and never a lower one. So a crash between signing and sending, or a copy of the program, signs nothing twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.hold_book import RELEASE_GRACE_S
from billing.money import Nanotons
from billing.voucher import Channel, Voucher, sign_voucher
from client.transaction import transaction

_ZERO = Nanotons(0)
HOLD_END_S = RELEASE_GRACE_S + 60  # after a lease's end: by then the operator has released what was not used
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS vouchers (channel BLOB, total INTEGER, signed BLOB NOT NULL,"
    " PRIMARY KEY (channel, total))",
    "CREATE TABLE IF NOT EXISTS leases (request BLOB PRIMARY KEY, channel BLOB NOT NULL, lease BLOB,"
    " amount INTEGER NOT NULL, ends_at INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS billed (channel BLOB PRIMARY KEY, amount INTEGER NOT NULL)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a client owes, or may come to owe, out of one payment channel. Nanotons."""

    promised: Nanotons  # the latest voucher's total
    billed: Nanotons  # by the receipts of leases that have ended
    held: Nanotons  # the most that leases can cost which have not
    leases: int = 0  # how many those are
    unanswered: Nanotons = _ZERO  # the dearest lease that was asked for without any answer; more are not believed
    held_until: int = 0  # when the last lease counts by its receipts, unix seconds; 0 if none is under way

    @property
    def owed(self) -> Nanotons:
        """The most that is owed for leases this client knows of."""
        return Nanotons(self.billed + self.held)

    def reach(self, budget: Nanotons) -> Nanotons:
        """The voucher to sign so that a lease of `budget` may be held; never below the latest one."""
        return Nanotons(max(self.promised, self.owed + budget))


class VoucherStore:
    """Vouchers and leases of one client, by channel (account id, 32 bytes)."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        for statement in _SCHEMA:
            self._database.execute(statement)

    def sign(self, voucher: Voucher, key: Ed25519PrivateKey) -> bytes:
        """Return the signed voucher, durably kept.

        Raises:
            ValueError: a higher one was signed before.
        """
        signed, name = sign_voucher(voucher, key), voucher.channel.account
        with transaction(self._database):
            latest = self._latest(name)
            if latest is not None and voucher.total < latest[0]:
                raise ValueError(f"a voucher of {latest[0]} was signed before, this one is of {voucher.total}")
            if latest is not None and voucher.total == latest[0]:
                return latest[1]
            self._database.execute("INSERT INTO vouchers VALUES (?, ?, ?)", (name, voucher.total, signed))
        return signed

    def latest(self, channel: Channel) -> bytes | None:
        """Return the latest signed voucher, None if none was signed."""
        latest = self._latest(channel.account)
        return None if latest is None else latest[1]

    def ask(self, request_id: bytes, channel: Channel, amount: Nanotons, *, ends_at: int) -> None:
        """Note, before it is sent, that a lease is asked for: it may be held although no answer comes."""
        row = (request_id, channel.account, None, amount, ends_at)
        with transaction(self._database):
            self._database.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)", row)

    def grant(self, request_id: bytes, lease: bytes, amount: Nanotons, *, ends_at: int) -> None:
        """Note what was granted, and until when, unix seconds."""
        with transaction(self._database):
            self._database.execute(
                "UPDATE leases SET lease = ?, amount = ?, ends_at = ? WHERE request = ?",
                (lease, amount, ends_at, request_id),
            )

    def drop(self, request_id: bytes) -> None:
        """Note that the lease was refused: nothing is held for it."""
        with transaction(self._database):
            self._database.execute("DELETE FROM leases WHERE request = ?", (request_id,))

    def give_back(self, channel: Channel, lease: bytes, amount: Nanotons) -> None:
        """Bill `amount` less for a lease that ended before its receipt was refused; one under way needs nothing."""
        with transaction(self._database):
            if self._database.execute("SELECT 1 FROM leases WHERE lease = ?", (lease,)).fetchone() is None:
                self._database.execute(
                    "UPDATE billed SET amount = amount - ? WHERE channel = ? AND amount >= ?",
                    (amount, channel.account, amount),
                )

    def account(self, channel: Channel, *, spent: Callable[[bytes], int], now: int) -> Account:
        """Return what is owed; leases that ended go from their whole amount to what their receipts say.

        Args:
            channel: which one.
            spent: the sum of the verified receipts of a lease.
            now: unix seconds.
        """
        name = channel.account
        with transaction(self._database):
            ended = self._database.execute(
                "SELECT request, lease FROM leases WHERE channel = ? AND ends_at <= ?", (name, now - HOLD_END_S)
            ).fetchall()
            for request_id, lease in ended:
                self._database.execute(
                    "INSERT INTO billed VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
                    (name, spent(lease) if lease is not None else 0),
                )
                self._database.execute("DELETE FROM leases WHERE request = ?", (request_id,))
            held = self._sum("SELECT SUM(amount) FROM leases WHERE channel = ? AND lease IS NOT NULL", name)
            leases = self._sum("SELECT COUNT(*) FROM leases WHERE channel = ? AND lease IS NOT NULL", name)
            unanswered = self._sum("SELECT MAX(amount) FROM leases WHERE channel = ? AND lease IS NULL", name)
            billed = self._sum("SELECT amount FROM billed WHERE channel = ?", name)
            ends_at = self._sum("SELECT MAX(ends_at) FROM leases WHERE channel = ? AND lease IS NOT NULL", name)
            latest = self._latest(name)
        promised = Nanotons(latest[0] if latest else 0)
        held_until = ends_at + HOLD_END_S if held else 0
        return Account(
            promised=promised, billed=billed, held=held, leases=leases, unanswered=unanswered, held_until=held_until
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _latest(self, name: bytes) -> tuple[int, bytes] | None:
        row = self._database.execute(
            "SELECT total, signed FROM vouchers WHERE channel = ? ORDER BY total DESC LIMIT 1", (name,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def _sum(self, query: str, name: bytes) -> Nanotons:
        """The one number that the query gives, 0 for none."""
        row = self._database.execute(query, (name,)).fetchone()
        return Nanotons(row[0] or 0 if row else 0)
