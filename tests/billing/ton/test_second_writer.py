"""Two programs with copies of one journal and one key: at most one of them pays, and the other one says why not."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytoniq_core import Address

from billing.batch import BatchState
from billing.books import Books
from billing.entries import payee_account
from billing.errors import BooksRolledBackError, SecondWriterError
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet, Fault, FaultKind
from billing.ton.sender import Sender
from billing.ton.settler import Settler
from tests.billing.ton.world import (
    EVERYBODY,
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    deploy_registry,
    fund,
    owe,
    payees,
    treasury,
    vault_sender,
)

NAMES = payees(4)
TIMEOUT_S = 120


@dataclass(kw_only=True)
class Twins:
    """Two sets of books that were one a moment ago, over one treasury."""

    devnet: Devnet
    chain: ChainClient
    folder: Path
    wallet: Sender
    registry: Address | None = None

    def books(self, name: str) -> Books:
        return Books.open(self.folder / name)

    def settler(self, books: Books, *, acknowledged: frozenset[bytes] = frozenset()) -> Settler:
        return Settler(
            chain=self.chain,
            books=books,
            wallet=self.wallet,
            key=TREASURY_KEY,
            registry=self.registry,
            clock=chain_clock(self.devnet),
            acknowledged=acknowledged,
        )

    async def begin(self, *, owed: bool = True) -> None:
        await fund(self.devnet, self.wallet.address, 1000 * TON)
        with self.books("first") as books:
            await self.settler(books).tick()
            if owed:
                owe(books, dict.fromkeys(NAMES, TON), at=self.devnet.node.clock.now())

    def copy(self) -> None:
        for suffix in ("", ".lock"):
            shutil.copy(self.folder / f"first{suffix}", self.folder / f"second{suffix}")


@pytest.fixture(params=["highload", "vault"])
async def twins(request, devnet: Devnet, chain: ChainClient, tmp_path: Path) -> AsyncIterator[Twins]:
    make: Callable[[], Sender] = {
        "highload": lambda: treasury(TIMEOUT_S),
        "vault": lambda: vault_sender(tmp_path / "roots", timeout_s=TIMEOUT_S),
    }[request.param]
    yield Twins(devnet=devnet, chain=chain, folder=tmp_path, wallet=make())


async def test_a_copy_that_comes_later_books_and_sends_nothing(twins: Twins) -> None:
    await twins.begin()
    twins.copy()
    with twins.books("first") as books:
        settler = twins.settler(books)
        await settler.plan(EVERYBODY)
        await settler.settle()
    with twins.books("second") as books:
        before = dict(books.ledger.balances())
        await twins.settler(books).plan(EVERYBODY)
        planned = dict(books.ledger.balances())
        for _ in range(2):
            with pytest.raises(SecondWriterError, match="restore the newest journal"):
                await twins.settler(books).tick()
        assert dict(books.ledger.balances()) == planned != before
        assert [batch.state for batch in books.batches().values()] == [BatchState.PLANNED]
    assert await balances(twins.chain, NAMES) == [TON] * 4


async def test_of_two_that_signed_side_by_side_one_pays(twins: Twins) -> None:
    """Neither can see the other's message when it signs. Their batches differ, so paying both would pay twice."""
    await twins.begin()
    twins.copy()
    with twins.books("first") as first, twins.books("second") as second:
        owe(second, {payees(5)[4]: 5 * TON}, at=twins.devnet.node.clock.now())
        one, other = twins.settler(first), twins.settler(second)
        await one.plan(EVERYBODY)
        await other.plan(EVERYBODY)
        twins.devnet.node.faults.inject(Fault(kind=FaultKind.DELAY, delay_s=0.3))
        await one.tick()
        await other.tick()
        paid, lost = [], []
        for books, settler in ((first, one), (second, other)):
            try:
                await settler.settle(timeout_s=20)
                paid.append(books)
            except SecondWriterError:
                lost.append(books)
        assert (len(paid), len(lost)) == (1, 1)
        assert await balances(twins.chain, NAMES) == [TON] * 4
        (message,) = [batch.message for batch in paid[0].batches().values()]
        assert message is not None
        report = await twins.settler(lost[0], acknowledged=frozenset({message.message_hash})).tick()
        assert report.reconciliation.difference == 0, "what another one paid is not taken for what these books planned"


async def test_a_copy_of_before_a_batch_that_expired_cannot_pay_beside_the_next_one(twins: Twins) -> None:
    """The number of an expired message is used again by both, and executed once."""
    await twins.begin()
    with twins.books("first") as first:
        settler = twins.settler(first)
        twins.devnet.node.faults.inject(Fault(kind=FaultKind.DROP), 100)
        await settler.plan(EVERYBODY)
        await settler.tick()
        await twins.devnet.node.advance(TIMEOUT_S + 62)
        await settler.tick()
        assert [batch.state for batch in first.batches().values()] == [BatchState.EXPIRED]
        twins.devnet.node.faults.clear()
        await settler.plan(EVERYBODY)
        await settler.settle()
        numbers = [batch.message.query_id for batch in first.batches().values() if batch.message]
        assert numbers == [0, 0]
    assert await balances(twins.chain, NAMES) == [TON] * 4


async def test_a_payment_the_operator_acknowledges_is_booked_as_its_own(twins: Twins) -> None:
    """The way on after the key was stolen and replaced: nothing is forgotten, the operator bears it."""
    await twins.begin()
    twins.copy()
    with twins.books("first") as books:
        settler = twins.settler(books)
        (batch,) = await settler.plan(EVERYBODY)
        await settler.settle()
        message = books.batches()[batch.id].message
        assert message is not None
    with twins.books("second") as books:
        report = await twins.settler(books, acknowledged=frozenset({message.message_hash})).tick()
        assert report.reconciliation.difference == 0
        assert all(books.ledger.balance(payee_account(name)) == TON for name in NAMES)


async def test_books_older_than_the_chain_s_anchor_are_refused_at_the_first_tick(twins: Twins) -> None:
    twins.registry = (await deploy_registry(twins.devnet, twins.chain, operator_wallet=twins.wallet.address)).address
    await twins.begin()
    twins.copy()
    with twins.books("first") as books:
        settler = twins.settler(books)
        await settler.plan(EVERYBODY)
        await settler.settle()
        while twins.devnet.node.chain.pending:
            await twins.devnet.node.tick()
    with twins.books("second") as books:
        entries = dict(books.ledger.balances())
        with pytest.raises(BooksRolledBackError):
            await twins.settler(books).tick()
        assert dict(books.ledger.balances()) == entries
