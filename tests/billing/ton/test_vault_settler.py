"""The settler with the vault as its treasury: orders in turn, claims in between, and each payee paid once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell

from billing.batch import BatchState, PayoutState
from billing.books import Books
from billing.entitlements import Entitlements
from billing.entries import OPERATOR_CAPITAL, payee_account
from billing.errors import MissingEntitlementsError, NothingToClaimError, SecondWriterError, WrongContractError
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.cells import payee_of
from billing.ton.client import ChainClient
from billing.ton.deposits import claim_of, deposit_transfer
from billing.ton.devnet import Devnet, Fault, FaultKind, running_devnet
from billing.ton.outgoing import OutMessage
from billing.ton.settler import Settler, TickReport
from billing.ton.vault import (
    CLAIM_VALUE,
    RENT_RESERVE,
    parse_vault,
    read_vault,
    vault_address,
    vault_init,
    withdraw_body,
)
from billing.ton.vault import claim_of as claim_for
from billing.ton.vault_order import Order, sign_order
from billing.ton.vault_sender import EntitlementFiles, VaultSender
from billing.ton.wallet import Transfer, pay
from tests.billing.ton.doom import Fate, Killed, MortalClient, live, open_mortal
from tests.billing.ton.world import (
    CLIENT_KEY,
    EVERYBODY,
    OWNER_KEY,
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    config_of,
    deploy_registry,
    fund,
    owe,
    payees,
    vault_sender,
    wallet_of,
)

NOBODY_YET = SettlementPolicy(threshold=Nanotons(1000 * TON), max_age_s=10**9)
PAYEE_KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([0x80 + i]) * 32) for i in range(3)]
PAYEES = [payee_of(wallet_of(key).address) for key in PAYEE_KEYS]


@dataclass(kw_only=True)
class World:
    """A funded vault, its registry, and books."""

    devnet: Devnet
    chain: ChainClient
    books: Books
    vault: VaultSender
    registry: Address | None = None

    def settler(self, books: Books | None = None) -> Settler:
        return Settler(
            chain=self.chain,
            books=books or self.books,
            wallet=self.vault,
            key=TREASURY_KEY,
            registry=self.registry,
            clock=chain_clock(self.devnet),
        )

    def owe(self, amounts: dict[bytes, int]) -> None:
        owe(self.books, amounts, at=self.devnet.node.clock.now())

    async def anchor(self) -> None:
        """An order that pays nobody: everything owed may be claimed now."""
        settler = self.settler()
        assert [batch.payouts for batch in await settler.plan(NOBODY_YET)] == [()]
        self.check(await settler.settle())

    async def claim(self, i: int) -> int:
        """Claim with a payee's own wallet; what its balance grew by, fees apart."""
        state = await self.chain.account(self.vault.address)
        entitlements = self.vault.files.load(parse_vault(state).root)
        return await self.present(i, claim_for(entitlements, wallet_of(PAYEE_KEYS[i]).address))

    async def present(self, i: int, body: Cell) -> int:
        wallet, key = wallet_of(PAYEE_KEYS[i]), PAYEE_KEYS[i]
        before = (await self.chain.account(wallet.address)).balance
        claim = Transfer(destination=self.vault.address, amount=CLAIM_VALUE, body=body)
        await pay(self.chain, wallet, key, [claim], now=chain_clock(self.devnet)())
        await self.devnet.node.tick()
        return (await self.chain.account(wallet.address)).balance - before

    async def claimed(self) -> list[int]:
        """What each payee took by claims, from the vault's history."""
        history = await self.chain.transactions(await self.chain.account(self.vault.address))
        claims = [claim for claim in map(claim_of, history) if claim]
        return [sum(claim.amount for claim in claims if claim.payee == payee) for payee in PAYEES]

    def owed(self) -> list[int]:
        return [self.books.ledger.balance(payee_account(payee)) for payee in PAYEES]

    def check(self, report: TickReport) -> None:
        assert report.reconciliation.difference == 0
        assert self.books.ledger.imbalance() == 0


@pytest.fixture
async def world(devnet: Devnet, chain: ChainClient, tmp_path: Path) -> AsyncIterator[World]:
    with Books.open(tmp_path / "books") as books:
        world = World(devnet=devnet, chain=chain, books=books, vault=vault_sender(tmp_path / "roots"))
        await fund(devnet, world.vault.address, 1000 * TON)
        for key in PAYEE_KEYS:
            await fund(devnet, wallet_of(key).address, TON)
        world.registry = (await deploy_registry(devnet, chain, operator_wallet=world.vault.address)).address
        await world.settler().tick()
        yield world


def gained(before: list[int], after: list[int]) -> list[int]:
    """What was received; a wallet's storage costs it single nanotons meanwhile."""
    return [round(b - a, -3) for a, b in zip(before, after, strict=True)]


async def test_batches_are_paid_one_after_the_other_to_the_nanoton(world: World) -> None:
    names = payees(300)
    debts = {name: TON + i for i, name in enumerate(names)}
    world.owe(debts)
    settler = world.settler()
    assert [len(batch.payouts) for batch in await settler.plan(EVERYBODY)] == [249, 51]
    await settler.tick()
    assert [b.state for b in world.books.batches().values()].count(BatchState.SENT) == 1
    world.check(await settler.settle())
    assert await balances(world.chain, names) == list(debts.values())
    assert {batch.state for batch in world.books.batches().values()} == {BatchState.CONFIRMED}
    vault = await read_vault(world.chain, world.vault.address)
    assert (vault.seqno, vault.held) == (2, 0)


async def test_a_payee_claims_what_is_anchored_and_the_books_know(world: World) -> None:
    world.owe(dict(zip(PAYEES, (TON, 2 * TON, 3 * TON), strict=True)))
    await world.anchor()
    assert 2 * TON - TON // 50 < await world.claim(1) < 2 * TON
    world.check(await world.settler().tick())
    assert (await world.claimed(), world.owed()) == ([0, 2 * TON, 0], [TON, 0, 3 * TON])
    assert (await read_vault(world.chain, world.vault.address)).held == 4 * TON


async def test_what_was_claimed_is_not_pushed_and_what_was_pushed_cannot_be_claimed(world: World) -> None:
    world.owe(dict.fromkeys(PAYEES, TON))
    await world.anchor()
    await world.claim(0)
    settler = world.settler()
    await settler.tick()
    before = await balances(world.chain, PAYEES)
    (batch,) = await settler.plan(EVERYBODY)
    assert {payout.payee for payout in batch.payouts} == set(PAYEES[1:])
    world.check(await settler.settle())
    after = await balances(world.chain, PAYEES)
    assert gained(before, after) == [0, TON, TON]
    settler = world.settler()
    with pytest.raises(RuntimeError):
        settler.claim_proof(PAYEES[0])
    await settler.tick()
    for i in range(3):
        with pytest.raises(NothingToClaimError):
            settler.claim_proof(PAYEES[i])
    assert await world.claimed() == [TON, 0, 0]


async def test_a_claim_between_signing_and_arrival_makes_the_batch_void_and_nobody_is_paid_twice(world: World) -> None:
    world.owe(dict.fromkeys(PAYEES, TON))
    await world.anchor()
    world.devnet.node.faults.inject(Fault(kind=FaultKind.DROP))
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    await settler.tick()  # signed, sent, lost on the way
    await world.claim(0)
    report = await settler.tick()
    world.check(report)
    assert report.open == 0  # no waiting for its time: the claim is the proof
    void = world.books.batches()[batch.id]
    assert (void.state, {p.state for p in void.payouts}) == (BatchState.EXPIRED, {PayoutState.REQUEUED})
    assert world.owed() == [0, TON, TON]
    assert void.message is not None
    with pytest.raises(Exception, match="416"):  # presented by anybody
        await world.chain.send(void.message.boc)
    before = await balances(world.chain, PAYEES)
    await settler.plan(EVERYBODY)
    world.check(await settler.settle())
    after = await balances(world.chain, PAYEES)
    assert gained(before, after) == [0, TON, TON]


async def test_a_claim_of_what_is_planned_and_not_signed_takes_it_out_of_the_plan(world: World) -> None:
    world.owe(dict.fromkeys(PAYEES[:2], TON))
    await world.anchor()
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    await world.claim(0)
    world.check(await settler.tick())
    assert world.books.batches()[batch.id].state is BatchState.EXPIRED
    assert world.owed() == [0, TON, 0]


async def test_a_claim_of_somebody_else_does_not_touch_a_plan(world: World) -> None:
    world.owe(dict.fromkeys(PAYEES, TON))
    await world.anchor()
    settler = world.settler()
    world.owe({payees(1)[0]: 5 * TON})
    (batch,) = await settler.plan(SettlementPolicy(threshold=Nanotons(4 * TON)), anchor=False)
    await world.claim(0)
    world.check(await settler.settle())
    assert world.books.batches()[batch.id].state is BatchState.CONFIRMED


async def test_a_claim_after_the_order_arrived_and_before_it_was_noticed_changes_nothing(world: World) -> None:
    world.owe(dict.fromkeys(PAYEES, TON))
    await world.anchor()
    settler = world.settler()
    world.owe({PAYEES[0]: 5 * TON})
    (batch,) = await settler.plan(SettlementPolicy(threshold=Nanotons(4 * TON)), anchor=False)
    await settler.tick()
    await world.devnet.node.tick()
    assert await world.claim(1) > TON // 2
    world.check(await settler.settle())
    assert world.books.batches()[batch.id].state is BatchState.CONFIRMED
    assert world.owed() == [0, 0, TON]


async def test_a_claim_the_vault_cannot_pay_is_paid_when_it_can(world: World) -> None:
    """A stolen hot key empties the vault. Nothing is burnt: the same proof is good again."""
    world.owe(dict.fromkeys(PAYEES, 100 * TON))
    await world.anchor()
    account = await world.chain.account(world.vault.address)
    vault = await read_vault(world.chain, world.vault.address)
    loot = OutMessage(destination=b"\x00" + b"\x66" * 32, amount=Nanotons(account.balance - 150 * TON))
    theft = sign_order(
        Order(messages=(loot,), root=vault.root, held=0),
        vault=world.vault.address,
        state=vault,
        key=TREASURY_KEY,
        created_at=account.head.time,
        after_lt=account.last_lt,
    )
    await world.chain.send(theft.boc)
    await world.devnet.node.tick()
    assert await world.claim(0) > 99 * TON
    assert -TON // 50 < await world.claim(1) < 0  # refused, only fees
    assert await world.claimed() == [100 * TON, 0, 0]
    await fund(world.devnet, world.vault.address, 151 * TON)
    for i in (1, 2):
        assert await world.claim(i) > 99 * TON
    assert await world.claimed() == [100 * TON] * 3


async def withdraw(world: World, amount: int) -> int:
    """What the operator's capital in the books is after the owner asked for `amount`."""
    order = [Transfer(destination=world.vault.address, amount=CLAIM_VALUE, body=withdraw_body(Nanotons(amount)))]
    await pay(world.chain, wallet_of(OWNER_KEY), OWNER_KEY, order, now=chain_clock(world.devnet)())
    await world.devnet.node.tick()
    world.check(await world.settler().tick())
    return world.books.ledger.balance(OPERATOR_CAPITAL)


async def test_the_owner_withdraws_the_operators_own_money_and_no_more(world: World) -> None:
    world.owe({PAYEES[0]: 100 * TON})
    await world.anchor()
    capital = world.books.ledger.balance(OPERATOR_CAPITAL)
    assert 0 <= await withdraw(world, 901 * TON) - capital < TON // 100  # refused; its sender paid the gas
    left = capital - await withdraw(world, 500 * TON)
    assert 499 * TON < left <= 500 * TON
    assert await world.claim(0) > 99 * TON


async def test_a_clients_deposit_is_held_for_it(world: World) -> None:
    client, key = wallet_of(CLIENT_KEY), CLIENT_KEY.public_key().public_bytes_raw()
    await fund(world.devnet, client.address, 10 * TON)
    await world.anchor()  # deploys the vault
    deposit = deposit_transfer(world.vault.address, key, Nanotons(5 * TON))
    await pay(world.chain, client, CLIENT_KEY, [deposit], now=chain_clock(world.devnet)())
    await world.devnet.node.tick()
    await world.settler().tick()
    assert world.books.ledger.available(key) == 5 * TON
    await world.anchor()
    assert (await read_vault(world.chain, world.vault.address)).held == 5 * TON


async def test_a_payout_the_vault_left_out_goes_into_a_later_batch(world: World) -> None:
    nowhere = b"\x05" + b"\x66" * 32  # no such workchain
    world.owe({PAYEES[0]: TON, nowhere: TON})
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    world.check(await settler.settle())
    states = {p.payee: p.state for p in world.books.batches()[batch.id].payouts}
    assert states == {PAYEES[0]: PayoutState.PAID, nowhere: PayoutState.REQUEUED}


async def test_books_that_miss_an_order_are_refused(world: World, tmp_path: Path) -> None:
    """An old copy of the journal does not know what was pushed, and would pay it again."""
    world.owe(dict.fromkeys(PAYEES, TON))
    settler = world.settler()
    await settler.plan(EVERYBODY, anchor=False)
    await settler.settle()
    with Books.open(tmp_path / "old-copy") as old:
        for _ in range(2):  # a restart does not forget
            with pytest.raises(SecondWriterError):
                await world.settler(old).tick()
    assert (await read_vault(world.chain, world.vault.address)).seqno == 1


async def test_a_batch_the_vault_cannot_pay_waits_for_money_and_leaves_the_rent(world: World) -> None:
    world.owe({PAYEES[0]: 999 * TON})
    await world.anchor()
    (free,) = await balances(world.chain, [payee_of(world.vault.address)])
    settler = world.settler()
    world.owe({PAYEES[1]: free - 999 * TON - RENT_RESERVE})
    await settler.plan(EVERYBODY, anchor=False)
    report = await settler.tick()
    assert "needed" in report.trouble[0]
    await fund(world.devnet, world.vault.address, TON)
    world.check(await settler.settle())
    assert world.owed()[:2] == [0, 0]


@pytest.mark.parametrize("kind", [FaultKind.LOSE_ANSWER, FaultKind.DUPLICATE, FaultKind.REJECT, FaultKind.DROP])
async def test_one_troubled_send_pays_once(world: World, kind: FaultKind) -> None:
    names = payees(5)
    world.owe(dict.fromkeys(names, TON))
    world.devnet.node.faults.inject(Fault(kind=kind))
    settler = world.settler()
    await settler.plan(EVERYBODY)
    await settler.tick()
    await world.devnet.node.advance(11)
    world.check(await settler.settle())
    await world.devnet.node.tick()
    assert await balances(world.chain, names) == [TON] * 5


async def test_an_order_that_never_arrives_expires_and_is_paid_by_a_later_batch(world: World) -> None:
    world.owe(dict.fromkeys(PAYEES, TON))
    before = await balances(world.chain, PAYEES)
    world.devnet.node.faults.inject(Fault(kind=FaultKind.DROP), 100)
    settler = world.settler()
    (batch,) = await settler.plan(EVERYBODY)
    for _ in range(8):
        await settler.tick()
        await world.devnet.node.advance(25)
    world.check(await settler.tick())
    first = world.books.batches()[batch.id]
    assert first.state is BatchState.EXPIRED
    assert first.message is not None
    world.devnet.node.faults.clear()
    await settler.plan(EVERYBODY)
    world.check(await settler.settle())
    with pytest.raises(Exception, match=r"413|414"):
        await world.chain.send(first.message.boc)
    assert gained(before, await balances(world.chain, PAYEES)) == [TON] * 3


async def test_another_contract_at_the_vaults_address_is_refused(world: World) -> None:
    with pytest.raises(WrongContractError, match="absent"):
        await read_vault(world.chain, Address((0, b"\x42" * 32)))
    assert world.registry is not None
    with pytest.raises(WrongContractError, match="its code is"):
        await read_vault(world.chain, world.registry)


async def test_a_vault_made_for_another_network_is_refused(world: World) -> None:
    owner = wallet_of(OWNER_KEY)
    init = vault_init(network_id=-239, owner=owner.address, public_key=b"\x01" * 32)
    first = Transfer(destination=vault_address(init), amount=Nanotons(TON), state_init=init, bounce=False)
    await pay(world.chain, owner, OWNER_KEY, [first], now=chain_clock(world.devnet)())
    await world.devnet.node.tick()
    with pytest.raises(WrongContractError, match="made for network -239"):
        await read_vault(world.chain, vault_address(init))


def test_entitlements_are_kept_for_the_root_in_force_and_the_next(tmp_path: Path) -> None:
    files = EntitlementFiles(folder=tmp_path / "roots")
    steps = [Entitlements(amounts={PAYEES[0]: i}) for i in (1, 2, 3)]
    in_force = bytes(32)
    for entitlements in steps:
        files.keep(entitlements, also=in_force)
        in_force = entitlements.root
    assert [files.load(e.root) == e for e in steps[1:]] == [True, True]
    with pytest.raises(MissingEntitlementsError):
        files.load(steps[0].root)


async def survives(folder: Path, deadly: int) -> bool:
    """One settler killed at a point, the next one goes on; whether the first one passed all its points."""
    names = payees(3)  # two batches
    debts = {name: TON + i for i, name in enumerate(names)}
    vault = vault_sender(folder / "roots")
    async with running_devnet(folder / "net") as devnet:
        clock = chain_clock(devnet)
        await fund(devnet, vault.address, 1000 * TON)

        async def life(fate: Fate) -> bool:
            async with await MortalClient.connect(config_of(devnet), clock=clock) as chain:
                chain.fate = fate
                with open_mortal(folder / "books", fate) as journal:
                    try:
                        await live(chain, journal, None, wallet=vault, clock=clock)
                    except Killed:
                        return False
            return True

        async with await MortalClient.connect(config_of(devnet), clock=clock) as chain:
            with Books.open(folder / "books") as books:
                await Settler(chain=chain, books=books, wallet=vault, key=TREASURY_KEY, clock=clock).tick()
                owe(books, debts, at=devnet.node.clock.now())
            survived = await life(Fate(deadly=deadly))
            if not survived:
                await devnet.node.advance(11)
                assert await life(Fate(deadly=-1))
            with Books.open(folder / "books") as books:
                report = await Settler(chain=chain, books=books, wallet=vault, key=TREASURY_KEY, clock=clock).tick()
            assert (report.open, report.reconciliation.difference) == (0, 0)
            assert await balances(chain, names) == list(debts.values())
    return survived


@pytest.mark.parametrize("deadly", [3, 5, 6, 7, 9, 14])
async def test_killed_around_a_send_each_payee_is_paid_exactly_once(tmp_path: Path, deadly: int) -> None:
    assert not await survives(tmp_path, deadly)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_killed_at_every_write_and_send_each_payee_is_paid_exactly_once(tmp_path: Path) -> None:
    deadly = 0
    while not await survives(tmp_path / str(deadly), deadly):
        deadly += 1
    assert deadly > 20
