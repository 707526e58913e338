"""The cashier: holds, receipts, releases and settlement over one set of books. Plain asyncio; the actor wraps it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.batch import Batch
from billing.books import Books
from billing.claim_proof import ClaimProof
from billing.entries import settling_account
from billing.errors import BillingError, UnknownLeaseError, UnknownReviewError
from billing.grant import Grant, sign_grant
from billing.hold_book import RELEASE_GRACE_S
from billing.hot_float import FloatReport
from billing.journal_place import JournalPlace
from billing.lease_request import verify_lease_request
from billing.money import Nanotons
from billing.receipt import Receipt, parse_receipt
from billing.settlement import SettlementPolicy
from billing.statement import Party, Role
from billing.tallies import Tally
from billing.ton.settler import Settler, TickReport
from billing.totals import PayeeTotal
from billing.verdict import verify_verdict
from cluster.address_book import HostKey
from cluster.errors import ReceiptRefusedError, TroubleError
from cluster.lease import check_ordered

POST_MAX = 512  # receipts in one call
_log = logging.getLogger(__name__)


class Admissions(Protocol):
    """What the cashier asks the registry."""

    async def keys(self, host_ids: Collection[bytes]) -> Mapping[bytes, HostKey]:
        """Receipt keys and payees of those of these instances that were ever admitted; strangers are left out."""
        ...

    async def fee_permille(self) -> int:
        """The operator's share of each receipt, from the on-chain registry."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """What became of one receipt: paid, or refused for good."""

    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The books at one moment, for people and for checks."""

    at: datetime
    imbalance: int  # always 0
    treasury: int  # nanotons that must be on the chain
    balances: dict[str, int]
    payees: tuple[PayeeTotal, ...]
    hosts: dict[bytes, Tally]  # by host id
    clients: dict[bytes, Tally]  # by account key
    batches: tuple[Batch, ...]
    refused: int  # receipts refused since the start
    in_review: int  # nanotons of receipts of open hosts that wait for their client's verdict
    float: FloatReport | None  # the treasury beside its limits, as of the last look at the chain


class Cashier:
    """Books with the operator's signature. Nobody else may write to the journal while it is open."""

    def __init__(
        self,
        *,
        journal: JournalPlace,
        checkpoint: Path | None = None,
        operator_key: Ed25519PrivateKey,
        admissions: Admissions,
        policy: SettlementPolicy,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._operator_key = operator_key
        self._admissions = admissions
        self._policy = policy
        self._clock = clock
        self._refused = 0
        self._opened_at = int(clock().timestamp())
        self._settler: Settler | None = None
        self._settling = asyncio.Lock()
        self.books = Books.open(journal, checkpoint=checkpoint)

    def attach(self, settler: Settler) -> None:
        """Give it the way to the chain; without one, holds and receipts work and nothing is paid out."""
        self._settler = settler

    def place_hold(self, grant: Grant, order: Mapping[str, object]) -> bytes:
        """Hold the money of a lease and sign its grant. Asked again for the same lease, the first grant comes back.

        Args:
            grant: what the gateway planned.
            order: the client's signed lease request, the JSON object as it came. The books believe no gateway: without
                its client's word nobody's money is held.

        Raises:
            BillingError: the account did not sign that, has too little, or the lease is over.
            LeaseRequestError: the grant is another, or is more, than what the client signed for.
        """
        now = int(self._clock().timestamp())
        request = verify_lease_request(order, operator=self._operator_key.public_key().public_bytes_raw())
        check_ordered(grant, request)
        try:
            granted = self.books.ledger.lease(grant.lease).grant
        except UnknownLeaseError:
            granted = grant
        signed = sign_grant(granted, self._operator_key)  # first: nothing is held for a grant that cannot be signed
        self.books.post(self.books.ledger.plan_hold(granted, now=now))
        return signed

    async def post(self, receipts: Sequence[bytes]) -> tuple[Posted, ...]:
        """Pay for receipts, each once; a refusal is final and says why.

        Raises:
            ReceiptRefusedError: more than POST_MAX at once; nothing was posted.
        """
        if len(receipts) > POST_MAX:
            raise ReceiptRefusedError(f"{len(receipts)} receipts at once, at most {POST_MAX} are taken: send fewer")
        fee_permille = await self._admissions.fee_permille()
        hosts = {host_id for host_id in map(_host_of, receipts) if host_id is not None}
        keys = await self._admissions.keys(hosts)
        with self.books.together():
            posted = tuple([self._post(signed, keys, fee_permille) for signed in receipts])
        for refusal in posted:
            if not refusal.accepted:
                self._refused += 1
                _log.warning("a receipt is refused: %s", refusal.reason)
        return posted

    async def judge(self, signed: bytes, receipts: Sequence[bytes]) -> None:
        """Book a client's verdict on copies of one unit; again, nothing happens.

        Args:
            signed: the verdict, with the client's signature.
            receipts: signed receipts of the copies, for those that their hosts did not post yet. One that is refused (a
                host may have signed beyond its slice) harms the verdict only if it is needed.

        Raises:
            BillingError: the verdict is none, not its account's, or refuses what it may not.
            ReceiptRefusedError: too many receipts at once, one of another copy, or a needed one that earns nothing.
        """
        operator = self._operator_key.public_key().public_bytes_raw()
        verdict = verify_verdict(signed, operator)  # first: strangers make nobody verify receipts
        for receipt in receipts:
            if parse_receipt(receipt).request_hash not in verdict.copies:
                raise ReceiptRefusedError("a receipt is of no copy that the verdict names: send only those")
        posted = await self.post(receipts)
        try:
            self.books.post_verdict(verdict, signed, now=int(self._clock().timestamp()))
        except UnknownReviewError as error:
            reasons = [each.reason for each in posted if not each.accepted]
            if reasons:
                raise ReceiptRefusedError(f"a receipt beside the verdict is refused: {reasons[0]}") from error
            raise

    def end_reviews(self) -> int:
        """Pay every receipt that had no verdict in its time; returns how many. None soon after the start, as below."""
        now = int(self._clock().timestamp())
        if now < self._opened_at + RELEASE_GRACE_S:
            return 0
        return len(self.books.end_reviews(now=now, most=POST_MAX))

    def release_expired(self) -> int:
        """End every hold whose time is over; what was not used goes back to its client. Returns how many.

        None in the first RELEASE_GRACE_S after the start: while the books were closed no host could post its receipts.
        """
        now = int(self._clock().timestamp())
        if now < self._opened_at + RELEASE_GRACE_S:
            return 0
        due = list(self.books.ledger.releasable(now))
        with self.books.together():
            for lease in due:
                self.books.post(self.books.ledger.plan_release(lease, now=now))
        return len(due)

    async def tick(self) -> TickReport:
        """Book what the chain shows: deposits, fees, progress of batches. ChainError when it cannot be asked."""
        async with self._with_settler() as settler:
            return await settler.tick()

    async def plan_due(self, period_s: int) -> tuple[Batch, ...]:
        """Put everyone who is due into batches, at most once in `period_s` seconds; ticks see them through."""
        now = int(self._clock().timestamp())
        last = max((batch.planned_at for batch in self.books.batches().values()), default=0)
        if now < max(last, self._opened_at) + period_s:
            return ()
        if not any(self._policy.is_due(payable, now) for payable in self.books.ledger.payables()):
            return ()
        async with self._with_settler() as settler:
            return await settler.plan(self._policy)

    async def settle(self, *, force: bool = False, timeout_s: float = 60.0) -> TickReport:
        """Pay everyone who is due (with `force`: everyone who is owed anything) and see it through.

        Raises:
            TimeoutError: some batch is not finished; ticks go on with it.
        """
        policy = replace(self._policy, threshold=Nanotons(1), dust=Nanotons(1)) if force else self._policy
        async with self._with_settler() as settler:
            await settler.tick()
            await settler.plan(policy)
            return await settler.settle(timeout_s=timeout_s)

    def claim(self, payee: bytes) -> ClaimProof:
        """What a payee (33 bytes) may claim from the vault as of the last tick, and the proof of it.

        Raises:
            NothingToClaimError: nothing is anchored for it, or the treasury is no vault.
            TroubleError: the chain was not read yet.
        """
        if self._settler is None or self._settler.float is None:
            raise TroubleError("the treasury was not read on the chain yet: ask again in a few seconds")
        return self._settler.claim_proof(payee)

    def shortfall(self, *, force: bool = False) -> int:
        """What the treasury lacks to pay everyone who is due (with `force`: owed anything), nanotons; 0 if nothing.

        Claims on payment channels can be redeemed for it.
        """
        now, ledger = int(self._clock().timestamp()), self.books.ledger
        due = sum(payable.amount for payable in ledger.payables() if force or self._policy.is_due(payable, now))
        under_way = sum(ledger.balance(settling_account(batch.id)) for batch in self.books.open_batches())
        return max(due + under_way - ledger.treasury(), 0)

    def knows(self, party: Party) -> bool:
        """Whether anything was ever booked for a client or a payee; strangers are given no statement."""
        ledger = self.books.ledger
        if party.role is Role.CLIENT:
            return ledger.is_client(party.name)
        return party.role is Role.PAYEE and ledger.earned(party.name) > 0

    def statement(self) -> Statement:
        """The books now."""
        ledger = self.books.ledger
        return Statement(
            at=self._clock(),
            imbalance=ledger.imbalance(),
            treasury=ledger.treasury(),
            balances=dict(ledger.balances()),
            payees=ledger.totals(),
            hosts=dict(self.books.ledger.tallies.hosts),
            clients=dict(self.books.ledger.tallies.clients),
            batches=tuple(self.books.batches().values()),
            refused=self._refused,
            in_review=sum(review.price for review in ledger.reviews.open()),
            float=self._settler.float if self._settler else None,
        )

    def close(self) -> None:
        """Close the journal."""
        self.books.close()

    def _post(self, signed: bytes, keys: Mapping[bytes, HostKey], fee_permille: int) -> Posted:
        """Post one receipt."""
        now = int(self._clock().timestamp())
        try:
            receipt = parse_receipt(signed)
            key = _check_key(receipt, keys.get(receipt.host_id), now=now)
            self.books.post_receipt(
                signed, receipt_key=key.receipt, payee=key.payee, fee_permille=fee_permille, now=now
            )
        except (BillingError, ReceiptRefusedError) as error:
            return Posted(accepted=False, reason=f"{type(error).__name__}: {error}")
        return Posted(accepted=True)

    @asynccontextmanager
    async def _with_settler(self) -> AsyncIterator[Settler]:
        if self._settler is None:
            raise RuntimeError("no settler is attached: the chain was not reached yet")
        async with self._settling:  # holds and receipts may come in between; only settling is one at a time
            yield self._settler


def _host_of(signed: bytes) -> bytes | None:
    """The host a receipt names; None for junk, which is refused when it is posted."""
    try:
        return parse_receipt(signed).host_id
    except BillingError:
        return None


def _check_key(receipt: Receipt, key: HostKey | None, *, now: int) -> HostKey:
    """The key that must have signed the receipt.

    A host that was refused earns nothing from then on. As it could date a receipt back, what it did before counts only
    as long as an honest one needs to post it.
    """
    if key is None:
        raise ReceiptRefusedError(f"host {receipt.host_id.hex()} was never admitted")
    if key.ended_at is not None and (receipt.issued_at > key.ended_at or now > key.ended_at + RELEASE_GRACE_S):
        raise ReceiptRefusedError(
            f"host {receipt.host_id.hex()} was refused at {key.ended_at}; the receipt is of {receipt.issued_at} "
            f"and came at {now}, more than {RELEASE_GRACE_S} s later is too late"
        )
    return key
