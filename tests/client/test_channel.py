"""Leases paid by vouchers: a client, real enclaves, the operator's counter and its settlement over a real devnet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from attestation.simulate import SimulatedHost, SimulatedVendors
from billing.bill import Bill, Difference, booked_bill, compare_bills
from billing.entries import Entry
from billing.hold_book import RELEASE_GRACE_S
from billing.money import Nanotons
from billing.payment import CloseOrder, parse_close_order, parse_payment
from billing.records import parse_record
from billing.ton.cells import address_of
from billing.ton.channel import ChannelStatus, channel_address, read_channel
from billing.ton.channel_desk import ClientDesk
from billing.ton.channel_states import SAFETY_MARGIN
from billing.voucher import verify_voucher
from client.config import ChannelSettings
from client.errors import ChannelUnusableError, LeaseRefusedError
from client.receipts import KeptReceipt, ReceiptStore
from client.vouchers import HOLD_END_S
from cluster.lease import LEASE_S
from tests.billing.ton.world import TON, fund, treasury
from tests.client.paying import CLIENT_KEY, DELAY, DEPOSIT, FUNDS, WALLET, PaidNetwork, paid_network
from tests.client.support import BUDGET, CHAT

Start = Callable[..., AbstractAsyncContextManager[PaidNetwork]]


@pytest.fixture
def start(tmp_path: Path, vendors: SimulatedVendors, simulated: list[SimulatedHost]) -> Start:
    return lambda **changes: paid_network(tmp_path, vendors, simulated[:2], **changes)


@pytest.fixture
async def paid(start: Start) -> AsyncIterator[PaidNetwork]:
    async with start() as paid:
        yield paid


async def ask(paid: PaidNetwork) -> int:
    """One answer; returns what it cost."""
    async with AsyncOpenAI(base_url=f"{paid.network.url}/v1", api_key="local", max_retries=0) as sdk:
        answer = await sdk.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == "one two three four five"
        assert answer.usage is not None
        return answer.usage.model_extra["cost_nanotons"]


async def refusal(paid: PaidNetwork) -> tuple[int, str | None, str]:
    async with AsyncOpenAI(base_url=f"{paid.network.url}/v1", api_key="local", max_retries=0) as sdk:
        with pytest.raises(APIStatusError) as refused:
            await sdk.chat.completions.create(**CHAT)
    return refused.value.status_code, refused.value.code, str(refused.value)


def receipts(paid: PaidNetwork) -> tuple[KeptReceipt, ...]:
    store = ReceiptStore(paid.network.config.state / "receipts.sqlite")
    try:
        return store.latest()
    finally:
        store.close()


def promised(paid: PaidNetwork) -> list[int]:
    """The totals of the vouchers that reached the gateway, in order."""
    payments = [parse_payment(body["payment"]) for body in paid.operator.bodies]
    return [verify_voucher(payment.voucher, paid.operator.account).total for payment in payments]


def payer(paid: PaidNetwork) -> Any:
    return paid.network.sidecar._client._leases._payer


async def end_leases(paid: PaidNetwork) -> None:
    """Time passes until nothing is held for leases any more, for all three clocks."""
    await paid.devnet.node.advance(LEASE_S + HOLD_END_S)
    paid.network.clock.ahead += timedelta(seconds=LEASE_S + HOLD_END_S)
    assert HOLD_END_S > RELEASE_GRACE_S
    paid.operator.cashier.release_expired()


async def test_from_a_channel_to_the_hosts_wallets_every_nanoton_is_where_it_belongs(paid: PaidNetwork) -> None:
    operator, chain, books = paid.operator, paid.chain, paid.operator.cashier.books
    await fund(paid.devnet, treasury().address, TON)  # pays the chain's fees
    costs = [await ask(paid) for _ in range(3)]
    posted = await operator.cashier.post([kept.signed for kept in receipts(paid)])
    assert [post.accepted for post in posted] == [True] * 3
    assert operator.available == 0, "what is signed is held for the lease, and no more"
    assert books.ledger.channels.get(paid.terms.channel.account).claim == BUDGET
    assert operator.cashier.shortfall(force=True) == sum(costs) - sum(cost * 50 // 1000 for cost in costs)
    await operator.cashier.tick()
    assert operator.cashier.shortfall(force=True) == 0, "the operator's own money would do"
    assert (await operator.counter.watch.round(needed=1)).sent == 1
    report = await operator.cashier.settle(force=True)
    assert report.reconciliation.difference == 0
    assert books.ledger.imbalance() == 0
    assert books.ledger.channels.get(paid.terms.channel.account).claim == 0
    state = await read_channel(chain, paid.terms)
    assert state.redeemed == BUDGET
    hosts = {total.payee: total.paid for total in books.ledger.totals()}
    assert sum(hosts.values()) == sum(cost - cost * 50 // 1000 for cost in costs)
    for payee, amount in hosts.items():
        assert (await chain.account(address_of(payee))).balance == amount
    everybody = (WALLET.address, state.address, treasury().address)
    accounts = [await chain.account(address) for address in everybody]
    fees = sum([tx.cost for account in accounts for tx in await chain.transactions(account)])
    assert sum(account.balance for account in accounts) + sum(hosts.values()) + fees == FUNDS + TON


async def test_a_lease_is_paid_with_a_voucher_for_its_budget_and_the_next_one_for_what_was_used(
    paid: PaidNetwork,
) -> None:
    cost = await ask(paid)
    assert promised(paid) == [BUDGET]
    await paid.operator.cashier.post([kept.signed for kept in receipts(paid)])
    await end_leases(paid)
    await ask(paid)
    assert promised(paid) == [BUDGET, BUDGET + cost]
    await end_leases(paid)
    assert payer(paid).account(paid.network.sidecar._registry.view().operator()).billed == 2 * cost


async def test_the_voucher_that_was_sent_is_on_disk(paid: PaidNetwork) -> None:
    await ask(paid)
    (sent,) = paid.operator.bodies
    store = payer(paid)._vouchers
    assert store.latest(paid.terms.channel) == parse_payment(sent["payment"]).voucher
    assert (paid.network.config.state / "vouchers.sqlite").exists()


async def test_a_lease_whose_answer_was_lost_is_not_paid_for_twice(paid: PaidNetwork) -> None:
    paid.operator.lose_answers = 1
    assert (await refusal(paid))[0] == 502
    assert promised(paid) == [BUDGET]
    await ask(paid)  # the operator holds the first lease still, and asks for a voucher for both
    assert promised(paid) == [BUDGET, BUDGET, 2 * BUDGET]


async def test_an_operator_that_asks_for_too_much_gets_no_signature(start: Start) -> None:
    settings = ChannelSettings(deposit=DEPOSIT, advance=Nanotons(1000))
    async with start(channel=settings) as paid:
        await ask(paid)
        await paid.operator.cashier.post([kept.signed for kept in receipts(paid)])
        for asked, code in ((2 * BUDGET + 1001, "bill_refused"), ((1 << 63) - 1, "bill_refused")):
            await take_new_lease(paid, asked, code)
        before = promised(paid)[-1]
        await take_new_lease(paid, 2 * BUDGET + 1000, "voucher_needed")
        assert promised(paid)[-1] == 2 * BUDGET + 1000 > before


async def take_new_lease(paid: PaidNetwork, asked: int, code: str) -> None:
    """Ask for another lease; the gateway answers every time that a voucher of `asked` is needed."""
    leases, payer_ = paid.network.sidecar._client._leases, payer(paid)

    async def refuse(*_: object) -> object:
        error = LeaseRefusedError(402, "voucher_needed", "sign more", asked)
        paid.operator.bodies.append(dict(_[1]))  # type: ignore[call-overload]
        raise error

    transport = leases._transport
    take_lease, transport.take_lease = transport.take_lease, refuse
    try:
        with pytest.raises(Exception) as refused:
            await leases.current("echo", instead_of=leases._leases["echo"])
    finally:
        transport.take_lease = take_lease
    assert getattr(refused.value, "code", "") == code, refused.value
    assert payer_.account(paid.network.sidecar._registry.view().operator()).unanswered == 0, (
        "a refused lease holds nothing"
    )


async def test_cut_answers_that_no_receipt_shows_are_paid_out_of_the_advance(paid: PaidNetwork) -> None:
    await ask(paid)
    (kept,) = receipts(paid)
    await paid.operator.cashier.post([kept.signed])
    payer(paid)._receipts.spent = lambda _: 0  # as if it had never come
    await end_leases(paid)
    await ask(paid)
    assert promised(paid) == [BUDGET, BUDGET, BUDGET + kept.receipt.price]


async def test_a_deposit_that_is_used_up_is_to_be_topped_up_and_then_pays_again(start: Start) -> None:
    async with start(channel=ChannelSettings(deposit=Nanotons(BUDGET // 2))) as paid:
        status, code, text = await refusal(paid)
        assert (status, code) == (402, "channel_unusable")
        assert "top it up by at least" in text
        assert paid.operator.bodies == [], "nothing was signed"
        desk = ClientDesk(paid.chain, paid.terms, WALLET, CLIENT_KEY)
        await desk.top_up(Nanotons(BUDGET // 2 + SAFETY_MARGIN), **paid.now())
        await ask(paid)


async def test_a_sidecar_that_may_top_up_goes_on_by_itself(start: Start) -> None:
    deposit = Nanotons(BUDGET + SAFETY_MARGIN)
    async with start(channel=ChannelSettings(deposit=deposit, top_up_below=400, top_up_daily_max=DEPOSIT)) as paid:
        leases = paid.network.sidecar._client._leases
        for _ in range(3):
            await leases.current("echo", instead_of=leases._leases.get("echo"))
        await payer(paid)._topping
        state = await read_channel(paid.chain, paid.terms)
        assert state.payable >= 3 * BUDGET
        assert promised(paid) == [BUDGET, 2 * BUDGET, 3 * BUDGET]


async def test_a_client_without_channel_or_deposit_does_not_start(start: Start) -> None:
    with pytest.raises(ChannelUnusableError, match=r"is not open: set channel\.deposit"):
        async with start(channel=ChannelSettings()):
            pass


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        pytest.param({"channel": None}, "takes no payment channels", id="none"),
        pytest.param(["channel"], "takes no payment channels", id="noise"),
        pytest.param({"channel": {"delay_min_s": DELAY + 1}}, "asks for a channel.delay_s of 86401", id="longer-delay"),
    ],
)
async def test_no_money_goes_into_a_channel_that_the_operator_does_not_take(
    start: Start, offer: object, why: str
) -> None:
    with pytest.raises(ChannelUnusableError, match=why):
        async with start(offer=offer):
            pass


async def test_no_more_is_paid_ahead_than_the_settings_say(start: Start) -> None:
    async with start(channel=ChannelSettings(deposit=DEPOSIT, leases_max=2)) as paid:
        await ask(paid)
        leases = paid.network.sidecar._client._leases
        await leases.current("echo", instead_of=leases._leases["echo"])
        with pytest.raises(ChannelUnusableError, match="2 leases of 180000000 nanoton are paid ahead"):
            await leases.current("echo", instead_of=leases._leases["echo"])
        assert promised(paid) == [BUDGET, 2 * BUDGET]


async def test_a_deposit_that_the_wallet_does_not_have_is_refused(start: Start) -> None:
    with pytest.raises(ChannelUnusableError, match="send it at least"):
        async with start(channel=ChannelSettings(deposit=Nanotons(2 * FUNDS))):
            pass


async def test_a_channel_that_is_being_closed_pays_for_nothing_more(paid: PaidNetwork) -> None:
    desk = ClientDesk(paid.chain, paid.terms, WALLET, CLIENT_KEY)
    await desk.announce_close(**paid.now())
    payer(paid)._state = None
    status, code, text = await refusal(paid)
    assert (status, code) == (402, "channel_unusable")
    assert "closing or closed" in text
    assert paid.operator.bodies == []


async def test_a_vanished_operator_keeps_what_it_redeemed_and_the_client_gets_the_rest(paid: PaidNetwork) -> None:
    await ask(paid)
    assert (await paid.operator.counter.watch.round(needed=1)).sent == 1
    desk = ClientDesk(paid.chain, paid.terms, WALLET, CLIENT_KEY)
    await desk.announce_close(**paid.now())
    before = (await paid.chain.account(WALLET.address)).balance
    await paid.devnet.node.advance(DELAY)
    state = await desk.finish(**paid.now())
    assert (state.status, state.redeemed) == (ChannelStatus.CLOSED, BUDGET)
    assert (await paid.chain.account(WALLET.address)).balance > before + DEPOSIT - BUDGET


async def test_client_and_operator_close_at_what_the_receipts_say(paid: PaidNetwork) -> None:
    cost = await ask(paid)
    await paid.operator.cashier.post([kept.signed for kept in receipts(paid)])
    with pytest.raises(ChannelUnusableError, match="are under way"):
        await payer(paid).close(paid.network.sidecar._registry.view().operator(), None)
    await end_leases(paid)
    before = (await paid.chain.account(WALLET.address)).balance
    sent: list[CloseOrder] = []

    async def send(fields: Any) -> None:
        sent.append(parse_close_order(fields))
        await paid.operator.counter.office.close(sent[0])

    state = await payer(paid).close(paid.network.sidecar._registry.view().operator(), send)
    assert (state.status, sent[0].total) == (ChannelStatus.CLOSED, cost)
    account = await paid.chain.account(channel_address(paid.terms))
    assert account.balance == 0
    assert (await paid.chain.account(WALLET.address)).balance > before + DEPOSIT - cost
    report = await paid.operator.cashier.tick()
    assert report.reconciliation.difference == 0
    assert paid.operator.cashier.books.ledger.treasury() == cost - sum(
        [tx.cost for tx in await paid.chain.transactions(await paid.chain.account(treasury().address))]
    )


async def test_both_sides_make_the_same_bill_and_a_receipt_that_one_lacks_is_named(paid: PaidNetwork) -> None:
    await ask(paid)
    await ask(paid)
    first, second = receipts(paid)
    await paid.operator.cashier.post([first.signed, second.signed])
    store = ReceiptStore(paid.network.config.state / "receipts.sqlite")
    here = store.bill(paid.operator.account)
    store.close()
    records = [parse_record(payload) for payload in paid.operator.cashier.books._journal]
    there = booked_bill(paid.operator.account, [record for record in records if isinstance(record, Entry)])
    assert here.root() == there.root()
    assert compare_bills(here, there) == ()
    short = Bill(account=here.account, receipts={second.receipt.request_hash: second.receipt})
    (finding,) = compare_bills(short, there)
    assert (finding.difference, finding.request_hash) == (Difference.MISSING_HERE, first.receipt.request_hash)
    assert finding.amount == there.total - short.total
