"""What payees have earned, been paid and wait for. Pure, rebuilt from entries alone.

A payout moves from its payee to its batch, and leaves it once: to the chain, or back to the payee where it is proved
never to happen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from billing.batch import Batch
from billing.entries import TREASURY, Entry, EntryKind, Posting, move, payee_account, settling_account
from billing.errors import UnknownPayoutError
from billing.money import Nanotons, check_nanotons
from billing.totals import PayeeTotal

PAYEE_SIZE = 33
_PAYEE = "payee:"


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenPayout:
    amount: Nanotons
    since: int


def batch_entry(batch: Batch, *, now: int) -> Entry:
    """Move every payout of a batch from its payee to the batch."""
    postings = [Posting(account=payee_account(p.payee), amount=-p.amount) for p in batch.payouts]
    postings.append(Posting(account=settling_account(batch.id), amount=batch.amount))
    payees = b"".join(payout.payee for payout in batch.payouts)
    return Entry(id=f"batch:{batch.id}", kind=EntryKind.BATCH, postings=tuple(postings), at=now, data=payees)


def claim_entry(claim: str, payee: bytes, amount: int, *, now: int) -> Entry:
    """What a payee took from the treasury by claim."""
    postings = move(check_nanotons(amount, "claim"), payee_account(payee), TREASURY)
    return Entry(id=f"claim:{claim}", kind=EntryKind.CLAIM, postings=postings, at=now, data=payee)


def outcome_entry(batch: Batch, payee: bytes, *, paid: bool, now: int) -> Entry:
    """The end of one payout of a batch: it left the treasury, or goes back to its payee.

    Raises:
        UnknownPayoutError: the batch has none for this payee.
    """
    amount = next((p.amount for p in batch.payouts if p.payee == payee), None)
    if amount is None:
        raise UnknownPayoutError(batch.id, payee.hex())
    kind, target = (EntryKind.PAYOUT, TREASURY) if paid else (EntryKind.REQUEUE, payee_account(payee))
    postings = move(amount, settling_account(batch.id), target)
    return Entry(id=f"{kind.value}:{batch.id}:{payee.hex()}", kind=kind, postings=postings, at=now, data=payee)


class PayoutBook:
    """All payees and payouts. `record` takes what is about to be applied, `follow` what was, with the new balance."""

    def __init__(self) -> None:
        self._since: dict[bytes, int] = {}
        self._open: dict[tuple[str, bytes], _OpenPayout] = {}
        self._earned: defaultdict[bytes, int] = defaultdict(int)
        self._paid: defaultdict[bytes, int] = defaultdict(int)

    def waiting(self) -> Iterator[tuple[bytes, int]]:
        """Yield every payee with money to come that is not in a batch yet, and since when, unix seconds."""
        yield from self._since.items()

    def earned(self, payee: bytes) -> Nanotons:
        """Return what a payee (33 bytes) has earned in all, paid or not."""
        return Nanotons(self._earned.get(payee, 0))

    def totals(self) -> tuple[PayeeTotal, ...]:
        """Return what every payee has earned and was paid, in payee order: the leaves of the anchor."""
        return tuple(
            PayeeTotal(payee=payee, earned=earned, paid=self._paid.get(payee, 0))
            for payee, earned in sorted(self._earned.items())
        )

    def check_open(self, batch: str, payee: bytes) -> None:
        """UnknownPayoutError when a batch has no payout under way to this payee."""
        if (batch, payee) not in self._open:
            raise UnknownPayoutError(batch, payee.hex())

    def earn(self, payee: bytes, amount: int) -> None:
        """A receipt pays this, nanotons."""
        self._earned[payee] += amount

    def record(self, entry: Entry) -> None:
        """Take a batch, the end of a payout, or a claim."""
        if entry.kind is EntryKind.BATCH:
            self._record_batch(entry)
        elif entry.kind is EntryKind.CLAIM:
            self._paid[entry.data] += sum(part.amount for part in entry.postings if part.account == TREASURY)
        else:
            self._record_outcome(entry)

    def follow(self, account: str, balance: int, *, at: int) -> None:
        """An account has another balance: note since when a payee waits, or that it does no more."""
        if not account.startswith(_PAYEE):
            return
        payee = bytes.fromhex(account.removeprefix(_PAYEE))
        if balance > 0:
            self._since.setdefault(payee, at)
        else:
            self._since.pop(payee, None)

    def _record_batch(self, entry: Entry) -> None:
        batch, payees = entry.id.removeprefix("batch:"), entry.data
        split = (payees[i : i + PAYEE_SIZE] for i in range(0, len(payees), PAYEE_SIZE))
        for payee, posting in zip(split, entry.postings, strict=False):
            amount = Nanotons(-posting.amount)
            self._open[batch, payee] = _OpenPayout(amount=amount, since=self._since.get(payee, entry.at))

    def _record_outcome(self, entry: Entry) -> None:
        _, batch, _ = entry.id.split(":")
        self.check_open(batch, entry.data)
        payout = self._open.pop((batch, entry.data))
        if entry.kind is EntryKind.PAYOUT:
            self._paid[entry.data] += payout.amount
        else:
            self._since[entry.data] = min(payout.since, self._since.get(entry.data, payout.since))
