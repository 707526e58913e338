"""Every transaction of the treasury is booked once, and the books equal the chain to the nanoton."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytoniq_core import Cell, begin_cell

from billing.books import Books
from billing.entries import CHAIN_FEES, OPERATOR_CAPITAL
from billing.errors import OverdraftError
from billing.money import Nanotons
from billing.ton.client import ChainClient
from billing.ton.deposits import OP_DEPOSIT, deposit_body, deposit_transfer
from billing.ton.devnet import Devnet
from billing.ton.outgoing import OutMessage
from billing.ton.settler import Settler
from billing.ton.wallet import Transfer, pay
from tests.billing.ton.world import (
    CLIENT_KEY,
    OWNER_KEY,
    TON,
    TREASURY_KEY,
    chain_clock,
    fund,
    payees,
    treasury,
    wallet_of,
)

WALLET = treasury()
ACCOUNT = CLIENT_KEY.public_key().public_bytes_raw()
OTHER_ACCOUNT = OWNER_KEY.public_key().public_bytes_raw()


@dataclass(frozen=True, kw_only=True)
class World:
    devnet: Devnet
    chain: ChainClient
    books: Books
    path: Path

    def settler(self) -> Settler:
        return Settler(
            chain=self.chain, books=self.books, wallet=WALLET, key=TREASURY_KEY, clock=chain_clock(self.devnet)
        )

    async def deposit(self, account: bytes, amount: int) -> None:
        await self.send(deposit_transfer(WALLET.address, account, Nanotons(amount)))

    async def transfer(self, amount: int, body: Cell | None = None, *, bounce: bool = False) -> None:
        await self.send(Transfer(destination=WALLET.address, amount=Nanotons(amount), body=body, bounce=bounce))

    async def send(self, order: Transfer) -> None:
        wallet = wallet_of(CLIENT_KEY)
        await fund(self.devnet, wallet.address, order.amount + TON)
        await pay(self.chain, wallet, CLIENT_KEY, [order], now=chain_clock(self.devnet)())

    async def pay_out(self, *messages: OutMessage, query_id: int = 8_000_077) -> None:
        """What the holder of the treasury's key may do without the settler."""
        state = await self.chain.account(WALLET.address)
        signed = WALLET.sign(
            messages,
            key=TREASURY_KEY,
            query_id=query_id,
            created_at=state.head.time,
            after_lt=state.last_lt,
            deploy=state.code is None,
        )
        await self.chain.send(signed.boc)


@pytest.fixture
def world(devnet: Devnet, chain: ChainClient, tmp_path: Path) -> Iterator[World]:
    with Books.open(tmp_path / "books") as books:
        yield World(devnet=devnet, chain=chain, books=books, path=tmp_path / "books")


async def check_books(world: World, settler: Settler) -> None:
    report = await settler.tick()
    assert report.reconciliation.difference == 0
    assert report.reconciliation.chain == world.books.ledger.treasury()
    assert world.books.ledger.imbalance() == 0


async def test_a_deposit_is_credited_to_the_client_it_names(world: World) -> None:
    settler = world.settler()
    await world.deposit(ACCOUNT, 3 * TON)
    await world.deposit(OTHER_ACCOUNT, 2 * TON)
    await check_books(world, settler)
    assert world.books.ledger.available(ACCOUNT) == 3 * TON
    assert world.books.ledger.available(OTHER_ACCOUNT) == 2 * TON


async def test_a_deposit_is_credited_once_however_often_it_is_read(world: World) -> None:
    await fund(world.devnet, WALLET.address, TON)
    await world.pay_out(OutMessage(destination=payees(1)[0], amount=Nanotons(1000)))
    settler = world.settler()
    for round_ in range(1, 4):
        await world.deposit(ACCOUNT, TON)
        for watcher in (settler, settler, world.settler()):
            await check_books(world, watcher)
        assert world.books.ledger.available(ACCOUNT) == round_ * TON


async def test_a_deposit_is_credited_once_across_a_restart(world: World) -> None:
    await world.deposit(ACCOUNT, TON)
    await check_books(world, world.settler())
    records = len(world.books._journal)
    world.books.close()
    with Books.open(world.path) as books:
        again = World(devnet=world.devnet, chain=world.chain, books=books, path=world.path)
        await check_books(again, again.settler())
        assert len(books._journal) == records
        assert books.ledger.available(ACCOUNT) == TON


async def test_two_equal_deposits_are_two_deposits(world: World) -> None:
    for _ in range(2):
        await world.deposit(ACCOUNT, TON)
    await check_books(world, world.settler())
    assert world.books.ledger.available(ACCOUNT) == 2 * TON


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(None, id="no-body"),
        pytest.param(begin_cell().store_uint(0, 32).store_bytes(b"hello").end_cell(), id="a-comment"),
        pytest.param(begin_cell().store_uint(OP_DEPOSIT, 32).store_bytes(ACCOUNT[:31]).end_cell(), id="short-key"),
        pytest.param(begin_cell().store_uint(OP_DEPOSIT, 32).store_bytes(ACCOUNT + b"x").end_cell(), id="long-key"),
        pytest.param(begin_cell().store_cell(deposit_body(ACCOUNT)).store_ref(Cell.empty()).end_cell(), id="a-ref"),
    ],
)
async def test_a_transfer_that_names_no_client_is_the_operators(world: World, body: Cell | None) -> None:
    await world.transfer(TON, body)
    await check_books(world, world.settler())
    assert world.books.ledger.balance(OPERATOR_CAPITAL) == TON
    assert world.books.ledger.available(ACCOUNT) == 0


@pytest.mark.parametrize("amount", [1, 1000, 400_000, 2_000_000])
@pytest.mark.parametrize("bounce", [True, False], ids=["bouncing", "not-bouncing"])
async def test_a_tiny_deposit_keeps_the_books_equal_to_the_chain(world: World, amount: int, bounce: bool) -> None:
    await fund(world.devnet, WALLET.address, TON)
    await world.pay_out(OutMessage(destination=payees(1)[0], amount=Nanotons(1000)))  # the wallet has code now
    settler = world.settler()
    await check_books(world, settler)
    await world.transfer(amount, deposit_body(ACCOUNT), bounce=bounce)
    await check_books(world, settler)
    assert world.books.ledger.available(ACCOUNT) in (0, amount)


async def test_a_bouncing_deposit_to_a_wallet_not_deployed_goes_back_and_is_not_credited(world: World) -> None:
    await world.transfer(TON, deposit_body(ACCOUNT), bounce=True)
    await check_books(world, world.settler())
    assert world.books.ledger.available(ACCOUNT) == 0


async def test_storage_rent_over_years_is_booked_as_fees(world: World) -> None:
    await fund(world.devnet, WALLET.address, TON)
    await world.pay_out(OutMessage(destination=payees(1)[0], amount=Nanotons(1000)))
    settler = world.settler()
    await check_books(world, settler)
    before = world.books.ledger.balance(CHAIN_FEES)
    await world.devnet.node.advance(3 * 365 * 86_400)
    await world.transfer(TON)
    await check_books(world, settler)
    assert world.books.ledger.balance(CHAIN_FEES) < before


async def test_what_the_operator_takes_out_comes_off_its_capital(world: World) -> None:
    await fund(world.devnet, WALLET.address, 10 * TON)
    settler = world.settler()
    await check_books(world, settler)
    await world.pay_out(*(OutMessage(destination=payee, amount=Nanotons(TON)) for payee in payees(3)))
    await check_books(world, settler)
    assert world.books.ledger.balance(OPERATOR_CAPITAL) == 7 * TON


async def test_an_operator_that_takes_clients_money_stops_the_books(world: World) -> None:
    await world.deposit(ACCOUNT, 10 * TON)
    await fund(world.devnet, WALLET.address, TON)
    settler = world.settler()
    await check_books(world, settler)
    await world.pay_out(OutMessage(destination=payees(1)[0], amount=Nanotons(5 * TON)))
    with pytest.raises(OverdraftError):
        await settler.tick()
    assert world.books.ledger.available(ACCOUNT) == 10 * TON


def test_an_account_that_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        deposit_body(b"short")
