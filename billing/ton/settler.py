"""The settler: performs what `billing.settlement` decides, on the chain, and feeds what it found back into the books.

One `tick` proves the treasury's account, books its new transactions, and takes every open batch as far as it goes:

1. sign: balance checked first; the signed bytes are in the journal before anything is sent;
2. send: those bytes only, now and at every resend;
3. find: the wallet's history, read with proofs since before the signing, contains the message, or it is dead for good;
4. inspect: the transaction that pays is read message by message; what it did not send goes back to its payee.

It may be killed between any two of these: everything needed to go on is in the journal and on the chain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.batch import Anchor, Batch, BatchState, SignedMessage
from billing.books import Books
from billing.claim_proof import ClaimProof
from billing.entries import OPERATOR_CAPITAL, TREASURY
from billing.errors import (
    BooksRolledBackError,
    ChainError,
    InsufficientFundsError,
    MessageRejectedError,
    SendOutcomeUnknownError,
)
from billing.hot_float import FloatLimits, FloatReport
from billing.money import Nanotons
from billing.settlement import (
    Accepted,
    Action,
    Delivered,
    Event,
    Find,
    Inspect,
    NotProcessed,
    Send,
    Sent,
    SettlementPolicy,
    Sign,
    Signed,
    next_actions,
)
from billing.ton.cells import payee_of
from billing.ton.client import ChainClient
from billing.ton.outgoing import OutMessage, out_messages
from billing.ton.proofs import AccountState
from billing.ton.registry import anchor_body, read_registry
from billing.ton.sender import Sender
from billing.ton.treasury import Reconciliation, Treasury, delivered
from billing.totals import totals_root

__all__ = ["Reconciliation", "Settler", "TickReport"]

ANCHOR_VALUE = Nanotons(20_000_000)  # attached to the anchor's message: gas; what is left comes back

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """What one tick did, and what it waits for."""

    booked: int  # transactions of the treasury
    advanced: int  # steps of batches
    open: int  # batches that are not finished
    trouble: tuple[str, ...]  # why batches did not go on, for the operator
    reconciliation: Reconciliation
    float: FloatReport


class Settler:
    """The one writer of payouts. Give it books that nobody else writes to while it ticks."""

    def __init__(
        self,
        *,
        chain: ChainClient,
        books: Books,
        wallet: Sender,
        key: Ed25519PrivateKey,
        registry: Address | None = None,
        clock: Callable[[], datetime] | None = None,
        limits: FloatLimits | None = None,
        acknowledged: Collection[bytes] = frozenset(),
    ) -> None:
        self._chain = chain
        self._books = books
        self._wallet = wallet
        self._key = key
        self._registry = registry
        self._clock = clock or (lambda: datetime.now(UTC))
        self._limits = limits or FloatLimits()
        self._treasury = Treasury(chain=chain, books=books, wallet=wallet, acknowledged=acknowledged)
        self._epoch_checked = registry is None
        self._state: AccountState | None = None  # the treasury as of the last tick
        self.float: FloatReport | None = None  # likewise
        self._alarms: tuple[str, ...] = ()

    async def plan(self, policy: SettlementPolicy, *, anchor: bool = True) -> tuple[Batch, ...]:
        """Put everyone who is due into new batches, durably; with a registry, the epoch's anchor rides on the first.

        Raises:
            BooksRolledBackError: the registry holds a later epoch than these books ever anchored.
            ChainError: the registry could not be read.
        """
        now = self._now()
        policy = replace(policy, batch_max=min(policy.batch_max, self._wallet.payouts_max))
        if self._registry is None or not anchor:
            return self._books.plan_settlement(policy, now=now)
        known = await self._check_epoch(self._registry)
        root = totals_root(self._books.ledger.totals())
        return self._books.plan_settlement(policy, now=now, anchor=Anchor(epoch=known + 1, root=root))

    async def tick(self) -> TickReport:
        """Go as far as the chain allows now.

        Raises:
            ChainError: the chain could not be asked; nothing is lost, tick again.
            OverdraftError: the holder of the wallet's key took more than the operator's own money out of it.
            BooksRolledBackError: the chain knows a later epoch or vault order than these books; nothing was booked.
            SecondWriterError: the treasury executed a message these books never signed; nothing is sent.
        """
        if self._registry is not None and not self._epoch_checked:
            await self._check_epoch(self._registry)
            self._epoch_checked = True
        state = self._state = await self._chain.account(self._wallet.address)
        booked = await self._treasury.catch_up(state, now=self._now())
        advanced, trouble = 0, []
        for batch in self._books.open_batches():
            steps, why = await self._drive(batch, state)
            advanced += steps
            trouble += [f"batch {batch.id}: {why}"] if why else []
        report = self.float = self.float_of(state)
        if report.alarms() != self._alarms:  # said once, not at every tick
            self._alarms = report.alarms()
            for alarm in self._alarms:
                _log.warning("%s", alarm)
        return TickReport(
            booked=booked,
            advanced=advanced,
            open=len(self._books.open_batches()),
            trouble=tuple(trouble),
            reconciliation=self._treasury.reconcile(state),
            float=report,
        )

    async def settle(self, *, timeout_s: float = 60.0, poll_s: float = 0.05) -> TickReport:
        """Tick until every batch is finished.

        Raises:
            TimeoutError: some batch is not; ticking on later does no harm.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    report = await self.tick()
                except ChainError as error:
                    _log.warning("settlement waits: %s", error)
                else:
                    if not report.open:
                        return report
                    if report.advanced:
                        continue
                await asyncio.sleep(poll_s)

    def claim_proof(self, payee: bytes) -> ClaimProof:
        """What a payee (33 bytes) may claim from the vault as of the last tick, and the proof of it.

        Raises:
            NothingToClaimError: nothing is anchored for it, or the treasury is no vault.
            RuntimeError: before the first tick.
        """
        if self._state is None:
            raise RuntimeError("no claim can be proved before the treasury was read: tick first")
        return self._wallet.claim_proof(payee, self._state)

    def float_of(self, state: AccountState) -> FloatReport:
        """The treasury in a proved state beside its limits; batches that are not yet taken need their money."""
        waiting = [b for b in self._books.open_batches() if b.state is not BatchState.ACCEPTED]
        return self._limits.report(
            balance=state.balance,
            own=self._books.ledger.balance(OPERATOR_CAPITAL),
            needed=sum(self._wallet.funds_needed(self._messages(batch)) for batch in waiting),
        )

    async def _check_epoch(self, registry: Address) -> int:
        """The last epoch these books anchored, or planned to; the chain may not know a later one."""
        known = max((batch.anchor.epoch for batch in self._books.batches().values() if batch.anchor), default=0)
        on_chain, _ = (await read_registry(self._chain, registry)).anchor_of(self._wallet.address)
        if on_chain > known:
            raise BooksRolledBackError(on_chain, known)
        return known

    def _now(self) -> int:
        return int(self._clock().timestamp())

    async def _drive(self, batch: Batch, state: AccountState) -> tuple[int, str]:
        """Perform the batch's actions until one of them has nothing to feed back; returns steps and what it waits for.

        After a send the chain has to be read again, so that ends the tick for this batch.
        """
        steps = 0
        while True:
            before = batch
            for action in next_actions(batch, now=self._now()):
                try:
                    event = await self._perform(batch, action, state)
                except InsufficientFundsError as error:
                    return steps, str(error)
                if event is None:
                    continue
                batch = self._books.advance(batch.id, event, now=self._now())
                steps += 1
                if isinstance(event, Sent):
                    return steps, ""
                break
            if batch is before:
                return steps, ""

    async def _perform(self, batch: Batch, action: Action, state: AccountState) -> Event | None:
        match action:
            case Sign():
                return self._sign(batch, state)
            case Send(boc=boc):
                return await self._send(batch, boc)
            case Find(message=message):
                return self._find(message, state)
            case Inspect():
                return self._inspect(batch)

    def _sign(self, batch: Batch, state: AccountState) -> Signed | None:
        """(1) Sign, if the treasury can pay this batch; None while another one is under way."""
        if any(other.state in {BatchState.SIGNED, BatchState.SENT} for other in self._books.open_batches()):
            return None
        messages = self._messages(batch)
        needed = self._wallet.funds_needed(messages)
        if state.balance < needed:
            raise InsufficientFundsError(TREASURY, state.balance, needed)
        return Signed(message=self._wallet.sign_batch(batch, messages, key=self._key, state=state, books=self._books))

    async def _send(self, batch: Batch, boc: bytes) -> Sent:
        """(2) Send the stored bytes. A refusal changes nothing: what happened to them is read from the chain."""
        try:
            await self._chain.send(boc)
        except (MessageRejectedError, SendOutcomeUnknownError) as error:
            _log.warning("batch %s: %s", batch.id, error)
        return Sent(at=self._now())

    def _find(self, message: SignedMessage, state: AccountState) -> Accepted | NotProcessed | None:
        """(3) The transaction that took the message; or the proof that none did and none will."""
        for transaction in self._treasury.recent:
            incoming = transaction.incoming
            if incoming and not incoming.internal and incoming.hash == message.message_hash:
                return Accepted(transaction=transaction.hash)
        void = self._wallet.is_void(message, state)
        if (void or state.head.time > message.dead_at) and self._treasury.read_from <= message.after_lt:
            return NotProcessed(chain_time=state.head.time, read_from_lt=self._treasury.read_from, void=void)
        return None

    def _inspect(self, batch: Batch) -> Delivered | None:
        """(4) Which payouts the chain has made; None while the paying transaction is still to come."""
        taken = next((t for t in self._treasury.recent if t.hash == batch.transaction), None)
        if taken is None:
            raise RuntimeError(f"batch {batch.id} was accepted by a transaction that is not in the history")
        paying = self._wallet.paying(taken, self._treasury.recent)
        return None if paying is None else Delivered(paid=delivered(paying, batch))

    def _messages(self, batch: Batch) -> tuple[OutMessage, ...]:
        messages = out_messages(batch.payouts)
        if batch.anchor is None:
            return messages
        if self._registry is None:
            raise RuntimeError(f"batch {batch.id} carries an anchor, but this settler was given no registry")
        body = anchor_body(batch.anchor.epoch, batch.anchor.root, query_id=batch.sequence)
        return (*messages, OutMessage(destination=payee_of(self._registry), amount=ANCHOR_VALUE, body=body))
