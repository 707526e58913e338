"""A payment channel on the devnet, over ADNL with proofs: deposit, vouchers, redemption, close, to the nanoton."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.credit import Tab, hold, plan_redemption, see_deposit, settle, take_voucher
from billing.errors import (
    BadSignatureError,
    ChannelMismatchError,
    ChannelRefusesError,
    MessageRejectedError,
    WrongContractError,
)
from billing.money import Nanotons
from billing.ton.channel import (
    ORDER_VALUE,
    RENT_RESERVE,
    ChannelState,
    ChannelStatus,
    ChannelTerms,
    SignedOrder,
    announce_withdrawal_body,
    channel_address,
    channel_init,
    parse_channel,
    read_channel,
)
from billing.ton.channel_desk import ClientDesk, close_together, redeem
from billing.ton.client import ChainClient
from billing.ton.devnet import NETWORK_ID, Devnet
from billing.ton.wallet import Transfer, pay
from billing.voucher import Voucher, close_bytes, sign_voucher
from tests.billing.ton.world import CLIENT_KEY, OWNER_KEY, TON, chain_clock, deploy_registry, fund, treasury, wallet_of

OPERATOR_KEY = Ed25519PrivateKey.from_private_bytes(b"\x74" * 32)
WALLET = wallet_of(CLIENT_KEY)
PAYEE = Address((0, b"\x99" * 32))  # nothing is deployed there
DELAY = 86_400
TERMS = ChannelTerms(
    network_id=NETWORK_ID,
    client=WALLET.address,
    client_key=CLIENT_KEY.public_key().public_bytes_raw(),
    operator=PAYEE,
    operator_key=OPERATOR_KEY.public_key().public_bytes_raw(),
    delay_s=DELAY,
    nonce=7,
)


@dataclass(frozen=True, kw_only=True)
class World:
    devnet: Devnet
    chain: ChainClient
    terms: ChannelTerms = TERMS

    @property
    def client(self) -> ClientDesk:
        return ClientDesk(self.chain, self.terms, WALLET, CLIENT_KEY)

    def now(self) -> dict[str, Any]:
        return {"now": chain_clock(self.devnet)()}

    def voucher(self, total: int) -> bytes:
        return sign_voucher(Voucher(channel=self.terms.channel, total=Nanotons(total)), CLIENT_KEY)

    async def redeem(self, total: int) -> ChannelState:
        return await redeem(self.chain, self.terms, self.voucher(total), OPERATOR_KEY)

    async def balance(self, address: Address) -> int:
        return (await self.chain.account(address)).balance

    async def fees(self, *addresses: Address) -> int:
        """All that the chain took from these accounts in all their transactions."""
        total = 0
        for address in addresses:
            account = await self.chain.account(address)
            total += sum(transaction.cost for transaction in await self.chain.transactions(account))
        return total

    def signed_close(self, total: int, valid_until: int, *, key: Ed25519PrivateKey = OPERATOR_KEY) -> SignedOrder:
        record = close_bytes(self.terms.channel, total=Nanotons(total), valid_until=valid_until)
        return SignedOrder(
            total=Nanotons(total),
            valid_until=valid_until,
            client_signature=CLIENT_KEY.sign(record),
            operator_signature=key.sign(record),
        )


@pytest.fixture
async def world(devnet: Devnet, chain: ChainClient) -> World:
    await fund(devnet, WALLET.address, 20 * TON)
    return World(devnet=devnet, chain=chain)


async def test_from_deposit_to_close_every_nanoton_is_where_it_belongs(world: World) -> None:
    funded = await world.balance(WALLET.address)
    state = await world.client.open(Nanotons(5 * TON), **world.now())
    assert state.payable >= 5 * TON
    tab = take_voucher(Tab(deposit=state.deposit()), world.voucher(TON))
    tab = settle(hold(tab, Nanotons(TON), now=state.proved_at), Nanotons(TON), price=Nanotons(TON))
    assert plan_redemption(tab, threshold=Nanotons(TON)) == TON
    assert (await world.redeem(TON)).redeemed == TON
    state = await world.client.top_up(Nanotons(2 * TON), **world.now())
    tab = take_voucher(see_deposit(tab, state.deposit()), world.voucher(6 * TON))
    state = await world.redeem(6 * TON)
    await world.client.announce_close(**world.now())
    await world.devnet.node.advance(DELAY)
    state = await world.client.finish(**world.now())
    assert (state.status, state.balance, state.redeemed) == (ChannelStatus.CLOSED, 0, 6 * TON)
    channel = channel_address(TERMS)
    client, operator = await world.balance(WALLET.address), await world.balance(PAYEE)
    history = await world.chain.transactions(await world.chain.account(channel))
    assert client + operator + await world.fees(WALLET.address, channel, PAYEE) == funded
    redemptions = [tx for tx in history if tx.incoming is not None and not tx.incoming.internal]
    rent = await world.fees(PAYEE)  # of the operator's own account, a nanoton where this takes long
    more = operator - (6 * TON - sum(tx.cost for tx in redemptions) - rent)
    assert 0 <= more <= len(redemptions)  # rent within a redemption's cost comes off the deposit: a nanoton, when slow
    assert client > funded - 6 * TON - 40_000_000  # the fees of its four messages, a deployment among them


async def test_a_redemption_costs_at_most_eight_thousandths_of_a_ton_and_a_top_up_less_than_half_of_that(
    world: World,
) -> None:
    await world.client.open(Nanotons(5 * TON), **world.now())
    channel = channel_address(TERMS)
    everybody = (WALLET.address, channel, PAYEE)
    before = await world.fees(*everybody)
    await world.client.top_up(Nanotons(TON), **world.now())
    topped_up = await world.fees(*everybody)
    await world.redeem(TON)
    redeemed = await world.fees(*everybody)
    assert topped_up - before <= 3_600_000
    assert redeemed - topped_up <= 8_000_000


async def test_a_vanished_operator_keeps_nothing_but_what_it_redeemed(world: World) -> None:
    await world.client.open(Nanotons(3 * TON), **world.now())
    await world.redeem(TON)
    with pytest.raises(ChannelRefusesError, match="nothing was announced"):
        await world.client.finish(**world.now())
    state = await world.client.announce_close(**world.now())
    with pytest.raises(ChannelRefusesError, match="the delay is over"):
        await world.client.finish(**world.now())
    assert state.deposit().covered == TON  # nothing more is served
    before = await world.balance(WALLET.address)
    await world.devnet.node.advance(DELAY)
    state = await world.client.finish(**world.now())
    assert state.balance == 0
    assert await world.balance(WALLET.address) > before + 2 * TON
    for action in (world.client.announce_close, world.client.cancel):
        with pytest.raises(ChannelRefusesError, match="closed"):
            await action(**world.now())
    with pytest.raises(ChannelRefusesError, match="closed"):
        await world.client.top_up(Nanotons(TON), **world.now())
    with pytest.raises(ChannelRefusesError):
        await world.redeem(2 * TON)


async def test_a_client_that_runs_is_overtaken_by_its_voucher(world: World) -> None:
    await world.client.open(Nanotons(3 * TON), **world.now())
    await world.client.announce_withdrawal(Nanotons(3 * TON), **world.now())
    await world.devnet.node.advance(DELAY - 1)
    state = await world.redeem(2 * TON)
    assert state.redeemed == 2 * TON
    await world.devnet.node.advance(1)
    state = await world.client.finish(**world.now())
    assert (state.status, state.payable, state.balance) == (ChannelStatus.OPEN, 0, RENT_RESERVE)


async def test_both_close_at_once_and_each_is_paid(world: World) -> None:
    await world.client.open(Nanotons(3 * TON), **world.now())
    before = await world.balance(WALLET.address)
    order = world.signed_close(2 * TON, world.devnet.node.clock.now() + 60)
    state = await close_together(world.chain, TERMS, order)
    assert (state.status, state.redeemed, state.balance) == (ChannelStatus.CLOSED, 2 * TON, 0)
    assert await world.balance(PAYEE) == 2 * TON
    assert await world.balance(WALLET.address) > before + TON
    with pytest.raises(MessageRejectedError):
        await close_together(world.chain, TERMS, order)


async def test_a_close_that_one_side_signed_twice_is_refused(world: World) -> None:
    await world.client.open(Nanotons(3 * TON), **world.now())
    order = world.signed_close(0, world.devnet.node.clock.now() + 60, key=CLIENT_KEY)
    with pytest.raises(MessageRejectedError):
        await close_together(world.chain, TERMS, order)
    assert (await read_channel(world.chain, TERMS)).status is ChannelStatus.OPEN


async def test_an_announcement_can_be_taken_back(world: World) -> None:
    await world.client.open(Nanotons(TON), **world.now())
    await world.client.announce_close(**world.now())
    state = await world.client.cancel(**world.now())
    assert (state.status, state.deposit().covered >= TON) == (ChannelStatus.OPEN, True)


@pytest.mark.parametrize("payee", ["highload-wallet", "contract-that-refuses"])
async def test_a_payout_stays_with_the_operator_whatever_its_account_is(world: World, payee: str) -> None:
    """The comparable network loses a payout that its receiver refuses; here the message cannot bounce."""
    registry = await deploy_registry(world.devnet, world.chain)
    address = registry.address if payee == "contract-that-refuses" else treasury().address
    before = await world.balance(address)
    other = replace(world, terms=replace(TERMS, operator=address))
    await other.client.open(Nanotons(2 * TON), **world.now())
    state = await other.redeem(TON)
    assert state.redeemed == TON
    assert state.payable >= TON
    assert await world.balance(address) > before + TON * 99 // 100


async def test_a_redemption_is_refused_before_it_is_sent(world: World) -> None:
    await world.client.open(Nanotons(2 * TON), **world.now())
    other = sign_voucher(Voucher(channel=replace(TERMS, nonce=8).channel, total=Nanotons(TON)), CLIENT_KEY)
    forged = sign_voucher(Voucher(channel=TERMS.channel, total=Nanotons(TON)), OPERATOR_KEY)
    for voucher, error in ((other, ChannelMismatchError), (forged, BadSignatureError)):
        with pytest.raises(error):
            await redeem(world.chain, TERMS, voucher, OPERATOR_KEY)
    with pytest.raises(MessageRejectedError):
        await redeem(world.chain, TERMS, world.voucher(TON), CLIENT_KEY)
    await world.redeem(TON)
    with pytest.raises(ChannelRefusesError, match="were redeemed"):
        await world.redeem(TON)


async def test_a_channel_is_opened_once(world: World) -> None:
    await world.client.open(Nanotons(TON), **world.now())
    with pytest.raises(WrongContractError, match="not new"):
        await world.client.open(Nanotons(TON), **world.now())


async def test_a_wallet_that_is_not_the_client_opens_nothing(world: World) -> None:
    with pytest.raises(ValueError, match="the channel's client is"):
        ClientDesk(world.chain, TERMS, wallet_of(OWNER_KEY), OWNER_KEY)


async def test_terms_for_another_network_are_refused(world: World) -> None:
    mainnet = replace(world, terms=replace(TERMS, network_id=-239))
    with pytest.raises(WrongContractError, match="made for network -239"):
        await mainnet.client.open(Nanotons(TON), **world.now())
    with pytest.raises(WrongContractError, match="made for network -239"):
        await mainnet.redeem(TON)


async def test_an_address_without_a_channel_is_refused(world: World) -> None:
    with pytest.raises(WrongContractError, match="absent"):
        await read_channel(world.chain, TERMS)


def _data(**changes: int) -> Cell:
    """The data of a channel's first state, with fields an attacker would rather have."""
    genuine = channel_init(TERMS).data
    s = genuine.begin_parse()
    fields = {"status": s.load_uint(2), "redeemed": s.load_uint(64), "due": s.load_uint(32), "amount": s.load_uint(64)}
    fields |= changes
    data = begin_cell().store_uint(fields["status"], 2).store_uint(fields["redeemed"], 64)
    data.store_uint(fields["due"], 32).store_uint(fields["amount"], 64).store_bytes(s.load_bytes(32))
    return data.store_ref(genuine.refs[0])


STATES = [
    pytest.param(_data(redeemed=5).end_cell(), "do not begin with", id="already-redeemed"),
    pytest.param(_data(status=1, due=1, amount=TON).end_cell(), "do not begin with", id="already-announced"),
    pytest.param(_data().store_bit(0).end_cell(), "goes on where it should end", id="with-a-tail"),
    pytest.param(_data().store_ref(Cell.empty()).end_cell(), "goes on where it should end", id="with-a-hidden-cell"),
    pytest.param(begin_cell().store_uint(0, 417).end_cell(), "not a channel's", id="cut-short"),
    pytest.param(_data(redeemed=(1 << 64) - 1).end_cell(), "redeemed must be", id="more-redeemed-than-exists"),
]


@pytest.mark.parametrize(("data", "why"), STATES)
async def test_the_right_code_over_other_data_is_refused(world: World, data: Cell, why: str) -> None:
    """A client could deploy a channel in which all its vouchers count as redeemed."""
    init = StateInit(code=channel_init(TERMS).code, data=data)
    address = Address((0, init.serialize().hash))
    first = Transfer(destination=address, amount=Nanotons(TON), state_init=init, bounce=False)
    await pay(world.chain, WALLET, CLIENT_KEY, [first], **world.now())
    account = await world.chain.wait_for(address, lambda state: state.code is not None)
    with pytest.raises(WrongContractError, match=why):
        parse_channel(account)


async def test_an_absurd_announcement_is_read_all_the_same(world: World) -> None:
    """A client cannot make its channel unreadable for the operator."""
    await world.client.open(Nanotons(TON), **world.now())
    body = begin_cell().store_bits(announce_withdrawal_body(Nanotons(0)).bits[:96]).store_uint((1 << 64) - 1, 64)
    order = Transfer(destination=channel_address(TERMS), amount=ORDER_VALUE, body=body.end_cell())
    await pay(world.chain, WALLET, CLIENT_KEY, [order], **world.now())
    await world.chain.wait_for(channel_address(TERMS), lambda state: state.balance > TON + RENT_RESERVE + 2_000_000)
    state = await read_channel(world.chain, TERMS)
    assert state.amount == (1 << 64) - 1
    assert state.deposit().covered == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"delay_s": 60},
        {"delay_s": 366 * 86_400},
        {"nonce": 1 << 64},
        {"client_key": b"short"},
        {"operator": Address((-1, bytes(32)))},
        {"client": Address((-1, bytes(32)))},
        {"network_id": 1 << 31},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_terms_that_endanger_a_side_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(TERMS, **changes)
