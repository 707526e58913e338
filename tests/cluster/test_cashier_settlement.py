"""From a deposit on the chain to money in the payees' wallets: a cashier and its settler over a real devnet."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.grant import Grant, HostSlice
from billing.hold_book import RELEASE_GRACE_S
from billing.lease_request import LeaseRequest, sign_lease_request
from billing.money import Nanotons
from billing.receipt import Receipt, sign_receipt
from billing.settlement import SettlementPolicy
from billing.tariff import Usage, price
from billing.ton.client import ChainClient
from billing.ton.deposits import deposit_transfer
from billing.ton.devnet import Devnet, running_devnet
from billing.ton.registry import read_registry
from billing.ton.settler import Settler
from billing.ton.wallet import pay
from billing.totals import totals_root
from cluster.address_book import HostKey
from cluster.cashier import Cashier
from cluster.lease import LEASE_S, lease_id
from tests.billing.ton.world import (
    CLIENT_KEY,
    TON,
    TREASURY_KEY,
    Registry,
    balances,
    chain_clock,
    config_of,
    deploy_registry,
    fund,
    treasury,
    wallet_of,
)
from tests.cluster.enclaves import OpenEnclave
from tests.cluster.fleets import MODEL, name_bytes

OPERATOR = Ed25519PrivateKey.from_private_bytes(name_bytes("operator", 32))
ACCOUNT = CLIENT_KEY.public_key().public_bytes_raw()
HOSTS = (OpenEnclave("a"), OpenEnclave("b"))
USAGE = Usage(prompt_tokens=1000, completion_tokens=500)
COEFFICIENTS = (1000, 750)
PRICES = [price(USAGE, MODEL.tariff, coefficient=coefficient) for coefficient in COEFFICIENTS]
FEE_PERMILLE = 50
EARNED = [3 * (amount - amount * FEE_PERMILLE // 1000) for amount in PRICES]
DEPOSIT = TON


class Admitted:
    """The registry's answers: two admitted hosts, five percent."""

    async def keys(self, host_ids) -> dict[bytes, HostKey]:
        return {
            host.host_id: HostKey(host_id=host.host_id, receipt=host.receipt, payee=host.payee)
            for host in HOSTS
            if host.host_id in host_ids
        }

    async def fee_permille(self) -> int:
        return FEE_PERMILLE


class World:
    """A devnet with registry, treasury and a client that has money; and the operator's cashier, which may restart."""

    def __init__(self, devnet: Devnet, chain: ChainClient, registry: Registry, folder: Path) -> None:
        self.devnet, self.chain, self.registry = devnet, chain, registry
        self.clock = chain_clock(devnet)
        self.lease = b""
        self._journal = folder / "books.sqlite"
        self.cashier = self._start()

    def _start(self) -> Cashier:
        cashier = Cashier(
            journal=self._journal,
            operator_key=OPERATOR,
            admissions=Admitted(),
            policy=SettlementPolicy(threshold=Nanotons(EARNED[1] + 1), dust=Nanotons(1)),
            clock=self.clock,
        )
        cashier.attach(
            Settler(
                chain=self.chain,
                books=cashier.books,
                wallet=treasury(),
                key=TREASURY_KEY,
                registry=self.registry.address,
                clock=self.clock,
            )
        )
        return cashier

    def restart(self) -> None:
        self.cashier.close()
        self.cashier = self._start()

    async def deposit(self) -> None:
        transfer = deposit_transfer(treasury().address, ACCOUNT, Nanotons(DEPOSIT))
        await pay(self.chain, wallet_of(CLIENT_KEY), CLIENT_KEY, [transfer], now=self.clock())

    def hold(self) -> None:
        request = LeaseRequest(
            operator=OPERATOR.public_key().public_bytes_raw(),
            account=ACCOUNT,
            model=MODEL.name,
            tier="confidential",
            hosts=2,
            budget=Nanotons(10 * sum(PRICES)),
            request_id=b"\x0a" * 16,
            issued_at=int(self.clock().timestamp()),
        )
        hosts = tuple(
            HostSlice(host_id=host.host_id, slice=Nanotons(10 * amount), coefficient=coefficient)
            for host, amount, coefficient in zip(HOSTS, PRICES, COEFFICIENTS, strict=True)
        )
        self.lease = lease_id(request)
        grant = Grant(
            lease=self.lease,
            account=ACCOUNT,
            operator=OPERATOR.public_key().public_bytes_raw(),
            model_root=MODEL.root,
            tariff=MODEL.tariff,
            hosts=hosts,
            not_after=request.issued_at + LEASE_S,
        )
        self.cashier.place_hold(grant, sign_lease_request(request, CLIENT_KEY))

    def receipts(self) -> list[bytes]:
        """Three signed by each host."""
        return [self._receipt(host, number) for number in range(3) for host in (0, 1)]

    def _receipt(self, host: int, number: int) -> bytes:
        receipt = Receipt(
            request_hash=hashlib.sha256(bytes([host, number])).digest(),
            account=ACCOUNT,
            lease=self.lease,
            host_id=HOSTS[host].host_id,
            model_root=MODEL.root,
            usage=USAGE,
            price=PRICES[host],
            response_hash=b"\x05" * 32,
            transcript=b"\x06" * 48,
            payee=HOSTS[host].payee,
            issued_at=int(self.clock().timestamp()),
        )
        return sign_receipt(receipt, HOSTS[host].key)

    async def paid(self) -> list[int]:
        return await balances(self.chain, [host.payee for host in HOSTS])

    def check_books(self) -> None:
        assert self.cashier.books.ledger.imbalance() == 0
        assert {total.payee: total.earned for total in self.cashier.statement().payees} == {
            host.payee: earned for host, earned in zip(HOSTS, EARNED, strict=True)
        }


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_devnet(tmp_path / "net") as devnet:
        await fund(devnet, wallet_of(CLIENT_KEY).address, 10 * TON)
        await fund(devnet, treasury().address, TON)
        async with await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
            world = World(devnet, chain, await deploy_registry(devnet, chain), tmp_path)
            yield world
            world.cashier.close()


async def test_what_hosts_earned_by_receipts_is_paid_to_the_nanoton_and_once_over_restarts(world) -> None:
    await world.deposit()
    await world.cashier.tick()
    assert world.cashier.books.ledger.available(ACCOUNT) == DEPOSIT
    world.restart()
    await world.cashier.tick()
    assert world.cashier.books.ledger.available(ACCOUNT) == DEPOSIT, "a deposit is credited once"

    world.hold()
    assert all(posted.accepted for posted in await world.cashier.post(world.receipts()))
    world.restart()
    assert all(posted.accepted for posted in await world.cashier.post(world.receipts())), "posting again is no error"
    world.check_books()

    totals = world.cashier.books.ledger.totals()
    report = await world.cashier.settle(force=True)
    assert report.reconciliation.difference == 0
    assert await world.paid() == EARNED
    assert (await read_registry(world.chain, world.registry.address)).anchor_of(treasury().address) == (
        1,
        totals_root(totals),
    )

    world.restart()
    report = await world.cashier.settle(force=True)
    assert await world.paid() == EARNED, "the second settlement pays nothing more"
    assert report.reconciliation.difference == 0
    assert all(total.paid == total.earned for total in world.cashier.statement().payees)
    world.check_books()


async def test_what_a_lease_did_not_use_is_the_clients_again_after_its_grace(world) -> None:
    await world.deposit()
    await world.cashier.tick()
    world.hold()
    await world.cashier.post(world.receipts())
    world.devnet.node.clock.advance(LEASE_S + RELEASE_GRACE_S)
    assert world.cashier.release_expired() == 1
    assert world.cashier.books.ledger.available(ACCOUNT) == DEPOSIT - 3 * sum(PRICES)
    world.check_books()


async def test_a_batch_that_was_planned_before_a_restart_is_paid_after_it(world) -> None:
    await world.deposit()
    await world.cashier.tick()
    world.hold()
    await world.cashier.post(world.receipts())
    assert await world.cashier.plan_due(period_s=60) == ()
    world.devnet.node.clock.advance(60)
    (batch,) = await world.cashier.plan_due(period_s=60)
    assert [payout.payee for payout in batch.payouts] == [HOSTS[0].payee], "the other is below the threshold"
    assert await world.cashier.plan_due(period_s=60) == ()
    world.restart()
    while (await world.cashier.tick()).open:
        pass
    assert await world.paid() == [EARNED[0], 0]


async def test_automatic_settlement_sends_nothing_while_nobody_is_due(world) -> None:
    world.devnet.node.clock.advance(3600)
    assert await world.cashier.plan_due(period_s=60) == ()
    assert world.cashier.books.batches() == {}
