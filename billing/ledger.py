"""The double-entry ledger: decides which money may move, and applies what was decided.

Pure: `plan_*` checks and returns an `Entry` or raises; `apply` changes the state; nothing touches a clock or a file.
Every plan is idempotent by its id: asked again for something already applied it returns the same entry, and applying
that changes nothing. After each entry: the sum over all accounts is 0, and no account that owes somebody is negative.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from billing.batch import Batch
from billing.channel_book import ChannelBook
from billing.entries import (
    CHAIN_FEES,
    OPERATOR_CAPITAL,
    OPERATOR_FEES,
    TREASURY,
    Entry,
    EntryKind,
    client_account,
    hold_account,
    move,
    payee_account,
    receipt_entry_id,
    review_entry_id,
)
from billing.errors import (
    EntryConflictError,
    InsufficientFundsError,
    LeaseExpiredError,
    OverdraftError,
    ReceiptConflictError,
    VerdictConflictError,
)
from billing.grant import Grant
from billing.hold_book import RELEASE_GRACE_S, HoldBook, Lease, hold_entry, receipt_entry
from billing.money import Nanotons, check_nanotons
from billing.payout_book import PayoutBook, batch_entry, claim_entry, outcome_entry
from billing.receipt import Receipt, parse_receipt
from billing.review_book import ReviewBook, plan_outcome, verdict_entry
from billing.settlement import Payable
from billing.tallies import TallyBook
from billing.tariff import operator_fee
from billing.totals import PayeeTotal
from billing.verdict import UnitVerdict

_GUARDED = ("client:", "hold:", "review:", "payee:", "settling:", "operator:")  # these may not go below zero


class Ledger:
    """Balances, leases and payouts, rebuilt from entries alone."""

    def __init__(self) -> None:
        self._balances: defaultdict[str, int] = defaultdict(int)
        self._applied: dict[str, bytes] = {}
        self._fees: dict[str, int] = {}  # receipt entry id -> operator's fee in it
        self._planned: tuple[bytes, Receipt | None] = b"", None  # the last receipt planned: it is mostly applied next
        self._holds = HoldBook()
        self._payouts = PayoutBook()
        self.channels = ChannelBook()
        self.reviews = ReviewBook()
        self.tallies = TallyBook()

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
        return self._holds.lease(lease)

    def releasable(self, now: int, *, grace_s: int = RELEASE_GRACE_S) -> Iterator[bytes]:
        """Return the leases whose holds may end at unix time `now`."""
        return self._holds.releasable(now, grace_s=grace_s)

    def is_client(self, account: bytes) -> bool:
        """Tell whether an account (32 bytes) has money here, or ever held some for a lease."""
        return self._holds.is_lessee(account) or self.available(account) > 0

    def payables(self) -> tuple[Payable, ...]:
        """Return every payee with money to come that is not in a batch yet."""
        return tuple(
            Payable(payee=payee, amount=Nanotons(self.balance(payee_account(payee))), since=since)
            for payee, since in self._payouts.waiting()
        )

    def earned(self, payee: bytes) -> Nanotons:
        """Return what a payee (33 bytes) has earned in all, paid or not."""
        return self._payouts.earned(payee)

    def totals(self) -> tuple[PayeeTotal, ...]:
        """Return what every payee has earned and was paid, in payee order: the leaves of the anchor."""
        return self._payouts.totals()

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
        entry = hold_entry(grant, now=now)
        if self.has(entry):
            return entry
        if grant.not_after <= now:
            raise LeaseExpiredError(grant.lease.hex(), grant.not_after, now)
        if self.available(grant.account) < grant.amount:
            raise InsufficientFundsError(client_account(grant.account), self.available(grant.account), grant.amount)
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
        lease = self._holds.find(receipt.lease)
        review = lease is not None and lease.grant.review
        names = receipt_entry_id(receipt.request_hash), review_entry_id(receipt.request_hash)
        entry_id, other = reversed(names) if review else names
        fee = Nanotons(self._fees.get(entry_id, operator_fee(receipt.price, fee_permille)))
        if review:
            entry = self.reviews.plan_review(receipt, signed, fee, now=now)
        else:
            entry = receipt_entry(entry_id, receipt, signed, fee, now=now)
        try:
            if self.has(entry):
                return entry
        except EntryConflictError as error:
            raise ReceiptConflictError(receipt.request_hash.hex()) from error
        if other in self._applied:
            raise ReceiptConflictError(receipt.request_hash.hex())
        self._holds.check_receipt(receipt)
        self._planned = signed, receipt
        return entry

    def plan_release(self, lease: bytes, *, now: int, grace_s: int = RELEASE_GRACE_S) -> Entry:
        """End a hold: what no receipt used goes back to the client.

        Raises:
            UnknownLeaseError: there is no such hold.
            LeaseOpenError: `grace_s` seconds after the lease's end have not passed.
        """
        return self._holds.plan_release(lease, self.balance(hold_account(lease)), now=now, grace_s=grace_s)

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
        entry = batch_entry(batch, now=now)
        if not self.has(entry):
            for payout in batch.payouts:
                owed = self.balance(payee_account(payout.payee))
                if owed < payout.amount:
                    raise InsufficientFundsError(payee_account(payout.payee), owed, payout.amount)
        return entry

    def plan_payout(self, batch: Batch, payee: bytes, *, now: int) -> Entry:
        """Book that a payout of `batch` left the treasury, proved on the chain."""
        return self._plan_outcome(batch, payee, paid=True, now=now)

    def plan_requeue(self, batch: Batch, payee: bytes, *, now: int) -> Entry:
        """Give a payout of `batch` that is proved never to happen back to its payee."""
        return self._plan_outcome(batch, payee, paid=False, now=now)

    def plan_claim(self, claim: str, payee: bytes, amount: int, *, now: int) -> Entry:
        """Book what a payee took from the treasury by claim; `claim` names the transaction (lt and hash)."""
        entry = claim_entry(claim, payee, amount, now=now)
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
        for posting in entry.postings:
            self._payouts.follow(posting.account, self.balance(posting.account), at=entry.at)
        self._applied[entry.id] = entry.digest()

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

    def _plan_outcome(self, batch: Batch, payee: bytes, *, paid: bool, now: int) -> Entry:
        entry = outcome_entry(batch, payee, paid=paid, now=now)
        if not self.has(entry):
            self._payouts.check_open(batch.id, payee)
        return entry

    def _record_hold(self, entry: Entry) -> None:
        self._holds.record(entry)

    def _record_receipt(self, entry: Entry) -> None:
        signed, receipt = self._planned
        if receipt is None or signed is not entry.data:
            receipt = parse_receipt(entry.data)
        if not self.reviews.credit(receipt.request_hash):
            self._holds.spend(receipt)
        fee = sum(posting.amount for posting in entry.postings if posting.account == OPERATOR_FEES)
        self._fees[entry.id] = fee
        self._payouts.earn(receipt.payee, receipt.price - fee)
        self.tallies.record(receipt)

    def _record_review(self, entry: Entry) -> None:
        if entry.kind is EntryKind.REVIEW:
            self._holds.spend(parse_receipt(entry.data))
            self._fees[entry.id] = entry.postings[-1].amount
        self.reviews.record(entry)

    def _record_release(self, entry: Entry) -> None:
        self._holds.end(entry.data, self.balance(hold_account(entry.data)))

    def _record_payout(self, entry: Entry) -> None:
        self._payouts.record(entry)

    def _record_channel(self, entry: Entry) -> None:
        self.channels.record(entry)


_RECORDERS = {
    EntryKind.HOLD: Ledger._record_hold,
    EntryKind.RECEIPT: Ledger._record_receipt,
    EntryKind.REVIEW: Ledger._record_review,
    EntryKind.VERDICT: Ledger._record_review,
    EntryKind.REFUSAL: Ledger._record_review,
    EntryKind.RELEASE: Ledger._record_release,
    EntryKind.BATCH: Ledger._record_payout,
    EntryKind.PAYOUT: Ledger._record_payout,
    EntryKind.REQUEUE: Ledger._record_payout,
    EntryKind.CLAIM: Ledger._record_payout,
    EntryKind.VOUCHER: Ledger._record_channel,
    EntryKind.REDEMPTION: Ledger._record_channel,
    EntryKind.CLOSE: Ledger._record_channel,
    EntryKind.LOSS: Ledger._record_channel,
}
