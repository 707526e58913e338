"""Whatever a lite-server, or an amount, tries: a named error, nothing booked, nothing sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from billing.batch import Batch, Payout
from billing.books import Books
from billing.entries import payee_account
from billing.errors import (
    ChainUnreachableError,
    InsufficientFundsError,
    MessageRejectedError,
    ProofRejectedError,
    StaleChainError,
    WrongNetworkError,
)
from billing.money import Nanotons
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet, Fault, FaultKind
from billing.ton.settler import Settler
from billing.ton.vault_order import Order
from tests.billing.ton.test_client import lying_server
from tests.billing.ton.world import (
    EVERYBODY,
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    config_of,
    fund,
    owe,
    payees,
    treasury,
)

NAMES = payees(2)


@dataclass(kw_only=True)
class World:
    """Books with a batch planned, and money on the chain that they have not seen yet."""

    devnet: Devnet
    chain: ChainClient
    books: Books

    def settler(self, chain: ChainClient, clock: Callable | None = None) -> Settler:
        return Settler(
            chain=chain, books=self.books, wallet=treasury(), key=TREASURY_KEY, clock=clock or chain_clock(self.devnet)
        )

    @asynccontextmanager
    async def untouched(self) -> AsyncIterator[None]:
        """Checks that inside nothing is written and nothing reaches the treasury; and that an honest server helps."""
        journal, ledger = len(self.books._journal), dict(self.books.ledger.balances())
        before = await self.chain.account(treasury().address)
        yield
        assert (len(self.books._journal), dict(self.books.ledger.balances())) == (journal, ledger)
        assert (await self.chain.account(treasury().address)).last_lt == before.last_lt
        report = await self.settler(self.chain).settle()
        assert (report.open, report.reconciliation.difference) == (0, 0)
        while self.devnet.node.chain.pending:
            await self.devnet.node.tick()
        assert await balances(self.chain, NAMES) == [TON] * 2


@pytest.fixture
async def world(devnet: Devnet, chain: ChainClient, tmp_path: Path) -> AsyncIterator[World]:
    with Books.open(tmp_path / "books") as books:
        world = World(devnet=devnet, chain=chain, books=books)
        await fund(devnet, treasury().address, 100 * TON)
        await world.settler(chain).tick()
        owe(books, dict.fromkeys(NAMES, TON), at=devnet.node.clock.now())
        await world.settler(chain).plan(EVERYBODY)
        await fund(devnet, treasury().address, TON)
        yield world


async def test_a_forged_state_under_genuine_proofs(world: World) -> None:
    async with world.untouched():
        world.devnet.node.faults.inject(Fault(kind=FaultKind.FORGE_STATE))
        with pytest.raises(ProofRejectedError):
            await world.settler(world.chain).tick()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_chain_whose_time_is_not_ours(world: World, hours: int) -> None:
    def clock():
        return chain_clock(world.devnet)() + timedelta(hours=hours)

    async with world.untouched():
        late = ChainClient(config_of(world.devnet), clock=clock)
        with pytest.raises(StaleChainError):
            await world.settler(late, clock).tick()
        await late.close()


async def test_another_network(world: World) -> None:
    async with world.untouched():
        other = ChainClient(config_of(world.devnet, network_id=-3), clock=chain_clock(world.devnet))
        with pytest.raises(WrongNetworkError):
            await world.settler(other).tick()
        await other.close()


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda answer: answer[:-40] + bytes(40), id="zeroed-end"),
        pytest.param(lambda answer: answer[: len(answer) // 2], id="cut"),
        pytest.param(lambda answer: answer[:4] + bytes(len(answer) - 4), id="zeros"),
        pytest.param(lambda answer: answer[:4] + bytes(b ^ 0x55 for b in answer[4:]), id="noise"),
        pytest.param(lambda answer: b"", id="nothing"),
    ],
)
@pytest.mark.parametrize("which", [1, 2])
async def test_malformed_answers(world: World, which: int, lie: Callable[[bytes], bytes]) -> None:
    """Account states (the larger answers), and with `which` 2 the histories after an honest state."""
    seen = 0

    def spoil(query: bytes, answer: bytes) -> bytes:
        nonlocal seen
        if len(answer) > 600:
            seen += 1
        return lie(answer) if len(answer) > 600 and seen >= which else answer

    async with world.untouched(), lying_server(world.devnet, spoil) as config:
        liar = ChainClient(replace(config, timeout_s=0.5), clock=chain_clock(world.devnet))
        with pytest.raises((ProofRejectedError, ChainUnreachableError)):
            await world.settler(liar).tick()
        await liar.close()
    assert seen >= which


@pytest.mark.parametrize("boc", [b"", b"junk", b"\xb5\xee\x9c\x72" + bytes(20)], ids=["empty", "junk", "head-only"])
async def test_a_malformed_message_is_refused_by_the_network(world: World, boc: bytes) -> None:
    async with world.untouched():
        with pytest.raises(MessageRejectedError):
            await world.chain.send(boc)


@pytest.mark.parametrize("amount", [0, -1, 1 << 63, 1 << 200, 1.5, True, "5"], ids=str)
def test_a_payout_of_no_amount_is_none(amount) -> None:
    with pytest.raises(ValueError, match="nanoton"):
        Payout(payee=NAMES[0], amount=amount)


@pytest.mark.parametrize("held", [-1, 1 << 64])
def test_an_order_that_holds_no_amount_is_none(held: int) -> None:
    with pytest.raises(ValueError, match="held is an amount"):
        Order(messages=(), root=bytes(32), held=held)


async def test_a_payout_beyond_what_is_owed_is_not_booked(world: World) -> None:
    books = world.books
    owed = books.ledger.balance(payee_account(NAMES[0]))
    batch = Batch(sequence=7, payouts=(Payout(payee=NAMES[0], amount=Nanotons(owed + 1)),), planned_at=0)
    async with world.untouched():
        with pytest.raises(InsufficientFundsError):
            books.ledger.plan_batch(batch, now=0)
