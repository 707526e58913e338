"""Vouchers become money in the books, and the books' claims become money on the chain, to the nanoton."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from billing.entries import CHAIN_FEES, CHANNEL_LOSSES, channel_account, hold_account
from billing.errors import (
    BadSignatureError,
    ChainUnreachableError,
    ChannelEndingError,
    ChannelMismatchError,
    ChannelRefusesError,
    ChannelTermsError,
    InsufficientFundsError,
    MalformedRecordError,
    VoucherNeededError,
    VoucherNotCoveredError,
    VoucherNotLaterError,
    WrongContractError,
)
from billing.grant import Grant, HostSlice
from billing.hold_book import RELEASE_GRACE_S
from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.channel import RENT_RESERVE, ChannelStatus, channel_address
from billing.ton.channel_office import ChannelPolicy
from billing.ton.channel_states import SAFETY_MARGIN
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet
from tests.billing.ton.channels import CHANNEL, CLIENT, DELAY, TERMS, WALLET, Office, payment, voucher
from tests.billing.ton.world import OWNER_KEY, TON, fund, treasury

DEPOSIT = 3 * TON


@pytest.fixture
async def office(devnet: Devnet, chain: ChainClient, tmp_path: Path) -> AsyncIterator[Office]:
    await fund(devnet, WALLET.address, 20 * TON)
    office = Office(devnet, chain, tmp_path / "books")
    await office.client.open(Nanotons(DEPOSIT), **office.now())
    yield office
    office.books.close()


def hold(office: Office, amount: int, number: int = 1) -> bytes:
    """Hold money for a lease, as the cashier does; returns the lease."""
    now = office.devnet.node.clock.now()
    grant = Grant(
        lease=bytes([number]) * 16,
        account=CLIENT,
        operator=bytes(32),
        model_root=bytes(32),
        tariff=Tariff(prompt_price=1, completion_price=1),
        hosts=(HostSlice(host_id=bytes(8), slice=Nanotons(amount), coefficient=1000),),
        not_after=now + 600,
    )
    office.books.post(office.books.ledger.plan_hold(grant, now=now))
    return grant.lease


async def test_a_voucher_is_the_clients_to_spend_and_the_operators_claim(office: Office) -> None:
    await office.take(TON)
    assert (office.available, office.claim) == (TON, TON)
    assert office.books.ledger.balance(channel_account(CHANNEL)) == -TON
    await office.take(TON + 5)
    assert (office.available, office.claim) == (TON + 5, TON + 5)
    assert office.books.ledger.imbalance() == 0
    assert office.books.ledger.treasury() == 0


async def test_a_claim_at_the_threshold_is_redeemed_and_booked_to_the_nanoton(office: Office) -> None:
    await office.take(TON // 2 - 1)
    assert (await office.round()).sent == 0
    await office.take(TON)
    assert (await office.round()).sent == 1
    assert (await office.state()).redeemed == TON
    await office.book()
    assert (office.claim, office.available) == (0, TON)
    cost = -office.books.ledger.balance(CHAIN_FEES)
    assert 0 < cost < 8_000_000
    assert office.books.ledger.treasury() == TON - cost
    assert (await office.round()).read == 0, "nothing is owed any more"


async def test_the_same_voucher_again_changes_nothing_also_after_a_restart(office: Office) -> None:
    await office.take(TON)
    records = len(office.books._journal)
    await office.take(TON)
    office.restart()
    await office.take(TON)
    assert (len(office.books._journal), office.available, office.claim) == (records, TON, TON)


OTHER = replace(TERMS, nonce=8)
FOREIGN = replace(TERMS, network_id=-239)
REFUSALS = [
    pytest.param(payment(2 * TON, voucher=voucher(2 * TON, key=OWNER_KEY)), BadSignatureError, id="not-the-clients"),
    pytest.param(payment(2 * TON, voucher=voucher(2 * TON, terms=OTHER)), ChannelMismatchError, id="other-channel"),
    pytest.param(payment(2 * TON, voucher=voucher(2 * TON, terms=FOREIGN)), ChannelMismatchError, id="other-network"),
    pytest.param(payment(2 * TON, wallet=bytes(32)), ChannelMismatchError, id="somebody-elses-wallet"),
    pytest.param(payment(2 * TON, nonce=9), ChannelMismatchError, id="terms-with-another-nonce"),
    pytest.param(payment(2 * TON, delay_s=3599), ChannelTermsError, id="too-short-a-delay"),
    pytest.param(payment(2 * TON, delay_s=1 << 31), ChannelTermsError, id="too-long-a-delay"),
    pytest.param(
        payment(2 * TON, nonce=8, voucher=voucher(2 * TON, terms=OTHER)), WrongContractError, id="channel-not-opened"
    ),
    pytest.param(payment(TON - 1), VoucherNotLaterError, id="lower-than-the-last"),
    pytest.param(payment(0), VoucherNotLaterError, id="of-nothing"),
    pytest.param(payment(DEPOSIT + TON), VoucherNotCoveredError, id="over-the-deposit"),
    pytest.param(payment((1 << 63) - 1), VoucherNotCoveredError, id="all-there-is"),
    pytest.param(payment(1, voucher=voucher(1)[:-64] + bytes(64)), BadSignatureError, id="not-signed"),
    pytest.param(
        payment(1, voucher=voucher(1)[:-72] + (1 << 63).to_bytes(8, "big") + bytes(64)),
        MalformedRecordError,
        id="two-to-the-63",
    ),
]


@pytest.mark.parametrize(("offered", "error"), REFUSALS)
async def test_a_voucher_that_is_not_worth_its_amount_is_refused_and_nothing_is_booked(
    office: Office, offered: Any, error: type[Exception]
) -> None:
    await office.take(TON)
    records = len(office.books._journal)
    with pytest.raises(error):
        await office.office.take(CLIENT, offered)
    assert (len(office.books._journal), office.available) == (records, TON)


async def test_the_last_nanoton_that_a_voucher_may_reach(office: Office) -> None:
    reach = (await office.state()).deposit().covered - SAFETY_MARGIN
    with pytest.raises(VoucherNotCoveredError, match="deposit at least 1 more"):
        await office.take(reach + 1)
    await office.take(reach)
    assert office.available == reach


async def test_a_top_up_counts_at_once(office: Office) -> None:
    with pytest.raises(VoucherNotCoveredError):
        await office.take(4 * TON)
    await office.client.top_up(Nanotons(2 * TON), **office.now())
    await office.take(4 * TON)
    assert office.available == 4 * TON


async def test_an_operator_without_channels_says_what_to_do(office: Office) -> None:
    office.books.close()
    office.policy = ChannelPolicy(accept=False)
    office.open()
    with pytest.raises(ChannelTermsError, match="deposit into its treasury"):
        await office.take(TON)
    assert office.available == 0


async def test_a_client_that_stops_signing_is_served_up_to_its_last_voucher(office: Office) -> None:
    await office.take(TON)
    hold(office, TON)
    with pytest.raises(InsufficientFundsError) as refused:
        hold(office, 7, number=2)
    why = office.office.explain(CLIENT, refused.value)
    assert isinstance(why, VoucherNeededError)
    assert (why.asked, why.signed) == (TON + 7, TON)
    assert "sign one of at least 1000000007 in all" in str(why)
    await office.take(why.asked)
    hold(office, 7, number=2)
    assert office.available == 0


async def test_a_client_without_a_channel_is_told_to_deposit(office: Office) -> None:
    with pytest.raises(InsufficientFundsError) as refused:
        hold(office, 7)
    assert office.office.explain(CLIENT, refused.value) is refused.value


async def test_a_client_that_runs_is_overtaken_by_its_last_voucher(office: Office) -> None:
    await office.take(TON // 10)
    assert (await office.round()).sent == 0, "too little to redeem while nothing is announced"
    await office.client.announce_close(**office.now())
    await office.devnet.node.advance(DELAY // 24)
    assert (await office.round()).sent == 1
    with pytest.raises(ChannelEndingError, match="being closed"):
        await office.take(TON)
    await office.devnet.node.advance(DELAY)
    state = await office.client.finish(**office.now())
    assert (state.status, state.redeemed) == (ChannelStatus.CLOSED, TON // 10)
    await office.book()
    assert (office.claim, office.available) == (0, TON // 10)
    assert office.books.ledger.balance(CHANNEL_LOSSES) == 0


async def test_nothing_more_is_held_while_promised_money_is_being_taken_out(office: Office) -> None:
    await office.take(TON)
    await office.office.check_covered(CLIENT)
    await office.client.announce_withdrawal(Nanotons(DEPOSIT), **office.now())
    await office.office.check_covered(CLIENT)  # proved before, and good until the announcement could be used
    await office.devnet.node.advance(DELAY - 600)
    with pytest.raises(VoucherNotCoveredError):
        await office.office.check_covered(CLIENT)
    assert (await office.round()).sent == 1
    await office.book()
    await office.office.check_covered(CLIENT)  # what is redeemed cannot be taken out
    assert office.available == TON


async def test_a_channel_closed_behind_a_sleeping_operator_is_written_off(office: Office) -> None:
    await office.take(TON)
    hold(office, TON // 4)
    await office.client.announce_close(**office.now())
    await office.devnet.node.advance(DELAY)
    await office.client.finish(**office.now())
    report = await office.round()
    assert (report.sent, report.lost) == (0, TON)
    assert (office.claim, office.available) == (0, 0)
    assert office.books.ledger.balance(CHANNEL_LOSSES) == -TON // 4, "what was unspent was the client's own loss"
    await office.book()
    office.restart()
    assert (await office.round()).read == 0
    with pytest.raises(ChannelEndingError, match="is closed"):
        await office.take(2 * TON)


async def test_a_crash_before_or_after_the_send_redeems_once(office: Office) -> None:
    await office.take(TON)
    office.restart()
    assert (await office.round()).sent == 1
    office.restart()  # the redemption is on the chain, and not in the books
    assert (await office.round()).sent == 0
    office.restart()
    await office.book()
    assert (office.claim, office.available) == (0, TON)
    office.restart()
    await office.book()
    assert (await office.round()).read == 0
    assert (await office.state()).redeemed == TON


async def test_what_is_sent_again_are_the_same_bytes(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    async def lose(boc: bytes) -> None:
        sent.append(boc)

    await office.take(TON)
    with monkeypatch.context() as lost:
        lost.setattr(office.chain, "send", lose)
        await office.round()
        office.restart()
        await office.round()
    assert len(sent) == 2
    assert sent[0] == sent[1]
    await office.round()
    await office.book()
    assert office.claim == 0


async def test_the_treasurys_need_redeems_what_could_wait(office: Office) -> None:
    await office.take(TON // 10)
    assert (await office.round()).read == 0
    assert (await office.round(needed=1)).sent == 1
    await office.book()
    assert office.claim == 0


async def test_an_old_claim_is_redeemed_below_the_threshold(office: Office) -> None:
    await office.take(TON // 10)
    await office.devnet.node.advance(office.policy.max_age_s)
    assert (await office.round()).sent == 1
    await office.book()
    assert office.claim == 0


async def test_a_claim_on_an_earlier_treasury_is_named_and_nothing_is_sent(office: Office) -> None:
    await office.take(TON)
    office.states._payee = WALLET.address
    report = await office.round()
    assert (report.sent, len(report.trouble)) == (0, 1)
    assert "an earlier treasury or key" in report.trouble[0]
    with pytest.raises(ChannelTermsError, match="earlier treasury"):
        await office.office.check_covered(CLIENT)


async def test_a_claim_that_the_contract_cannot_pay_is_not_asked_for_all_the_time(office: Office) -> None:
    await office.take(9_999_999)
    assert (await office.round(needed=1)).read == 0, "the contract pays no less than 0.01 TON at once"


async def test_while_the_chain_is_away_vouchers_wait_and_known_deposits_go_on(office: Office) -> None:
    office.books.close()
    office.open()
    office.states._chain = None
    with pytest.raises(ChainUnreachableError):
        await office.take(TON)
    assert office.available == 0
    office.states.attach(office.chain)
    await office.take(TON)
    office.states._chain = None
    await office.take(2 * TON)
    await office.office.check_covered(CLIENT)


async def test_both_close_and_the_client_has_its_unspent_money_back_at_once(office: Office) -> None:
    await office.take(2 * TON)
    before = (await office.chain.account(WALLET.address)).balance
    agreed = await office.close(TON)
    assert agreed.total == TON
    assert (office.available, office.claim) == (TON, TON)
    state = await office.state()
    assert (state.status, state.redeemed, state.balance) == (ChannelStatus.CLOSED, TON, 0)
    assert (await office.chain.account(WALLET.address)).balance > before + TON
    await office.book()
    assert (office.claim, office.available) == (0, TON)
    assert (await office.round()).read == 0


async def test_a_close_waits_for_what_is_held_and_spent(office: Office) -> None:
    await office.take(2 * TON)
    lease = hold(office, TON)
    with pytest.raises(ChannelRefusesError, match=f"{TON} were redeemed, spent or are held"):
        await office.close(TON - 1)
    await office.devnet.node.advance(600 + RELEASE_GRACE_S)
    now = office.devnet.node.clock.now()
    office.books.post(office.books.ledger.plan_release(lease, now=now))
    assert office.books.ledger.balance(hold_account(lease)) == 0
    await office.close(1)
    assert (await office.state()).status is ChannelStatus.CLOSED


async def test_a_close_that_is_wrong_is_refused_and_nothing_is_given_up(office: Office) -> None:
    with pytest.raises(ChannelRefusesError, match="no voucher of it"):
        await office.close(0)
    await office.take(TON)
    for total in (TON + 1, 4 * TON):
        with pytest.raises(ChannelRefusesError, match="vouchers and deposit reach to"):
            await office.close(total)
    for valid_s in (0, -5, 601):
        with pytest.raises(ChannelRefusesError, match="valid_until"):
            await office.close(TON, valid_s=valid_s)
    with pytest.raises(BadSignatureError):
        await office.close(TON, key=OWNER_KEY)
    assert (office.available, office.claim) == (TON, TON)


async def test_until_a_close_is_void_it_is_final_and_survives_a_crash(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(_: bytes) -> None:
        pass

    await office.take(2 * TON)
    with monkeypatch.context() as lost:
        lost.setattr(office.chain, "send", lose)
        await office.close(TON)
    office.restart()
    with pytest.raises(ChannelEndingError, match="closed by both"):
        await office.take(2 * TON + 1)
    assert (await office.round()).sent == 0, "it redeems nothing, and sends the close again"
    assert (await office.state()).status is ChannelStatus.CLOSED
    await office.book()
    assert (office.claim, office.available) == (0, TON)


async def test_after_a_close_that_nobody_executed_the_client_is_served_again_for_a_higher_voucher(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(_: bytes) -> None:
        pass

    await office.take(2 * TON)
    with monkeypatch.context() as lost:
        lost.setattr(office.chain, "send", lose)
        await office.close(TON)
    await office.devnet.node.advance(300)
    assert (office.available, office.claim) == (TON, TON)
    await office.take(2 * TON + 1)
    assert (office.available, office.claim) == (2 * TON + 1, 2 * TON + 1)


async def test_what_was_redeemed_beyond_the_books_is_still_the_clients(office: Office) -> None:
    """An older copy of the books: the later voucher was redeemed, and the copy does not know it."""
    await office.take(TON)
    old = [bytes(payload) for payload in office.books._journal]
    await office.take(2 * TON)
    assert (await office.round()).sent == 1
    office.books.close()
    for name in office.path.parent.glob("books*"):
        name.unlink()
    office.open()
    office.books._journal.append(*old)
    office.restart()
    assert office.available == TON
    await office.book()
    assert (office.claim, office.available) == (0, 2 * TON)


async def test_every_nanoton_of_a_channels_life_is_where_it_belongs(office: Office) -> None:
    """Deposit, vouchers, redemption, a close by both: 20 TON came from the faucet, and nothing else."""
    await office.take(TON)
    await office.round()
    await office.book()
    await office.take(2 * TON)
    await office.close(2 * TON - 7)
    await office.book()
    client = (await office.chain.account(WALLET.address)).balance
    channel = (await office.chain.account(channel_address(TERMS))).balance
    operator = (await office.chain.account(treasury().address)).balance
    assert channel == 0 < RENT_RESERVE
    assert client + operator + await office.fees() == 20 * TON
    assert operator == office.books.ledger.treasury() == 2 * TON - 7 + office.books.ledger.balance(CHAIN_FEES)
