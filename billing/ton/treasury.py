"""The treasury's history, read with proofs and booked transaction by transaction.

It remembers the transactions since before the oldest open batch was signed, which is what the settler searches, and
nothing that could not be read again: a restart starts from the journal and the chain.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from billing.batch import Batch, BatchState
from billing.books import Books
from billing.errors import SecondWriterError
from billing.settlement import NotProcessed
from billing.ton.cells import payee_of
from billing.ton.client import ChainClient
from billing.ton.deposits import claim_of, entries_of, fee_entry, is_own_transfer
from billing.ton.proofs import AccountState
from billing.ton.sender import Sender
from billing.ton.transaction import Transaction

__all__ = ["Reconciliation", "Treasury", "delivered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """Chain and books beside each other, nanotons."""

    chain: int  # proved balance of the treasury
    in_flight: int  # on its way from the wallet to itself, between a batch's two transactions
    books: int  # what the ledger says the treasury holds

    @property
    def difference(self) -> int:
        """0, or money moved that the books do not explain."""
        return self.chain + self.in_flight - self.books


class Treasury:
    """The operator's wallet as the books see it. Every deposit, funding and fee is booked here, once."""

    def __init__(
        self, *, chain: ChainClient, books: Books, wallet: Sender, acknowledged: Collection[bytes] = frozenset()
    ) -> None:
        """`acknowledged`: hashes (32) of messages these books never signed, to be booked as the operator's own."""
        self._chain = chain
        self._books = books
        self._wallet = wallet
        self._address = wallet.address
        self._acknowledged = frozenset(acknowledged)
        self._recent: list[Transaction] = []  # oldest first, since before the oldest open batch was signed
        self._read_from = 0  # every transaction after this logical time was read
        self._booked_lt = 0

    @property
    def read_from(self) -> int:
        """Logical time after which every transaction is in `recent`."""
        return self._read_from

    @property
    def recent(self) -> Sequence[Transaction]:
        """The transactions after `read_from`, oldest first, chained to the proved state last caught up to."""
        return self._recent

    async def catch_up(self, state: AccountState, *, now: int) -> int:
        """Read the transactions up to a proved state of the treasury and book the new ones; returns how many.

        Raises:
            ChainError: the history could not be read; nothing is lost, ask again.
            SecondWriterError: the treasury executed a settlement message these books never signed. Nothing from there
                on is booked, so that a restart refuses likewise.
            OverdraftError: the holder of the wallet's key took more than the operator's own money out of it.
        """
        await self._read(state, now)
        count = 0
        for transaction in self._recent:
            if transaction.lt <= self._booked_lt:
                continue
            count += self._book(transaction, now)
            self._booked_lt = transaction.lt
        return count

    def reconcile(self, state: AccountState) -> Reconciliation:
        """Compare the books with the proved state they were caught up to."""
        landed = {t.incoming.hash for t in self._recent if t.incoming}
        own = payee_of(self._address)
        in_flight = sum(
            out.value
            for transaction in self._recent
            for out in transaction.outgoing
            if out.destination == own and out.hash not in landed
        )
        return Reconciliation(chain=state.balance, in_flight=in_flight, books=self._books.ledger.treasury())

    async def _read(self, state: AccountState, now: int) -> None:
        """Extend `_recent`; on the first call, back to the last booked transaction and the oldest open batch."""
        floor = min((b.message.after_lt for b in self._books.open_batches() if b.message), default=state.last_lt)
        if not self._read_from and not self._recent:
            self._read_from, self._recent = await self._read_back(state, floor, now)
            return
        newest = self._recent[-1].lt if self._recent else self._read_from
        self._recent += await self._chain.transactions(state, after_lt=newest)
        self._forget(min(floor, self._booked_lt))

    async def _read_back(self, state: AccountState, floor: int, now: int) -> tuple[int, list[Transaction]]:
        newest_first: list[Transaction] = []
        read_from = 0
        history = self._chain.history(state)
        async for transaction in history:
            booked = self._books.ledger.has(fee_entry(transaction, self._books.ledger, now=now))
            if booked and transaction.lt <= floor:
                read_from = self._booked_lt = transaction.lt
                break
            newest_first.append(transaction)
        await history.aclose()
        return read_from, newest_first[::-1]

    def _forget(self, before_lt: int) -> None:
        """Drop transactions nobody will ask for again."""
        keep = [transaction for transaction in self._recent if transaction.lt > before_lt]
        if len(keep) < len(self._recent):
            self._read_from = self._recent[len(self._recent) - len(keep) - 1].lt
            self._recent = keep

    def _check_writer(self, transaction: Transaction) -> None:
        message = transaction.incoming
        if message is None or message.internal or not self._wallet.is_settlement(transaction):
            return
        if message.hash in self._acknowledged or self._batch_of(message.hash):
            return
        raise SecondWriterError(message.hash.hex(), transaction.lt)

    def _book(self, transaction: Transaction, now: int) -> int:
        self._check_writer(transaction)
        claim = claim_of(transaction)
        if claim and not self._books.ledger.has(fee_entry(transaction, self._books.ledger, now=now)):
            self._give_up_orders(transaction, claim.payee, now)
        batch = self._batch_paid_by(transaction)
        payouts = sum(batch.payouts[i].amount for i in delivered(transaction, batch)) if batch else 0
        entries = entries_of(transaction, self._address, self._books.ledger, payouts=payouts, now=now)
        fresh = not self._books.ledger.has(entries[0])
        self._books.commit(*entries)
        return int(fresh)

    def _give_up_orders(self, claim: Transaction, payee: bytes, now: int) -> None:
        """A claim makes every order void that was signed before it and not executed; what it planned is owed again.

        Only then can the claim be booked: the payee's money may be in such a batch. One not yet signed is given up if
        it would pay this payee, and the next plan takes what is left.
        """
        executed = {t.incoming.hash for t in self._recent if t.incoming and t.lt < claim.lt}
        for batch in self._books.open_batches():
            signed = batch.message
            if signed:
                alive = signed.message_hash in executed or signed.after_lt >= claim.lt
            else:
                alive = all(payout.payee != payee for payout in batch.payouts)
            if batch.state is BatchState.ACCEPTED or alive:
                continue
            proof = NotProcessed(chain_time=claim.time, read_from_lt=self._read_from, void=True)
            self._books.advance(batch.id, proof, now=now)

    def _batch_paid_by(self, transaction: Transaction) -> Batch | None:
        """The batch whose payments this transaction makes."""
        message = transaction.incoming
        if message is None:
            return None
        if not message.internal:  # a vault pays where it takes the order; a highload wallet sends no payment there
            return self._batch_of(message.hash)
        if not is_own_transfer(message, self._address):
            return None
        for taken in self._recent:  # the transaction that sent it is there: it came after the signing of an open batch
            if taken.incoming and any(out.hash == message.hash for out in taken.outgoing):
                return self._batch_of(taken.incoming.hash)
        return None

    def _batch_of(self, message_hash: bytes) -> Batch | None:
        return next((batch for batch in self._books.batches().values() if _is_of(message_hash, batch)), None)


def _is_of(message_hash: bytes, batch: Batch) -> bool:
    return batch.message is not None and batch.message.message_hash == message_hash


def delivered(transaction: Transaction, batch: Batch) -> frozenset[int]:
    """Which of the batch's payouts are among the transaction's out-messages."""
    sent = {(out.destination, out.value) for out in transaction.outgoing if out.operation is None}
    return frozenset(i for i, payout in enumerate(batch.payouts) if (payout.payee, payout.amount) in sent)
