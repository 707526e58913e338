"""Entries of the double-entry ledger, the names of its accounts, and their canonical bytes.

A posting adds a signed amount to an account; the postings of an entry sum to zero. Accounts that owe somebody (client,
hold, review, payee, settling, operator) are positive. What the operator owns or has spent (treasury, channel,
chain:fees, losses:channels) is negative by the same amount, so that the sum over all accounts is always zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any

from billing.errors import MalformedRecordError, UnbalancedEntryError

TREASURY = "treasury"  # minus the operator's proved balance on the chain
CHAIN_FEES = "chain:fees"  # minus everything ever spent on chain fees
CHANNEL_LOSSES = "losses:channels"  # minus what vouchers promised and closed payment channels can pay no more
OPERATOR_FEES = "operator:fees"
OPERATOR_CAPITAL = "operator:capital"  # money the operator put in; pays the chain fees
POSTINGS_MAX = 1024


class EntryKind(StrEnum):
    """Why money moved."""

    DEPOSIT = "deposit"
    FUNDING = "funding"
    HOLD = "hold"
    RECEIPT = "receipt"
    RELEASE = "release"
    REVIEW = "review"  # a receipt of a reviewed lease: its money waits for the client's verdict
    VERDICT = "verdict"  # the client's word on copies of a unit; receipts and refusals follow it
    REFUSAL = "refusal"  # a receipt that earns nothing: its money goes back to the client
    BATCH = "batch"
    PAYOUT = "payout"
    REQUEUE = "requeue"
    CLAIM = "claim"
    FEE = "fee"
    VOUCHER = "voucher"  # a client's promise out of its payment channel
    REDEMPTION = "redemption"  # what the channel's contract paid on it
    CLOSE = "close"  # the promise that the operator gave up when both closed the channel
    LOSS = "loss"  # the promise that a closed channel can pay no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One signed change of one account."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One movement of money; applying it twice is the same as once.

    `data` is the signed record behind it (grant body or signed receipt), so that the journal alone can be audited.
    """

    id: str
    kind: EntryKind
    postings: tuple[Posting, ...]
    at: int  # unix seconds
    data: bytes = b""

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= 256:
            raise ValueError("an entry id has 1 to 256 characters")
        if len(self.postings) > POSTINGS_MAX:
            raise ValueError(f"an entry has at most {POSTINGS_MAX} postings")
        total = sum(posting.amount for posting in self.postings)
        if total:
            raise UnbalancedEntryError(self.id, total)

    def digest(self) -> bytes:
        """SHA-256 over the entry without its time: tells a repetition from a conflict."""
        moves = [(posting.account, posting.amount) for posting in self.postings]
        said = sha256(repr((self.id, self.kind.value, moves)).encode())
        said.update(self.data)
        return said.digest()


def client_account(public_key: bytes) -> str:
    """Name the account of a client, by its Ed25519 key."""
    return f"client:{public_key.hex()}"


def hold_account(lease: bytes) -> str:
    """Name the account that holds a lease's money."""
    return f"hold:{lease.hex()}"


def payee_account(payee: bytes) -> str:
    """Name the account of what a TON address has earned and was not yet paid; 33 bytes, 66 hex digits."""
    return f"payee:{payee.hex()}"


def channel_account(channel: bytes) -> str:
    """Name the account of what a payment channel still owes on vouchers, by its account id (32 bytes)."""
    return f"channel:{channel.hex()}"


def settling_account(batch: str) -> str:
    """Name the account of money on its way to payees in one batch."""
    return f"settling:{batch}"


def receipt_entry_id(request_hash: bytes) -> str:
    """Name the entry that pays for a request; there is one for each request hash."""
    return f"receipt:{request_hash.hex()}"


def review_account(request_hash: bytes) -> str:
    """Name the account of what a receipt in review will earn its payee."""
    return f"review:{request_hash.hex()}"


def review_fee_account(request_hash: bytes) -> str:
    """Name the account of the operator's fee in a receipt in review."""
    return f"review:{request_hash.hex()}:fee"


def review_entry_id(request_hash: bytes) -> str:
    """Name the entry that takes a receipt into review."""
    return f"review:{request_hash.hex()}"


def verdict_entry_id(account: bytes, unit: bytes) -> str:
    """Name the entry of an account's verdict on a unit; there is one for each unit."""
    return f"verdict:{account.hex()}:{unit.hex()}"


def move(amount: int, source: str, target: str) -> tuple[Posting, ...]:
    """Return the two postings that take `amount` from one account to another."""
    return (Posting(account=source, amount=-amount), Posting(account=target, amount=amount))


def _fields(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "kind": entry.kind.value,
        "postings": [[posting.account, posting.amount] for posting in entry.postings],
        "data": entry.data.hex(),
    }


def encode_entry(entry: Entry) -> dict[str, Any]:
    """Return the entry as a JSON object."""
    return _fields(entry) | {"at": entry.at}


def parse_entry(fields: dict[str, Any]) -> Entry:
    """Return the entry of a JSON object made by `encode_entry`.

    Raises:
        MalformedRecordError: it is not one.
    """
    try:
        return Entry(
            id=fields["id"],
            kind=EntryKind(fields["kind"]),
            postings=tuple(Posting(account=account, amount=amount) for account, amount in fields["postings"]),
            at=fields["at"],
            data=bytes.fromhex(fields["data"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedRecordError("entry", str(error)) from error
