"""Receipts: is this the one that this answer must carry? And the client's own record of what it paid for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from attestation.verdict import Verdict
from billing.bill import Bill
from billing.errors import BillingError
from billing.grant import Grant
from billing.money import Nanotons
from billing.receipt import Receipt, parse_receipt, verify_receipt
from billing.tariff import price
from client.errors import ReceiptInvalidError

_SCHEMA = """CREATE TABLE IF NOT EXISTS receipts (
    request_hash BLOB PRIMARY KEY, request_id TEXT NOT NULL, model TEXT NOT NULL, signed BLOB NOT NULL,
    receipt_key BLOB NOT NULL, kept_at INTEGER NOT NULL)"""
_SPENT = "CREATE TABLE IF NOT EXISTS spent (lease BLOB PRIMARY KEY, amount INTEGER NOT NULL)"
_BY_REQUEST_ID = "CREATE INDEX IF NOT EXISTS receipts_by_request_id ON receipts (request_id)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the receipt of one request has to say."""

    request_hash: bytes  # 32
    grant: Grant
    verdict: Verdict
    price_cap: Nanotons


def check_receipt(signed: bytes, response_hash: bytes, expected: Expected) -> Receipt:
    """Return the receipt if it is the one for this request, this answer and this host, at the right price.

    (1) signed by the host's attested key (2) about this request, lease and answer (3) priced by tariff and coefficient
    (4) within the caller's cap.

    Raises:
        ReceiptInvalidError: it is not.
    """
    verdict, grant = expected.verdict, expected.grant
    host = verdict.host_id.hex()
    try:
        receipt = verify_receipt(signed, verdict.receipt)  # (1)
    except BillingError as error:
        raise ReceiptInvalidError(host, str(error)) from error
    wanted = {  # (2)
        "request_hash": expected.request_hash,
        "response_hash": response_hash,
        "account": grant.account,
        "lease": grant.lease,
        "model_root": grant.model_root,
        "host_id": verdict.host_id,
        "payee": verdict.payee,
    }
    for name, value in wanted.items():
        if getattr(receipt, name) != value:
            raise ReceiptInvalidError(host, f"its {name} is not this request's")
    share = grant.host(verdict.host_id)
    if share is None:
        raise ReceiptInvalidError(host, "the lease does not name this host")
    right = price(receipt.usage, grant.tariff, coefficient=share.coefficient)  # (3)
    if receipt.price != right:
        raise ReceiptInvalidError(host, f"it asks {receipt.price} nanoton, tariff and usage give {right}")
    if receipt.price > expected.price_cap:  # (4)
        raise ReceiptInvalidError(host, f"it asks {receipt.price} nanoton, the cap was {expected.price_cap}")
    return receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReceipt:
    """A verified receipt in the client's own books."""

    request_id: str
    model: str
    signed: bytes
    receipt_key: bytes  # 32, the attested key it was verified with
    kept_at: int  # unix seconds

    @property
    def receipt(self) -> Receipt:
        """The receipt itself; it was verified before it was kept."""
        return parse_receipt(self.signed)


class ReceiptStore:
    """An SQLite file of verified receipts. Holds no prompt and no answer, only hashes."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(
            "PRAGMA synchronous = NORMAL"
        )  # a power cut may lose the last ones; the operator has them
        with self._database:
            self._database.execute(_SCHEMA)
            self._database.execute(_BY_REQUEST_ID)
            self._database.execute(_SPENT)

    def keep(self, signed: bytes, *, request_id: str, model: str, receipt_key: bytes, now: datetime) -> None:
        """Keep a verified receipt; the same request hash again changes nothing."""
        receipt = parse_receipt(signed)
        row = (receipt.request_hash, request_id, model, signed, receipt_key, int(now.timestamp()))
        with self._database:
            if self._database.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?, ?)", row).rowcount:
                self._database.execute(
                    "INSERT INTO spent VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
                    (receipt.lease, receipt.price),
                )

    def spent(self, lease: bytes) -> Nanotons:
        """Return what the verified receipts of a lease come to."""
        row = self._database.execute("SELECT amount FROM spent WHERE lease = ?", (lease,)).fetchone()
        return Nanotons(row[0] if row else 0)

    def forget_refused(self, request_hash: bytes) -> Receipt | None:
        """Drop the receipt of a copy that the books took as refused: it costs nothing. None when it is not there."""
        row = self._database.execute("SELECT signed FROM receipts WHERE request_hash = ?", (request_hash,)).fetchone()
        if row is None:
            return None
        receipt = parse_receipt(row[0])
        with self._database:
            self._database.execute("DELETE FROM receipts WHERE request_hash = ?", (request_hash,))
            self._database.execute(
                "UPDATE spent SET amount = amount - ? WHERE lease = ?", (receipt.price, receipt.lease)
            )
        return receipt

    def find(self, name: str) -> KeptReceipt | None:
        """Return the receipt of a request hash (hex) or request id."""
        try:
            digest = bytes.fromhex(name)
        except ValueError:
            digest = b""
        row = self._database.execute(
            "SELECT request_id, model, signed, receipt_key, kept_at FROM receipts"
            " WHERE request_hash = ? OR request_id = ?",
            (digest, name),
        ).fetchone()
        return _kept(row) if row else None

    def latest(self, limit: int = 100) -> tuple[KeptReceipt, ...]:
        """Return the newest receipts, newest first."""
        rows = self._database.execute(
            "SELECT request_id, model, signed, receipt_key, kept_at FROM receipts ORDER BY kept_at DESC, rowid DESC"
            " LIMIT ?",
            (limit,),
        )
        return tuple(map(_kept, rows))

    def bill(self, account: bytes) -> Bill:
        """Return the account's bill by the receipts kept here, to compare with the operator's."""
        receipts = (parse_receipt(row[0]) for row in self._database.execute("SELECT signed FROM receipts"))
        return Bill(account=account, receipts={r.request_hash: r for r in receipts if r.account == account})

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def read_receipts(path: Path) -> Iterator[KeptReceipt]:
    """Yield the receipts in the file of a client that may be running, oldest first.

    Raises:
        sqlite3.DatabaseError: there is no such file.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT request_id, model, signed, receipt_key, kept_at FROM receipts ORDER BY rowid")
        yield from map(_kept, rows)


def _kept(row: tuple[str, str, bytes, bytes, int]) -> KeptReceipt:
    request_id, model, signed, receipt_key, kept_at = row
    return KeptReceipt(request_id=request_id, model=model, signed=signed, receipt_key=receipt_key, kept_at=kept_at)
