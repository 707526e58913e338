"""The cashier: holds, receipts, releases and settlement over one set of books. Plain asyncio; the actor wraps it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.batch import Batch
from billing.books import Books
from billing.entries import Entry, EntryKind
from billing.errors import BillingError, UnknownLeaseError
from billing.grant import Grant, sign_grant
from billing.journal import Journal
from billing.money import Nanotons
from billing.receipt import Receipt, parse_receipt
from billing.records import parse_record
from billing.settlement import SettlementPolicy
from billing.ton.settler import Settler, TickReport
from billing.totals import PayeeTotal
from cluster.address_book import HostKey
from cluster.errors import ReceiptRefusedError

POST_MAX = 512  # receipts in one call
_log = logging.getLogger(__name__)


class Admissions(Protocol):
    """What the cashier asks the registry."""

    async def key(self, host_id: bytes) -> HostKey | None:
        """Receipt key and payee of an instance that was admitted at some time; None for a stranger."""
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
class Tally:
    """Sums over posted receipts."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: int = 0  # nanotons, operator's fee included

    def plus(self, receipt: Receipt) -> "Tally":
        """With one more receipt."""
        return Tally(
            requests=self.requests + 1,
            prompt_tokens=self.prompt_tokens + receipt.usage.prompt_tokens,
            completion_tokens=self.completion_tokens + receipt.usage.completion_tokens,
            price=self.price + receipt.price,
        )


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


class Cashier:
    """Books with the operator's signature. Nobody else may write to the journal while it is open."""

    def __init__(
        self,
        *,
        journal: Path,
        operator_key: Ed25519PrivateKey,
        admissions: Admissions,
        policy: SettlementPolicy,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._operator_key = operator_key
        self._admissions = admissions
        self._policy = policy
        self._clock = clock
        self._hosts: dict[bytes, Tally] = {}
        self._clients: dict[bytes, Tally] = {}
        self._paid: set[bytes] = set()  # request hashes
        self._refused = 0
        self._settler: Settler | None = None
        self._settling = asyncio.Lock()
        records = Journal.open(journal)
        try:
            self.books = Books(records)
            self._count(parse_record(payload) for payload in records)
        except BaseException:
            records.close()
            raise

    def attach(self, settler: Settler) -> None:
        """Give it the way to the chain; without one, holds and receipts work and nothing is paid out."""
        self._settler = settler

    def place_hold(self, grant: Grant) -> bytes:
        """Hold the money of a lease and sign its grant. Asked again for the same lease, the first grant comes back.

        Raises:
            BillingError: the account has too little, or the lease is over.
        """
        now = int(self._clock().timestamp())
        try:
            granted = self.books.ledger.lease(grant.lease).grant
        except UnknownLeaseError:
            granted = grant
        self.books.post(self.books.ledger.plan_hold(granted, now=now))
        return sign_grant(granted, self._operator_key)

    async def post(self, receipts: Sequence[bytes]) -> tuple[Posted, ...]:
        """Pay for receipts, each once; a refusal is final and says why.

        Raises:
            ReceiptRefusedError: more than POST_MAX at once; nothing was posted.
        """
        if len(receipts) > POST_MAX:
            raise ReceiptRefusedError(f"{len(receipts)} receipts at once, at most {POST_MAX} are taken: send fewer")
        fee_permille = await self._admissions.fee_permille()
        return tuple([await self._post(signed, fee_permille) for signed in receipts])

    def release_expired(self) -> int:
        """End every hold whose time is over; what was not used goes back to its client. Returns how many."""
        now = int(self._clock().timestamp())
        due = list(self.books.ledger.releasable(now))
        for lease in due:
            self.books.post(self.books.ledger.plan_release(lease, now=now))
        return len(due)

    async def tick(self) -> TickReport:
        """Book what the chain shows: deposits, fees, progress of batches. ChainError when it cannot be asked."""
        async with self._with_settler() as settler:
            return await settler.tick()

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

    def statement(self) -> Statement:
        """The books now."""
        ledger = self.books.ledger
        return Statement(
            at=self._clock(),
            imbalance=ledger.imbalance(),
            treasury=ledger.treasury(),
            balances=dict(ledger.balances()),
            payees=ledger.totals(),
            hosts=dict(self._hosts),
            clients=dict(self._clients),
            batches=tuple(self.books.batches().values()),
            refused=self._refused,
        )

    def close(self) -> None:
        """Close the journal."""
        self.books.close()

    async def _post(self, signed: bytes, fee_permille: int) -> Posted:
        try:
            receipt = parse_receipt(signed)
            key = await self._key(receipt.host_id)
            self.books.post_receipt(
                signed,
                receipt_key=key.receipt,
                payee=key.payee,
                fee_permille=fee_permille,
                now=int(self._clock().timestamp()),
            )
        except (BillingError, ReceiptRefusedError) as error:
            self._refused += 1
            _log.warning("a receipt is refused: %s", error)
            return Posted(accepted=False, reason=f"{type(error).__name__}: {error}")
        self._add(receipt)
        return Posted(accepted=True)

    async def _key(self, host_id: bytes) -> HostKey:
        key = await self._admissions.key(host_id)
        if key is None:
            raise ReceiptRefusedError(f"host {host_id.hex()} was never admitted")
        return key

    def _count(self, records: Iterable[Entry | Batch]) -> None:
        for record in records:
            if isinstance(record, Entry) and record.kind is EntryKind.RECEIPT:
                self._add(parse_receipt(record.data))

    def _add(self, receipt: Receipt) -> None:
        """Count a posted receipt; one that was posted before changes nothing."""
        if receipt.request_hash in self._paid:
            return
        self._paid.add(receipt.request_hash)
        self._hosts[receipt.host_id] = self._hosts.get(receipt.host_id, Tally()).plus(receipt)
        self._clients[receipt.account] = self._clients.get(receipt.account, Tally()).plus(receipt)

    @asynccontextmanager
    async def _with_settler(self) -> AsyncIterator[Settler]:
        if self._settler is None:
            raise RuntimeError("no settler is attached: the chain was not reached yet")
        async with self._settling:  # holds and receipts may come in between; only settling is one at a time
            yield self._settler
