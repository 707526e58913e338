"""A settlement batch: its payouts, its one signed message, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from billing.money import Nanotons, check_nanotons
from billing.wire import check_size, check_uint

BATCH_MAX = 250  # what the books take; each kind of treasury has its own limit, see `billing.ton.sender`
EXPIRY_MARGIN_S = 60  # chain clocks and ours may differ


class BatchState(StrEnum):
    """How far a batch has come."""

    PLANNED = "planned"
    SIGNED = "signed"
    SENT = "sent"
    ACCEPTED = "accepted"
    CONFIRMED = "confirmed"
    EXPIRED = "expired"


class PayoutState(StrEnum):
    """How far one payout has come: paid or requeued exactly once."""

    OPEN = "open"
    PAID = "paid"
    REQUEUED = "requeued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """One payment of a batch."""

    payee: bytes  # 33
    amount: Nanotons
    state: PayoutState = PayoutState.OPEN

    def __post_init__(self) -> None:
        check_size("payee", self.payee, 33)
        if check_nanotons(self.amount, "payout") == 0:
            raise ValueError("a payout is more than 0 nanoton")


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The Merkle root of an epoch's totals, written to the registry contract with a batch."""

    epoch: int
    root: bytes  # 32

    def __post_init__(self) -> None:
        check_uint("epoch", self.epoch, 32)
        check_size("root", self.root, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMessage:
    """The one message that may ever be sent for a batch."""

    query_id: int  # which of the treasury's messages this is; the treasury executes one of each number
    created_at: int  # unix seconds, inside the signed bytes
    timeout_s: int
    boc: bytes
    message_hash: bytes  # 32
    after_lt: int  # logical time of the wallet's last transaction before the signing; history is read from here

    def __post_init__(self) -> None:
        check_uint("query_id", self.query_id, 23)
        check_uint("created_at", self.created_at, 63)
        check_size("message_hash", self.message_hash, 32)
        if self.timeout_s <= 0 or not self.boc:
            raise ValueError("a signed message has a timeout and bytes")

    @property
    def dead_at(self) -> int:
        """Unix seconds of chain time from which on the message cannot be executed any more."""
        return self.created_at + self.timeout_s + EXPIRY_MARGIN_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One settlement message and its payouts."""

    sequence: int  # 0, 1, 2...
    payouts: tuple[Payout, ...]
    planned_at: int
    state: BatchState = BatchState.PLANNED
    anchor: Anchor | None = None
    message: SignedMessage | None = None
    sent_at: int = 0  # last send, unix seconds
    transaction: bytes = b""  # hash of the wallet's transaction that took the message

    def __post_init__(self) -> None:
        check_uint("sequence", self.sequence, 63)
        if len(self.payouts) > BATCH_MAX or not (self.payouts or self.anchor):
            raise ValueError(f"a batch has 1 to {BATCH_MAX} payouts, or an anchor")
        if len({payout.payee for payout in self.payouts}) != len(self.payouts):
            raise ValueError("a batch pays each payee once")

    @property
    def id(self) -> str:
        """The batch's name in ledger and journal."""
        return f"{self.sequence:08d}"

    @property
    def amount(self) -> Nanotons:
        """The sum of all payouts."""
        return Nanotons(sum(payout.amount for payout in self.payouts))

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.state in {BatchState.CONFIRMED, BatchState.EXPIRED}
