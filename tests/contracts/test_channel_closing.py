"""The payment channel in the real TVM: closing together and after, other gas prices, rent, get-methods."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytoniq_core import Cell, HashMap, begin_cell
from pytoniq_core.crypto.crc import crc16

from billing.money import Nanotons
from billing.ton.channel import (
    OP_CLOSE,
    OP_REDEEM,
    RENT_RESERVE,
    ChannelStatus,
    announce_close_body,
    announce_withdrawal_body,
)
from billing.ton.config import slim_config
from billing.ton.emulator import Emulator, ExternalNotAcceptedError
from tests.contracts.channel_world import (
    CLIENT,
    CLIENT_KEY,
    DELAY,
    OPERATOR_KEY,
    TERMS,
    THIEF_KEY,
    ChannelInVm,
    paid_to,
)
from tests.contracts.channels import (
    BAD_CLIENT,
    BAD_OPERATOR,
    CLOSED,
    DAY,
    EXPIRED,
    IMPORT_FEE,
    NOT_LATER,
    OPERATOR,
    ORDERS,
    UNDERFUNDED,
    balance,
    external_header,
    refused,
)
from tests.contracts.harness import NOW, STRANGER, TON


def test_both_close_at_once(channel: ChannelInVm) -> None:
    channel.redeem(TON)
    held = balance(channel)
    outcome = channel.close(3 * TON)
    assert (outcome.exit_code, outcome.action_code) == (0, 0)
    assert (balance(channel), channel.state().status, channel.state().redeemed) == (0, ChannelStatus.CLOSED, 3 * TON)
    to_operator, to_client = paid_to(outcome, OPERATOR), paid_to(outcome, CLIENT)
    assert to_operator == 2 * TON
    assert to_operator + to_client + outcome.transaction.cost == held


@pytest.mark.parametrize("due", [1, 399_999, 400_000], ids=lambda due: f"{due}-nanoton")
def test_closing_together_pays_amounts_below_the_fee_of_a_message_too(channel: ChannelInVm, due: int) -> None:
    """A payment that cannot pay its own way fails after it was accepted, and could be sent again and again."""
    outcome = channel.close(due)
    assert (outcome.action_code, paid_to(outcome, OPERATOR)) == (0, due)
    assert channel.state().status is ChannelStatus.CLOSED


def test_closing_together_with_nothing_left_to_redeem_pays_the_client_alone(channel: ChannelInVm) -> None:
    channel.redeem(TON)
    outcome = channel.close(TON)
    assert len(outcome.transaction.outgoing) == 1
    assert paid_to(outcome, CLIENT) > 3 * TON


def test_closing_together_ends_what_the_client_announced(channel: ChannelInVm) -> None:
    channel.order(announce_withdrawal_body(Nanotons(TON)))
    assert channel.close(TON).exit_code == 0
    assert (channel.state().due, channel.state().amount) == (0, 0)


CLOSES = [
    pytest.param({"client_key": OPERATOR_KEY}, BAD_CLIENT, id="by-the-operator-alone"),
    pytest.param({"operator_key": CLIENT_KEY}, BAD_OPERATOR, id="by-the-client-alone"),
    pytest.param({"client_key": THIEF_KEY, "operator_key": THIEF_KEY}, BAD_CLIENT, id="by-a-thief"),
    pytest.param({"terms": replace(TERMS, network_id=-239)}, BAD_CLIENT, id="of-another-network"),
    pytest.param({"terms": replace(TERMS, nonce=2)}, BAD_CLIENT, id="of-another-channel-of-the-two"),
    pytest.param({"valid_until": NOW}, EXPIRED, id="too-late"),
    pytest.param({"total": TON - 1}, NOT_LATER, id="below-what-was-redeemed"),
    pytest.param({"total": 5 * TON}, UNDERFUNDED, id="above-the-deposit"),
]


@pytest.mark.parametrize(("attack", "exit_code"), CLOSES)
def test_a_close_is_refused(channel: ChannelInVm, attack: dict[str, object], exit_code: int) -> None:
    channel.redeem(TON)
    boc = channel.agreement(**({"total": 2 * TON} | attack))
    assert refused(channel, lambda: channel.external(boc)) == exit_code


def test_a_close_leaves_the_client_what_its_own_payment_may_cost(channel: ChannelInVm) -> None:
    total = balance(channel) - IMPORT_FEE - RENT_RESERVE
    assert refused(channel, lambda: channel.close(total + 1)) == UNDERFUNDED
    assert channel.close(total).action_code == 0


@pytest.mark.parametrize("total", [TON, 2 * TON])
def test_signatures_for_one_thing_are_refused_for_another(channel: ChannelInVm, total: int) -> None:
    """A voucher does not close, an agreement does not redeem."""
    for boc, operation in ((channel.redemption(total), OP_CLOSE), (channel.agreement(total), OP_REDEEM)):
        message = Cell.one_from_boc(boc)
        body = message.begin_parse().skip_bits(277 + 32)
        swapped = external_header(channel).store_uint(operation, 32).store_bits(body.to_cell().bits)
        forged = swapped.store_ref(message.refs[0]).end_cell()
        assert refused(channel, lambda forged=forged: channel.execute(forged)) == BAD_CLIENT


def test_a_closed_channel_refuses_everything(closed: ChannelInVm) -> None:
    assert closed.send(CLIENT, value=TON).exit_code == CLOSED
    for body in ORDERS[:3]:
        assert closed.order(body).exit_code == CLOSED
    closed.execute(stray(closed))  # there is money again
    assert refused(closed, lambda: closed.redeem(2 * TON)) == CLOSED
    assert refused(closed, lambda: closed.close(2 * TON)) == CLOSED


def stray(channel: ChannelInVm) -> Cell:
    """Money sent so that it does not bounce."""
    message = begin_cell().store_uint(0b0100, 4).store_address(STRANGER).store_address(channel.address)
    message.store_coins(3 * TON).store_bit(0).store_coins(0).store_coins(0).store_uint(channel._lt, 64)
    return message.store_uint(channel.now, 32).store_bit(0).store_bit(0).end_cell()


def test_what_reaches_a_closed_channel_is_the_clients(closed: ChannelInVm) -> None:
    closed.execute(stray(closed))
    outcome = closed.finish()
    assert outcome.exit_code == 0
    assert paid_to(outcome, CLIENT) > 3 * TON - 5_000_000
    assert closed.state().status is ChannelStatus.CLOSED


def test_a_closed_channel_deployed_anew_keeps_its_tombstone(closed: ChannelInVm) -> None:
    outcome = closed.send(CLIENT, value=TON, init=closed.init)
    assert outcome.exit_code == CLOSED
    assert closed.state().status is ChannelStatus.CLOSED


def at_gas_price(times: int) -> Emulator:
    """A network whose gas costs so many times what it does on mainnet."""
    config = HashMap.parse(Cell.one_from_boc(slim_config()).begin_parse(), 32)
    prices = config[21].load_ref().begin_parse()
    head = prices.load_bits(8 + 64)
    flat_price, tag, price = prices.load_uint(64), prices.load_uint(8), prices.load_uint(64)
    changed = begin_cell().store_bits(head).store_uint(flat_price * times, 64).store_uint(tag, 8)
    changed.store_uint(price * times, 64).store_bits(prices.load_bits(prices.remaining_bits))
    rebuilt = HashMap(32)
    for key, value in config.items():
        leaf = begin_cell().store_ref(changed.end_cell()) if key == 21 else begin_cell().store_slice(value)
        rebuilt.set_int_key(key, leaf.end_cell())
    return Emulator(rebuilt.serialize().to_boc())


@pytest.mark.parametrize("times", [1, 2, 3, 5, 20])
def test_at_no_gas_price_does_an_accepted_message_fail(channel: ChannelInVm, times: int) -> None:
    """Failed after it was accepted, it could be sent again until the deposit is gone."""
    channel.emulator = at_gas_price(times)
    done = 0
    for total in (TON // 100, TON // 20, TON // 3):
        start = channel.state().redeemed
        held = balance(channel)
        try:
            outcome = channel.redeem(start + total)
        except ExternalNotAcceptedError as refusal:
            assert refusal.exit_code == UNDERFUNDED
            assert balance(channel) == held
        else:
            assert (outcome.exit_code, outcome.action_code, held - balance(channel)) == (0, 0, total)
            done += 1
    assert done > 0
    state = channel.state()
    for left in (TON // 100, TON // 20):
        agreement = channel.agreement(state.redeemed + balance(channel) - left)
        try:
            outcome = channel.external(agreement)
        except ExternalNotAcceptedError as refusal:
            assert refusal.exit_code == UNDERFUNDED
        else:
            assert (outcome.action_code, channel.state().status) == (0, ChannelStatus.CLOSED)
            assert paid_to(outcome, CLIENT) > 0
            break


def test_ten_years_of_rent_come_off_the_deposit_and_stop_nothing(channel: ChannelInVm) -> None:
    held = balance(channel)
    channel.now += 10 * 365 * DAY
    assert channel.redeem(TON).exit_code == 0
    rent = held - balance(channel) - TON
    assert 0 < rent < TON // 9
    channel.order(announce_close_body())
    channel.now += DELAY
    assert paid_to(channel.finish(), CLIENT) > 4 * TON - rent - TON // 100


def test_an_empty_channel_in_debt_for_rent_is_whole_again_after_a_top_up() -> None:
    channel = ChannelInVm(deposit=TON // 50)
    channel.now += 6 * 365 * DAY
    with pytest.raises(ExternalNotAcceptedError):
        channel.redeem(TON // 2)
    channel.send(CLIENT, value=TON)
    assert channel.redeem(TON // 2).exit_code == 0
    assert channel.state().redeemed == TON // 2


@pytest.mark.parametrize("years", [5, 20], ids=["indebted", "frozen"])
def test_a_tombstone_without_money_still_cannot_be_deployed_anew(closed: ChannelInVm, years: int) -> None:
    """A channel that was deleted could be: the contract would then know of no redemption."""
    closed.now += years * 365 * DAY
    for sender, init in ((CLIENT, None), (CLIENT, closed.init), (STRANGER, closed.init)):
        assert closed.send(sender, value=TON, init=init).aborted
    closed.execute(stray(closed))
    with pytest.raises(ExternalNotAcceptedError):
        closed.external(closed.redemption(3 * TON, redeemed=0))


def test_get_methods_answer(channel: ChannelInVm) -> None:
    channel.redeem(TON)
    channel.order(announce_withdrawal_body(Nanotons(7)))
    assert get(channel, "get_totals") == [TON, balance(channel) - RENT_RESERVE]
    assert get(channel, "get_status") == [1, NOW + DELAY, 7]
    terms, operator_key = get(channel, "get_terms")
    assert isinstance(terms, Cell)
    assert operator_key == int.from_bytes(TERMS.operator_key, "big")


def get(channel: ChannelInVm, name: str) -> list[object]:
    result, stack = channel.get(int.from_bytes(crc16(name.encode()), "big") & 0xFFFF | 0x10000)
    assert result.exit_code == 0
    return stack
