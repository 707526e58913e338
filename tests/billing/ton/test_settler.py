"""The settler on the devnet: batches go through, and every trouble on the way ends in each payee paid once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pytoniq_core import Address

from billing.batch import BatchState, PayoutState
from billing.books import Books
from billing.entries import CHAIN_FEES, payee_account
from billing.errors import BooksRolledBackError, ChainUnreachableError
from billing.hot_float import FloatLimits
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet, Fault, FaultKind, running_devnet
from billing.ton.highload import HighloadWallet
from billing.ton.outgoing import OutMessage
from billing.ton.registry import read_registry
from billing.ton.settler import Settler, TickReport
from billing.totals import totals_root
from tests.billing.ton.world import (
    EVERYBODY,
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    config_of,
    deploy_registry,
    fund,
    owe,
    payees,
    treasury,
)

TIMEOUT_S = 120
DEAD_AFTER_S = TIMEOUT_S + 60 + 1


@dataclass(kw_only=True)
class World:
    """A funded treasury with debts."""

    devnet: Devnet
    chain: ChainClient
    books: Books
    registry: Address | None = None
    limits: FloatLimits | None = None
    wallet: HighloadWallet = field(default_factory=lambda: treasury(TIMEOUT_S))

    @classmethod
    async def create(cls, devnet: Devnet, chain: ChainClient, folder: Path, *, tons: int = 1000) -> World:
        world = cls(devnet=devnet, chain=chain, books=Books.open(folder / "books"))
        await fund(devnet, world.wallet.address, tons * TON)
        await world.settler().tick()
        return world

    def settler(self) -> Settler:
        return Settler(
            chain=self.chain,
            books=self.books,
            wallet=self.wallet,
            key=TREASURY_KEY,
            registry=self.registry,
            clock=chain_clock(self.devnet),
            limits=self.limits,
        )

    def owe(self, amounts: dict[bytes, int]) -> None:
        owe(self.books, amounts, at=self.devnet.node.clock.now())

    def inject(self, kind: FaultKind, count: int = 1, **options: float) -> None:
        self.devnet.node.faults.inject(Fault(kind=kind, **options), count)

    async def paid(self, names: list[bytes]) -> list[int]:
        """Balances once the chain has delivered all: a batch is confirmed a block before its payouts land."""
        while self.devnet.node.chain.pending:
            await asyncio.sleep(0.005)
        return await balances(self.chain, names)

    def check(self, report: TickReport) -> None:
        assert report.reconciliation.difference == 0
        assert self.books.ledger.imbalance() == 0
        if not report.open:
            assert report.reconciliation.in_flight == 0


@pytest.fixture
async def world(devnet: Devnet, chain: ChainClient, tmp_path: Path) -> AsyncIterator[World]:
    world = await World.create(devnet, chain, tmp_path)
    yield world
    world.books.close()


async def test_everybody_due_is_paid_to_the_nanoton(world: World) -> None:
    names = payees(300)
    debts = {name: TON + i for i, name in enumerate(names)}
    world.owe(debts)
    settler = world.settler()
    assert [len(batch.payouts) for batch in await settler.plan(EVERYBODY)] == [128, 128, 44]
    world.check(await settler.settle())
    assert await world.paid(names) == list(debts.values())
    assert {batch.state for batch in world.books.batches().values()} == {BatchState.CONFIRMED}
    assert all(world.books.ledger.balance(payee_account(name)) == 0 for name in names)


async def test_nobody_due_sends_nothing(world: World) -> None:
    world.owe({payees(1)[0]: TON})
    settler = world.settler()
    assert await settler.plan(SettlementPolicy(threshold=Nanotons(2 * TON))) == ()
    report = await settler.settle()
    assert (report.advanced, report.open) == (0, 0)


async def test_an_epoch_is_anchored_with_its_batch(world: World) -> None:
    world.devnet.node.clock.freeze()  # an account that is paid twice owes rent for the time between
    world.registry = (await deploy_registry(world.devnet, world.chain, operator_wallet=world.wallet.address)).address
    settler = world.settler()
    for epoch in (1, 2):
        world.owe(dict.fromkeys(payees(3), TON))
        root = totals_root(world.books.ledger.totals())
        await settler.plan(EVERYBODY)
        world.check(await settler.settle())
        assert (await read_registry(world.chain, world.registry)).anchor_of(world.wallet.address) == (epoch, root)
    assert await world.paid(payees(3)) == [2 * TON] * 3
    world.check(await settler.tick())
    assert -world.books.ledger.balance(CHAIN_FEES) < TON // 20  # what the registry sent back was booked as a refund


async def test_an_anchor_goes_alone_when_nobody_is_due(world: World) -> None:
    world.registry = (await deploy_registry(world.devnet, world.chain, operator_wallet=world.wallet.address)).address
    settler = world.settler()
    await settler.plan(EVERYBODY)
    world.check(await settler.settle())
    assert (await read_registry(world.chain, world.registry)).anchor_of(world.wallet.address)[0] == 1


async def test_an_anchor_the_registry_refuses_costs_no_payout(world: World) -> None:
    other = Address((0, b"\x31" * 32))
    world.registry = (await deploy_registry(world.devnet, world.chain, operator_wallet=other)).address
    world.owe(dict.fromkeys(payees(2), TON))
    settler = world.settler()
    await settler.plan(EVERYBODY)
    world.check(await settler.settle())
    world.check(await settler.tick())
    assert await world.paid(payees(2)) == [TON] * 2
    assert (await read_registry(world.chain, world.registry)).anchor_of(other) == (0, bytes(32))


async def test_books_older_than_the_chain_s_anchor_are_refused(world: World, tmp_path: Path) -> None:
    world.registry = (await deploy_registry(world.devnet, world.chain, operator_wallet=world.wallet.address)).address
    settler = world.settler()
    await settler.plan(EVERYBODY)
    await settler.settle()
    with Books.open(tmp_path / "old-copy") as old:
        rolled_back = World(devnet=world.devnet, chain=world.chain, books=old, registry=world.registry)
        with pytest.raises(BooksRolledBackError):
            await rolled_back.settler().plan(EVERYBODY)


async def test_a_batch_the_treasury_cannot_pay_waits_for_money(
    devnet: Devnet, chain: ChainClient, tmp_path: Path
) -> None:
    world = await World.create(devnet, chain, tmp_path, tons=10)
    names = payees(2)
    world.owe(dict.fromkeys(names, 4 * TON))
    await world.settler().plan(EVERYBODY)
    spent = OutMessage(destination=payees(3)[2], amount=Nanotons(2 * TON))  # the operator's own
    await send_aside(world, spent)
    settler = world.settler()
    report = await settler.tick()
    world.check(report)
    assert (report.open, await world.paid(names)) == (1, [0, 0])
    assert "needed" in report.trouble[0]
    await fund(devnet, world.wallet.address, TON)
    world.check(await settler.settle())
    assert await world.paid(names) == [4 * TON] * 2
    world.books.close()


async def test_a_treasury_above_its_cap_says_what_to_move_and_one_that_is_short_what_to_send(
    world: World, caplog
) -> None:
    world.owe({payees(1)[0]: 100 * TON})
    world.limits = FloatLimits(cap=Nanotons(200 * TON), refill_below=Nanotons(50 * TON))
    settler = world.settler()
    for _ in range(2):
        report = await settler.tick()
    assert (report.float.surplus, report.float.movable, report.float.refill) == (800 * TON, 800 * TON, 0)
    assert caplog.text.count("above its cap") == 1
    world.limits = FloatLimits(refill_below=Nanotons(2000 * TON))
    report = await world.settler().tick()
    assert report.float.refill == 1000 * TON
    assert "send it at least" in caplog.text


async def send_aside(world: World, *messages: OutMessage) -> None:
    """A message of the treasury the settler knows nothing about."""
    state = await world.chain.account(world.wallet.address)
    signed = world.wallet.sign(
        messages,
        key=TREASURY_KEY,
        query_id=8_000_000,
        created_at=state.head.time,
        after_lt=state.last_lt,
        deploy=state.code is None,
    )
    await world.chain.send(signed.boc)


@pytest.mark.parametrize("kind", [FaultKind.LOSE_ANSWER, FaultKind.DUPLICATE, FaultKind.REJECT])
async def test_one_troubled_send_pays_once(world: World, kind: FaultKind) -> None:
    names = payees(5)
    world.owe(dict.fromkeys(names, TON))
    world.inject(kind)
    settler = world.settler()
    await settler.plan(EVERYBODY)
    await settler.tick()
    await world.devnet.node.advance(11)
    world.check(await settler.settle())
    await world.devnet.node.tick()
    assert await world.paid(names) == [TON] * 5


async def test_a_lost_message_is_sent_again_with_the_same_bytes(world: World) -> None:
    names = payees(2)
    world.owe(dict.fromkeys(names, TON))
    world.inject(FaultKind.DROP, 2)
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    sent = set()
    for _ in range(3):
        await settler.tick()
        message = world.books.batches()[batch.id].message
        assert message is not None
        sent.add(message.boc)
        assert await world.paid(names) == [0, 0]
        await world.devnet.node.advance(11)
        if len(sent) == 1 and world.devnet.node.faults.waiting == 0:
            break
    world.check(await settler.settle())
    assert len(sent) == 1
    assert await world.paid(names) == [TON] * 2


async def test_a_delayed_message_is_paid_once_also_when_sent_again(world: World) -> None:
    names = payees(2)
    world.owe(dict.fromkeys(names, TON))
    world.inject(FaultKind.DELAY, delay_s=0.3)
    settler = world.settler()
    await settler.plan(EVERYBODY)
    await settler.tick()
    await world.devnet.node.advance(11)
    world.check(await settler.settle())
    assert await world.paid(names) == [TON] * 2


async def test_a_message_that_never_arrives_expires_and_is_paid_by_a_later_batch(world: World) -> None:
    names = payees(3)
    world.owe(dict.fromkeys(names, TON))
    world.inject(FaultKind.DROP, 100)
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    for _ in range(3):
        await settler.tick()
        await world.devnet.node.advance(20)
    first = world.books.batches()[batch.id]
    assert first.message is not None
    await world.devnet.node.advance(TIMEOUT_S - 60)
    report = await settler.tick()
    assert report.open == 1  # no longer sent, not yet proved dead
    await world.devnet.node.advance(62)
    world.check(await settler.tick())
    assert world.books.batches()[batch.id].state is BatchState.EXPIRED
    world.devnet.node.faults.clear()
    (second,) = await settler.plan(EVERYBODY)
    assert second.id != batch.id
    world.check(await settler.settle())
    assert await world.paid(names) == [TON] * 3
    with pytest.raises(Exception, match="35"):  # the dead message, presented by anybody
        await world.chain.send(first.message.boc)
    assert await world.paid(names) == [TON] * 3


async def test_a_message_executed_while_the_operator_slept_is_found_however_late(world: World) -> None:
    """The wallet forgets its queries after a while; the history does not."""
    names = payees(3)
    world.owe(dict.fromkeys(names, TON))
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    await settler.tick()  # sent, not looked for yet
    assert world.books.batches()[batch.id].state is BatchState.SENT
    await world.devnet.node.advance(5 * TIMEOUT_S)
    await send_aside(world, OutMessage(destination=payees(4)[3], amount=Nanotons(1)))
    await world.devnet.node.advance(5 * TIMEOUT_S)
    state = await world.chain.account(world.wallet.address)
    assert not world.wallet.is_processed(state, world.books.batches()[batch.id].message.query_id)
    world.check(await world.settler().settle())
    assert world.books.batches()[batch.id].state is BatchState.CONFIRMED
    assert await world.paid(names) == [TON] * 3


async def test_a_payout_the_wallet_skipped_silently_goes_into_a_later_batch(world: World) -> None:
    """Send mode 2 drops a message that cannot be sent, and the transaction succeeds all the same."""
    names = payees(3)
    nowhere = b"\x05" + b"\x66" * 32  # no such workchain
    world.owe(dict.fromkeys(names, TON) | {nowhere: TON})
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    world.check(await settler.settle())
    states = {p.payee: p.state for p in world.books.batches()[batch.id].payouts}
    assert states == dict.fromkeys(names, PayoutState.PAID) | {nowhere: PayoutState.REQUEUED}
    assert await world.paid(names) == [TON] * 3
    assert world.books.ledger.balance(payee_account(nowhere)) == TON


async def test_a_batch_skipped_for_lack_of_money_is_paid_later(world: World) -> None:
    """The key's holder takes out all of the operator's capital after a batch was signed: nothing is left for fees.

    The wallet then takes the message, sends nothing and reports success. That only a part of the payouts is skipped
    for lack of money cannot happen: the message to itself carries all of it.
    """
    names = payees(4)
    world.owe(dict.fromkeys(names, 10 * TON))
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    world.inject(FaultKind.DROP)
    await settler.tick()
    await send_aside(world, OutMessage(destination=payees(5)[4], amount=Nanotons(960 * TON)))
    await world.devnet.node.advance(11)
    world.check(await settler.settle())
    assert {p.state for p in world.books.batches()[batch.id].payouts} == {PayoutState.REQUEUED}
    assert await world.paid(names) == [0] * 4
    await fund(world.devnet, world.wallet.address, TON)
    await settler.plan(EVERYBODY)
    world.check(await settler.settle())
    assert await world.paid(names) == [10 * TON] * 4


async def test_settlement_goes_on_after_the_chain_was_out_of_reach(tmp_path: Path) -> None:
    async with running_devnet(tmp_path / "net") as devnet:
        chain = await ChainClient.connect(config_of(devnet, timeout_s=2.0), clock=chain_clock(devnet))
        world = await World.create(devnet, chain, tmp_path)
        names = payees(2)
        world.owe(dict.fromkeys(names, TON))
        settler = world.settler()
        await settler.plan(EVERYBODY)
    with pytest.raises(ChainUnreachableError):
        await settler.tick()
    async with running_devnet(tmp_path / "net", port=devnet.port):
        world.check(await settler.settle())
        assert await world.paid(names) == [TON] * 2
    await chain.close()
    world.books.close()
