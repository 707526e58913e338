"""The double-entry ledger: decides which money may move, and applies what was decided.

Pure: `plan_*` checks and returns an `Entry` or raises; `apply` changes the state; nothing touches a clock or a file.
Every plan is idempotent by its id: asked again for something already applied it returns the same entry, and applying
that changes nothing. After each entry: the sum over all accounts is 0, and no account that owes somebody is negative.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from billing.batch import Batch
from billing.bill import check_terms
from billing.channel_book import ChannelBook
from billing.entries import (
    CHAIN_FEES,
    OPERATOR_CAPITAL,
    OPERATOR_FEES,
    TREASURY,
    Entry,
    EntryKind,
    Posting,
    client_account,
    hold_account,
    move,
    payee_account,
    receipt_entry_id,
    review_entry_id,
    settling_account,
)
from billing.errors import (
    EntryConflictError,
    InsufficientFundsError,
    LeaseClosedError,
    LeaseExpiredError,
    LeaseOpenError,
    OverdraftError,
    ReceiptConflictError,
    SliceExceededError,
    UnknownLeaseError,
    UnknownPayoutError,
    VerdictConflictError,
)
from billing.grant import ANSWER_GRACE_S, Grant, encode_grant, parse_grant_body
from billing.money import Nanotons, check_nanotons
from billing.receipt import Receipt, parse_receipt
from billing.review_book import ReviewBook, plan_outcome, verdict_entry
from billing.settlement import Payable
from billing.tariff import operator_fee
from billing.totals import PayeeTotal
from billing.verdict import UnitVerdict

RELEASE_GRACE_S = ANSWER_GRACE_S + 60  # after a lease's end: running answers, then a minute for receipts to come
_GUARDED = ("client:", "hold:", "review:", "payee:", "settling:", "operator:")  # these may not go below zero


@dataclass(slots=True, kw_only=True)
class Lease:
    """One hold: what was granted, and what each host has earned of its slice."""

    grant: Grant
    spent: dict[bytes, int] = field(default_factory=dict)
    released: Nanotons | None = None  # what went back to the client, once the hold has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenPayout:
    amount: Nanotons
    since: int


class Ledger:
    """Balances, leases and payouts, rebuilt from entries alone."""

    def __init__(self) -> None:
        self._balances: defaultdict[str, int] = defaultdict(int)
        self._applied: dict[str, bytes] = {}
        self._leases: dict[bytes, Lease] = {}
        self._lessees: set[bytes] = set()  # accounts of all leases
        self._open: dict[bytes, Lease] = {}  # those of them whose hold has not ended
        self._fees: dict[str, int] = {}  # receipt entry id -> operator's fee in it
        self._since: dict[bytes, int] = {}
        self._payouts: dict[tuple[str, bytes], _OpenPayout] = {}
        self._earned: defaultdict[bytes, int] = defaultdict(int)
        self._paid: defaultdict[bytes, int] = defaultdict(int)
        self._planned: tuple[bytes, Receipt | None] = b"", None  # the last receipt planned: it is mostly applied next
        self.channels = ChannelBook()
        self.reviews = ReviewBook()

    @classmethod
    def replay(cls, entries: Iterable[Entry]) -> Ledger:
        """Return the ledger after `entries`, in order."""
        ledger = cls()
        for entry in entries:
            ledger.apply(entry)
        return ledger

    # --- reading -----------------------------------------------------------------------------------------------

    def balance(self, account: str) -> int:
        """Return an account's balance, nanotons; 0 for one never used. Treasury and chain fees are negative."""
        return self._balances.get(account, 0)

    def balances(self) -> Mapping[str, int]:
        """Return all balances that are not 0, read-only."""
        return MappingProxyType(self._balances)

    def available(self, account: bytes) -> Nanotons:
        """Return what a client can still place holds with."""
        return Nanotons(self.balance(client_account(account)))

    def treasury(self) -> int:
        """Return what the operator's wallet must hold on the chain, nanotons."""
        return -self.balance(TREASURY)

    def imbalance(self) -> int:
        """Return the sum over all accounts: always 0."""
        return sum(self._balances.values())

    def is_paid(self, request_hash: bytes) -> bool:
        """Tell whether a receipt was posted for this request and earns its payee money."""
        return receipt_entry_id(request_hash) in self._applied

    def lease(self, lease: bytes) -> Lease:
        """Return a lease's state.

        Raises:
            UnknownLeaseError: no hold was placed for it.
        """
        if lease not in self._leases:
            raise UnknownLeaseError(lease.hex())
        return self._leases[lease]

    def releasable(self, now: int, *, grace_s: int = RELEASE_GRACE_S) -> Iterator[bytes]:
        """Yield the leases whose holds may end at unix time `now`."""
        for lease, state in self._open.items():
            if now >= state.grant.not_after + grace_s:
                yield lease

    def is_client(self, account: bytes) -> bool:
        """Tell whether an account (32 bytes) has money here, or ever held some for a lease."""
        return account in self._lessees or self.available(account) > 0

    def payables(self) -> tuple[Payable, ...]:
        """Return every payee with money to come that is not in a batch yet."""
        return tuple(
            Payable(payee=payee, amount=Nanotons(self.balance(payee_account(payee))), since=since)
            for payee, since in self._since.items()
        )

    def earned(self, payee: bytes) -> Nanotons:
        """Return what a payee (33 bytes) has earned in all, paid or not."""
        return Nanotons(self._earned.get(payee, 0))

    def totals(self) -> tuple[PayeeTotal, ...]:
        """Return what every payee has earned and was paid, in payee order: the leaves of the anchor."""
        return tuple(PayeeTotal(payee=p, earned=self._earned[p], paid=self._paid[p]) for p in sorted(self._earned))

    def has(self, entry: Entry) -> bool:
        """Tell whether this very entry was applied.

        Raises:
            EntryConflictError: its id was applied with other content.
        """
        known = self._applied.get(entry.id)
        if known is not None and known != entry.digest():
            raise EntryConflictError(entry.id)
        return known is not None

    # --- planning: money in -------------------------------------------------------------------------------------

    def plan_deposit(self, deposit: str, account: bytes, amount: int, *, now: int) -> Entry:
        """Credit a client with a transfer proved on the chain; `deposit` names the transaction (lt and hash)."""
        return self._plan(f"deposit:{deposit}", EntryKind.DEPOSIT, amount, (TREASURY, client_account(account)), now)

    def plan_funding(self, funding: str, amount: int, *, now: int) -> Entry:
        """Book money that reached the treasury without naming a client: the operator's own."""
        return self._plan(f"funding:{funding}", EntryKind.FUNDING, amount, (TREASURY, OPERATOR_CAPITAL), now)

    def plan_fee(self, fee: str, amount: int, *, now: int) -> Entry:
        """Book what one treasury transaction cost on the chain; `fee` names the transaction."""
        return self._plan(f"fee:{fee}", EntryKind.FEE, amount, (CHAIN_FEES, TREASURY), now)

    # --- planning: leases ---------------------------------------------------------------------------------------

    def plan_hold(self, grant: Grant, *, now: int) -> Entry:
        """Move the sum of the grant's slices from the client to the lease's hold.

        Raises:
            LeaseExpiredError: the grant is over before it starts.
            InsufficientFundsError: the client has less than that.
            EntryConflictError: the lease id was used for another grant.
        """
        source = client_account(grant.account)
        entry = Entry(
            id=hold_account(grant.lease),
            kind=EntryKind.HOLD,
            postings=move(grant.amount, source, hold_account(grant.lease)),
            at=now,
            data=encode_grant(grant),
        )
        if self.has(entry):
            return entry
        if grant.not_after <= now:
            raise LeaseExpiredError(grant.lease.hex(), grant.not_after, now)
        if self.balance(source) < grant.amount:
            raise InsufficientFundsError(source, self.balance(source), grant.amount)
        return entry

    def plan_receipt(self, receipt: Receipt, *, signed: bytes, fee_permille: int, now: int) -> Entry:
        """Pay a host's payee, less the operator's fee, out of the lease's hold; of a reviewed lease, into review.

        The caller has verified the signature with the host's attested receipt key (`billing.books` does).

        Args:
            receipt: the verified receipt.
            signed: its signed bytes, kept as the entry's proof.
            fee_permille: the operator's share in thousandths of the price, rounded down.
            now: unix seconds.

        Raises:
            ReceiptConflictError: another receipt was posted for the same request.
            UnknownLeaseError, LeaseClosedError: there is no open hold.
            ReceiptMismatchError: account, model or host is not the lease's.
            PriceMismatchError: usage and tariff give another price.
            SliceExceededError: the host's slice is used up.
        """
        lease = self._leases.get(receipt.lease)
        review = lease is not None and lease.grant.review
        names = receipt_entry_id(receipt.request_hash), review_entry_id(receipt.request_hash)
        entry_id, other = reversed(names) if review else names
        fee = Nanotons(self._fees.get(entry_id, operator_fee(receipt.price, fee_permille)))
        if review:
            entry = self.reviews.plan_review(receipt, signed, fee, now=now)
        else:
            entry = _receipt_entry(entry_id, receipt, signed, fee, now)
        try:
            if self.has(entry):
                return entry
        except EntryConflictError as error:
            raise ReceiptConflictError(receipt.request_hash.hex()) from error
        if other in self._applied:
            raise ReceiptConflictError(receipt.request_hash.hex())
        self._check_receipt(receipt)
        self._planned = signed, receipt
        return entry

    def plan_release(self, lease: bytes, *, now: int, grace_s: int = RELEASE_GRACE_S) -> Entry:
        """End a hold: what no receipt used goes back to the client.

        Raises:
            UnknownLeaseError: there is no such hold.
            LeaseOpenError: `grace_s` seconds after the lease's end have not passed.
        """
        state = self.lease(lease)
        hold, target = hold_account(lease), client_account(state.grant.account)
        rest = self.balance(hold) if state.released is None else state.released
        if state.released is None and now < state.grant.not_after + grace_s:
            raise LeaseOpenError(lease.hex(), state.grant.not_after + grace_s)
        return Entry(
            id=f"release:{lease.hex()}", kind=EntryKind.RELEASE, postings=move(rest, hold, target), at=now, data=lease
        )

    # --- planning: reviews --------------------------------------------------------------------------------------

    def plan_verdict(self, verdict: UnitVerdict, signed: bytes, *, now: int) -> tuple[Entry, ...]:
        """Plan a verdict, verified before, with what it does to receipts in review.

        Raises:
            VerdictConflictError: the unit has another verdict.
            LedgerError: as `ReviewBook.plan_verdict`.
        """
        entry = verdict_entry(verdict, signed, now=now)
        try:
            if self.has(entry):
                return (entry,)
        except EntryConflictError as error:
            raise VerdictConflictError(verdict.unit.hex()) from error
        return (entry, *self.reviews.plan_verdict(verdict, now=now))

    def plan_review_ends(self, *, now: int) -> tuple[Entry, ...]:
        """Pay the receipts whose time in review is over at unix time `now`."""
        return tuple(plan_outcome(review, credited=True, now=now) for review in self.reviews.due(now))

    # --- planning: settlement -----------------------------------------------------------------------------------

    def plan_batch(self, batch: Batch, *, now: int) -> Entry:
        """Move every payout of a batch from its payee to the batch.

        Raises:
            InsufficientFundsError: a payee is owed less than its payout.
        """
        settling = settling_account(batch.id)
        postings = [Posting(account=payee_account(p.payee), amount=-p.amount) for p in batch.payouts]
        postings.append(Posting(account=settling, amount=batch.amount))
        entry = Entry(
            id=f"batch:{batch.id}",
            kind=EntryKind.BATCH,
            postings=tuple(postings),
            at=now,
            data=b"".join(payout.payee for payout in batch.payouts),
        )
        if not self.has(entry):
            for payout in batch.payouts:
                owed = self.balance(payee_account(payout.payee))
                if owed < payout.amount:
                    raise InsufficientFundsError(payee_account(payout.payee), owed, payout.amount)
        return entry

    def plan_payout(self, batch: Batch, payee: bytes, *, now: int) -> Entry:
        """Book that a payout of `batch` left the treasury, proved on the chain."""
        return self._plan_outcome(batch, payee, EntryKind.PAYOUT, TREASURY, now)

    def plan_requeue(self, batch: Batch, payee: bytes, *, now: int) -> Entry:
        """Give a payout of `batch` that is proved never to happen back to its payee."""
        return self._plan_outcome(batch, payee, EntryKind.REQUEUE, payee_account(payee), now)

    def plan_claim(self, claim: str, payee: bytes, amount: int, *, now: int) -> Entry:
        """Book what a payee took from the treasury by claim; `claim` names the transaction (lt and hash)."""
        postings = move(check_nanotons(amount, "claim"), payee_account(payee), TREASURY)
        entry = Entry(id=f"claim:{claim}", kind=EntryKind.CLAIM, postings=postings, at=now, data=payee)
        self.has(entry)
        return entry

    # --- applying -----------------------------------------------------------------------------------------------

    def apply(self, entry: Entry, *, covered: bool = False) -> None:
        """Change the books by `entry`; nothing happens if it was applied before.

        Args:
            entry: planned by this ledger, or read from its journal.
            covered: `check_cover` allowed it just now, and need not be asked again.

        Raises:
            EntryConflictError: its id was applied with other content.
            OverdraftError: an account that owes somebody would go below zero; nothing is changed.
        """
        if self.has(entry):
            return
        if not covered:
            self.check_cover(entry)
        record = _RECORDERS.get(entry.kind)
        if record is not None:
            record(self, entry)
        for posting in entry.postings:
            self._balances[posting.account] += posting.amount
            if not self._balances[posting.account]:  # every lease and batch has an account: keep those with money
                del self._balances[posting.account]
        self._applied[entry.id] = entry.digest()
        self._update_since(entry)

    def check_cover(self, *entries: Entry) -> None:
        """Check that `entries`, applied in this order, leave no account below zero that may not be.

        Raises:
            OverdraftError: one would.
        """
        after: dict[str, int] = {}
        before = self._balances
        for entry in entries:
            for posting in entry.postings:
                account = posting.account
                after[account] = (after[account] if account in after else before.get(account, 0)) + posting.amount
            for posting in entry.postings:
                if after[posting.account] < 0 and posting.account.startswith(_GUARDED):
                    raise OverdraftError(entry.id, posting.account, after[posting.account])

    def _plan(self, entry_id: str, kind: EntryKind, amount: int, way: tuple[str, str], now: int) -> Entry:
        entry = Entry(id=entry_id, kind=kind, postings=move(check_nanotons(amount, kind.value), *way), at=now)
        self.has(entry)
        return entry

    def _plan_outcome(self, batch: Batch, payee: bytes, kind: EntryKind, target: str, now: int) -> Entry:
        amount = next((p.amount for p in batch.payouts if p.payee == payee), None)
        if amount is None:
            raise UnknownPayoutError(batch.id, payee.hex())
        entry = Entry(
            id=f"{kind.value}:{batch.id}:{payee.hex()}",
            kind=kind,
            postings=move(amount, settling_account(batch.id), target),
            at=now,
            data=payee,
        )
        if not self.has(entry) and (batch.id, payee) not in self._payouts:
            raise UnknownPayoutError(batch.id, payee.hex())
        return entry

    def _check_receipt(self, receipt: Receipt) -> None:
        state = self.lease(receipt.lease)
        grant = state.grant
        if state.released is not None:
            raise LeaseClosedError(receipt.lease.hex())
        host = check_terms(receipt, grant)
        left = host.slice - state.spent.get(receipt.host_id, 0)
        if receipt.price > left:
            raise SliceExceededError(receipt.host_id.hex(), left, receipt.price)

    def _record_hold(self, entry: Entry) -> None:
        grant = parse_grant_body(entry.data)
        self._leases[grant.lease] = self._open[grant.lease] = Lease(grant=grant)
        self._lessees.add(grant.account)

    def _record_receipt(self, entry: Entry) -> None:
        signed, receipt = self._planned
        if receipt is None or signed is not entry.data:
            receipt = parse_receipt(entry.data)
        if not self.reviews.credit(receipt.request_hash):
            self._record_spent(receipt)
        fee = sum(posting.amount for posting in entry.postings if posting.account == OPERATOR_FEES)
        self._fees[entry.id] = fee
        self._earned[receipt.payee] += receipt.price - fee

    def _record_spent(self, receipt: Receipt) -> None:
        spent = self.lease(receipt.lease).spent
        spent[receipt.host_id] = spent.get(receipt.host_id, 0) + receipt.price

    def _record_review(self, entry: Entry) -> None:
        if entry.kind is EntryKind.REVIEW:
            self._record_spent(parse_receipt(entry.data))
            self._fees[entry.id] = entry.postings[-1].amount
        self.reviews.record(entry)

    def _record_release(self, entry: Entry) -> None:
        state = self.lease(entry.data)
        state.released = Nanotons(self.balance(hold_account(entry.data)))
        state.spent.clear()
        self._open.pop(entry.data, None)

    def _record_batch(self, entry: Entry) -> None:
        batch = entry.id.removeprefix("batch:")
        for payee, posting in zip(_split_payees(entry.data), entry.postings, strict=False):
            amount = Nanotons(-posting.amount)
            self._payouts[batch, payee] = _OpenPayout(amount=amount, since=self._since.get(payee, entry.at))

    def _record_outcome(self, entry: Entry) -> None:
        _, batch, _ = entry.id.split(":")
        payout = self._payouts.pop((batch, entry.data), None)
        if payout is None:
            raise UnknownPayoutError(batch, entry.data.hex())
        if entry.kind is EntryKind.PAYOUT:
            self._paid[entry.data] += payout.amount
        else:
            self._since[entry.data] = min(payout.since, self._since.get(entry.data, payout.since))

    def _record_claim(self, entry: Entry) -> None:
        self._paid[entry.data] += sum(posting.amount for posting in entry.postings if posting.account == TREASURY)

    def _record_channel(self, entry: Entry) -> None:
        self.channels.record(entry)

    def _update_since(self, entry: Entry) -> None:
        for posting in entry.postings:
            if not posting.account.startswith("payee:"):
                continue
            payee = bytes.fromhex(posting.account.removeprefix("payee:"))
            if self.balance(posting.account) > 0:
                self._since.setdefault(payee, entry.at)
            else:
                self._since.pop(payee, None)


_RECORDERS = {
    EntryKind.HOLD: Ledger._record_hold,
    EntryKind.RECEIPT: Ledger._record_receipt,
    EntryKind.REVIEW: Ledger._record_review,
    EntryKind.VERDICT: Ledger._record_review,
    EntryKind.REFUSAL: Ledger._record_review,
    EntryKind.RELEASE: Ledger._record_release,
    EntryKind.BATCH: Ledger._record_batch,
    EntryKind.PAYOUT: Ledger._record_outcome,
    EntryKind.REQUEUE: Ledger._record_outcome,
    EntryKind.CLAIM: Ledger._record_claim,
    EntryKind.VOUCHER: Ledger._record_channel,
    EntryKind.REDEMPTION: Ledger._record_channel,
    EntryKind.CLOSE: Ledger._record_channel,
    EntryKind.LOSS: Ledger._record_channel,
}


def _receipt_entry(entry_id: str, receipt: Receipt, signed: bytes, fee: int, now: int) -> Entry:
    parts = (
        Posting(account=hold_account(receipt.lease), amount=-receipt.price),
        Posting(account=payee_account(receipt.payee), amount=receipt.price - fee),
        Posting(account=OPERATOR_FEES, amount=fee),
    )
    return Entry(id=entry_id, kind=EntryKind.RECEIPT, postings=parts, at=now, data=signed)


def _split_payees(data: bytes) -> list[bytes]:
    return [data[i : i + 33] for i in range(0, len(data), 33)]
