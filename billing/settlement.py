"""Settlement: which payees are paid in which batch, and the life of a batch until the chain has paid it.

    planned --Signed--> signed --Sent--> sent --Accepted--> accepted --Delivered--> confirmed
       |                  |               |
       +-- void ----------+-- NotProcessed (proved) --> expired

Pure. A shell performs the actions of `next_actions(batch, now)` and feeds what it found back through `step`; every new
batch value is durable before the next action is performed (`billing.books.Books.advance` does that, together with the
ledger entries). Rules that keep a payee from being paid twice:

- the signed message is stored before its first send, and only those bytes are ever sent again;
- a batch is signed only when no other one is under way, under the number after the last one the treasury took (a
  highload wallet's query id, a vault's seqno); of all messages of one number, also those that another copy of the books
  signed, the treasury executes at most one;
- a batch is given up only when the chain's own time is past the message's life plus a margin, or the treasury's proved
  state can never take the message again, *and* the treasury's whole history since the signing was read with proofs and
  does not contain the message; one that was never signed may be given up at any time;
- a payout whose out-message is missing from the proved transaction goes back to its payee and into a later batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from billing.batch import BATCH_MAX, Anchor, Batch, BatchState, Payout, PayoutState, SignedMessage
from billing.errors import PrematureExpiryError, WrongBatchStateError
from billing.money import Nanotons, check_nanotons
from billing.wire import check_size

DEFAULT_THRESHOLD = Nanotons(500_000_000)  # a fee of 0.001 TON is then 0.2 %
DEFAULT_DUST = Nanotons(10_000_000)  # below ten times the fee a payout is waste


@dataclass(frozen=True, slots=True, kw_only=True)
class Payable:
    """What a payee has earned and not been paid."""

    payee: bytes  # 33
    amount: Nanotons
    since: int  # unix seconds of the oldest unpaid receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementPolicy:
    """When a payee is paid: enough is owed, or it waits long enough and is no dust."""

    threshold: Nanotons = DEFAULT_THRESHOLD
    max_age_s: int = 86_400
    dust: Nanotons = DEFAULT_DUST
    batch_max: int = BATCH_MAX

    def __post_init__(self) -> None:
        check_nanotons(self.threshold, "threshold")
        check_nanotons(self.dust, "dust")
        if not 1 <= self.batch_max <= BATCH_MAX:
            raise ValueError(f"batch_max must be 1 to {BATCH_MAX}, got {self.batch_max}")

    def is_due(self, payable: Payable, now: int) -> bool:
        """Tell whether the payee is to be paid at unix time `now`."""
        if payable.amount <= 0:
            return False
        aged = payable.amount >= self.dust and now - payable.since >= self.max_age_s
        return payable.amount >= self.threshold or aged


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The message was signed."""

    message: SignedMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The message was handed to a lite-server, whatever came back."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A proved transaction of the wallet took the message."""

    transaction: bytes  # 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The proved transaction that pays was read to its end: it sent exactly these payouts (indices), no others."""

    paid: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotProcessed:
    """The wallet's history was read with proofs, and the message is not in it."""

    chain_time: int  # unix seconds of the proved masterchain state the reading started from
    read_from_lt: int  # logical time down to which every transaction was read
    void: bool = False  # the treasury's proved state refuses the message for ever, or it was never signed


Event: TypeAlias = Signed | Sent | Accepted | Delivered | NotProcessed


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Sign the batch under the query id of its sequence; feed back `Signed`."""

    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send exactly these bytes; feed back `Sent`, also when the outcome is unknown."""

    boc: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """Read the wallet's history since `message.after_lt`; feed back `Accepted`, or `NotProcessed` past `dead_at`."""

    message: SignedMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect:
    """Read the out-messages of the transaction that pays; feed back `Delivered`, or nothing while it is missing."""

    batch: Batch


Action: TypeAlias = Sign | Send | Find | Inspect


def plan_batches(
    payables: Iterable[Payable],
    policy: SettlementPolicy,
    *,
    now: int,
    first_sequence: int,
    anchor: Anchor | None = None,
) -> tuple[Batch, ...]:
    """Return the batches that pay everyone due at unix time `now`, largest debts first; the anchor rides on the first.

    With nobody due and an anchor given, one batch carries the anchor alone.
    """
    due = sorted((p for p in payables if policy.is_due(p, now)), key=lambda p: (-p.amount, p.payee))
    payouts = [Payout(payee=p.payee, amount=p.amount) for p in due]
    groups = [payouts[i : i + policy.batch_max] for i in range(0, len(payouts), policy.batch_max)]
    if not groups and anchor is not None:
        groups = [[]]
    return tuple(
        Batch(
            sequence=first_sequence + i,
            payouts=tuple(group),
            planned_at=now,
            anchor=anchor if i == 0 else None,
        )
        for i, group in enumerate(groups)
    )


def step(batch: Batch, event: Event) -> Batch:
    """Return the batch after `event`. An event that only repeats what is known returns the batch unchanged.

    Raises:
        WrongBatchStateError: the event does not fit the state.
        PrematureExpiryError: `NotProcessed` does not prove that the message is dead.
        ValueError: `Delivered` names a payout that does not exist.
    """
    match event:
        case Signed():
            return _on_signed(batch, event)
        case Sent():
            return _on_sent(batch, event)
        case Accepted():
            return _on_accepted(batch, event)
        case Delivered():
            return _on_delivered(batch, event)
        case NotProcessed():
            return _on_not_processed(batch, event)


def next_actions(batch: Batch, *, now: int, resend_after_s: int = 10) -> tuple[Action, ...]:
    """Return what a shell has to do for the batch at unix time `now`; also all that a restart needs.

    A signed message is first looked for (a crash may have come between send and note), then sent. Nothing is sent once
    the message's life is over.
    """
    if batch.state is BatchState.PLANNED:
        return (Sign(batch=batch),)
    if batch.state is BatchState.ACCEPTED:
        return (Inspect(batch=batch),)
    if batch.finished or batch.message is None:
        return ()
    alive = now < batch.message.created_at + batch.message.timeout_s
    due = batch.state is BatchState.SIGNED or now - batch.sent_at >= resend_after_s
    find = Find(message=batch.message)
    return (find, Send(boc=batch.message.boc)) if alive and due else (find,)


_WAITING = frozenset({BatchState.SIGNED, BatchState.SENT})


def _on_signed(batch: Batch, event: Signed) -> Batch:
    if event.message == batch.message:
        return batch
    _check_state(batch, event, frozenset({BatchState.PLANNED}))
    return replace(batch, state=BatchState.SIGNED, message=event.message)


def _on_sent(batch: Batch, event: Sent) -> Batch:
    _check_state(batch, event, _WAITING)
    return replace(batch, state=BatchState.SENT, sent_at=max(event.at, batch.sent_at))


def _on_accepted(batch: Batch, event: Accepted) -> Batch:
    check_size("transaction", event.transaction, 32)
    if event.transaction == batch.transaction:
        return batch
    _check_state(batch, event, _WAITING)
    return replace(batch, state=BatchState.ACCEPTED, transaction=event.transaction)


def _on_delivered(batch: Batch, event: Delivered) -> Batch:
    closed = _close(batch.payouts, event.paid)
    if batch.state is BatchState.CONFIRMED and closed == batch.payouts:
        return batch
    _check_state(batch, event, frozenset({BatchState.ACCEPTED}))
    return replace(batch, state=BatchState.CONFIRMED, payouts=closed)


def _on_not_processed(batch: Batch, event: NotProcessed) -> Batch:
    if batch.state is BatchState.EXPIRED:
        return batch
    _check_state(batch, event, _WAITING | {BatchState.PLANNED} if event.void else _WAITING)
    _check_dead(batch, event)
    return replace(batch, state=BatchState.EXPIRED, payouts=_close(batch.payouts, frozenset()))


def _check_state(batch: Batch, event: Event, allowed: frozenset[BatchState]) -> None:
    if batch.state not in allowed:
        raise WrongBatchStateError(batch.id, batch.state.value, type(event).__name__)


def _close(payouts: Sequence[Payout], paid: frozenset[int]) -> tuple[Payout, ...]:
    if not paid <= set(range(len(payouts))):
        raise ValueError(f"delivered payouts {sorted(paid)} are not all below {len(payouts)}")
    return tuple(
        replace(payout, state=PayoutState.PAID if i in paid else PayoutState.REQUEUED)
        for i, payout in enumerate(payouts)
    )


def _check_dead(batch: Batch, proof: NotProcessed) -> None:
    message = batch.message
    if message is None:  # nothing was ever signed
        return
    if not proof.void and proof.chain_time <= message.dead_at:
        raise PrematureExpiryError(batch.id, f"chain time {proof.chain_time}, dead only after {message.dead_at}")
    if proof.read_from_lt > message.after_lt:
        raise PrematureExpiryError(batch.id, f"history read from lt {proof.read_from_lt}, needed {message.after_lt}")
