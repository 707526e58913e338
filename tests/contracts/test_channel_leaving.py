"""The payment channel in the real TVM: the client takes money out, and every refusal by its exit code."""

from __future__ import annotations

import pytest
from pytoniq_core import Address, Cell, begin_cell

from billing.money import Nanotons
from billing.ton.channel import (
    OP_ANNOUNCE_WITHDRAWAL,
    OP_CLOSE,
    OP_REDEEM,
    RENT_RESERVE,
    ChannelStatus,
    announce_close_body,
    announce_withdrawal_body,
    cancel_body,
)
from tests.contracts.channel_world import (
    CLIENT,
    DELAY,
    ChannelInVm,
    paid_to,
)
from tests.contracts.channels import (
    CELL_UNDERFLOW,
    DAY,
    MALFORMED,
    NO_AMOUNT,
    NOT_THE_CLIENT,
    NOTHING_ANNOUNCED,
    OPERATOR,
    ORDER_IDS,
    ORDERS,
    TOO_EARLY,
    UNDERFUNDED,
    UNKNOWN,
    balance,
)
from tests.contracts.harness import NOW, OWNER, STRANGER, TON


def test_a_withdrawal_is_paid_after_the_delay_and_leaves_the_rest(channel: ChannelInVm) -> None:
    channel.order(announce_withdrawal_body(Nanotons(2 * TON)))
    state = channel.state()
    assert (state.status, state.due, state.amount) == (ChannelStatus.WITHDRAWING, NOW + DELAY, 2 * TON)
    channel.now += DELAY
    held = balance(channel)
    outcome = channel.finish()
    rent = held - 2 * TON - balance(channel)
    assert 0 <= rent < 100_000
    assert paid_to(outcome, CLIENT) + outcome.transaction.cost - rent == 2 * TON + TON // 100
    state = channel.state()
    assert (state.status, state.due, state.amount) == (ChannelStatus.OPEN, 0, 0)


def test_a_withdrawal_of_more_than_there_is_leaves_the_reserve(channel: ChannelInVm) -> None:
    channel.order(announce_withdrawal_body(Nanotons((1 << 63) - 1)))
    channel.now += DELAY
    channel.finish()
    assert balance(channel) == RENT_RESERVE


def test_a_withdrawal_from_what_the_rent_has_eaten_is_refused() -> None:
    channel = ChannelInVm(deposit=TON // 100)
    channel.order(announce_withdrawal_body(Nanotons(TON)))
    channel.now += 2 * 365 * DAY
    assert channel.finish().exit_code == UNDERFUNDED
    assert channel.state().status is ChannelStatus.WITHDRAWING
    channel.order(announce_close_body())
    channel.now += DELAY
    assert channel.finish().exit_code == 0  # closing takes the reserve too


def test_the_operator_redeems_while_the_client_waits_and_after(channel: ChannelInVm) -> None:
    channel.order(announce_close_body())
    channel.now += DELAY - 1
    assert channel.redeem(TON).exit_code == 0
    channel.now += 10 * DELAY  # the client has not finished: nothing has ended
    assert channel.redeem(2 * TON).exit_code == 0
    held = balance(channel)
    outcome = channel.finish()
    assert held - 10_000_000 < paid_to(outcome, CLIENT)
    assert (balance(channel), channel.state().status) == (0, ChannelStatus.CLOSED)


def test_a_vanished_operator_keeps_nothing(channel: ChannelInVm) -> None:
    channel.order(announce_close_body())
    channel.now += DELAY
    held = balance(channel)
    outcome = channel.finish()
    assert balance(channel) == 0
    assert held + TON // 100 - paid_to(outcome, CLIENT) < 3_000_000  # fees and a day's rent


@pytest.mark.parametrize(
    "body", [announce_close_body(), announce_withdrawal_body(Nanotons(TON))], ids=["close", "some"]
)
def test_money_taken_before_the_delay_is_over_is_refused(channel: ChannelInVm, body: Cell) -> None:
    channel.order(body)
    for wait in (0, DELAY - 1):
        channel.now = NOW + wait
        assert channel.finish().exit_code == TOO_EARLY
    channel.now = NOW + DELAY
    assert channel.finish().exit_code == 0


def test_announcing_anew_begins_the_delay_anew(channel: ChannelInVm) -> None:
    channel.order(announce_withdrawal_body(Nanotons(1)))
    channel.now += DELAY
    channel.order(announce_close_body())  # a small withdrawal that is due does not open the way to all
    assert channel.state().amount == 0
    assert channel.finish().exit_code == TOO_EARLY
    channel.order(announce_withdrawal_body(Nanotons(2)))
    assert channel.state().status is ChannelStatus.WITHDRAWING
    assert channel.finish().exit_code == TOO_EARLY


def test_a_cancelled_announcement_pays_nothing(channel: ChannelInVm) -> None:
    for body in (announce_close_body(), announce_withdrawal_body(Nanotons(TON))):
        channel.order(body)
        channel.now += DELAY
        assert channel.order(cancel_body()).exit_code == 0
        state = channel.state()
        assert (state.status, state.due, state.amount) == (ChannelStatus.OPEN, 0, 0)
        assert channel.finish().exit_code == NOTHING_ANNOUNCED
        assert channel.order(cancel_body()).exit_code == NOTHING_ANNOUNCED


def test_a_finished_withdrawal_is_not_paid_twice(channel: ChannelInVm) -> None:
    channel.order(announce_withdrawal_body(Nanotons(TON)))
    channel.now += DELAY
    assert channel.finish().exit_code == 0
    assert channel.finish().exit_code == NOTHING_ANNOUNCED


@pytest.mark.parametrize(
    "sender",
    [OPERATOR, STRANGER, OWNER, Address((-1, CLIENT.hash_part))],
    ids=["operator", "stranger", "owner", "same-account-in-the-masterchain"],
)
@pytest.mark.parametrize("body", ORDERS, ids=ORDER_IDS)
def test_an_order_by_anyone_but_the_client_is_refused(channel: ChannelInVm, sender: Address, body: Cell) -> None:
    channel.order(announce_close_body())
    channel.now += DELAY
    before = channel.account().data
    outcome = channel.order(body, sender=sender, value=TON)
    assert outcome.exit_code == NOT_THE_CLIENT
    assert channel.account().data == before
    (bounce,) = outcome.transaction.outgoing
    assert bounce.bounced
    assert bounce.value > TON * 98 // 100


@pytest.mark.parametrize("value", [1, 100_000, 400_000], ids=lambda value: f"{value}-nanoton")
@pytest.mark.parametrize("body", ORDERS, ids=ORDER_IDS)
def test_an_order_that_brings_too_little_for_its_gas_is_void_and_costs_the_deposit_nothing(
    channel: ChannelInVm, body: Cell, value: int
) -> None:
    channel.order(announce_close_body())
    channel.now += DELAY
    data, held = channel.account().data, balance(channel)
    outcome = channel.order(body, value=value)
    assert outcome.aborted
    assert channel.account().data == data
    assert held - 100_000 < balance(channel)  # a day's rent


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        pytest.param(begin_cell().store_uint(0, 32).store_uint(0, 64).end_cell(), UNKNOWN, id="comment"),
        pytest.param(begin_cell().store_uint(0x43430099, 32).store_uint(0, 64).end_cell(), UNKNOWN, id="unknown"),
        pytest.param(begin_cell().store_uint(OP_REDEEM, 32).store_uint(0, 64).end_cell(), UNKNOWN, id="redeem-inside"),
        pytest.param(begin_cell().store_uint(OP_CLOSE, 32).store_uint(0, 64).end_cell(), UNKNOWN, id="close-inside"),
        pytest.param(begin_cell().store_uint(1, 31).end_cell(), CELL_UNDERFLOW, id="half-an-operation"),
        pytest.param(begin_cell().store_uint(OP_ANNOUNCE_WITHDRAWAL, 32).end_cell(), CELL_UNDERFLOW, id="no-query-id"),
        pytest.param(
            begin_cell().store_uint(OP_ANNOUNCE_WITHDRAWAL, 32).store_uint(0, 64 + 63).end_cell(),
            CELL_UNDERFLOW,
            id="amount-cut-short",
        ),
        pytest.param(announce_withdrawal_body(Nanotons(0)), NO_AMOUNT, id="no-amount"),
        *(
            pytest.param(begin_cell().store_cell(body).store_bit(0).end_cell(), MALFORMED, id=f"{name}-with-a-tail")
            for body, name in zip(ORDERS[:2] + ORDERS[3:], ORDER_IDS[:2] + ORDER_IDS[3:], strict=True)
        ),
        pytest.param(
            begin_cell().store_cell(announce_close_body()).store_ref(Cell.empty()).end_cell(),
            MALFORMED,
            id="hidden-cell",
        ),
    ],
)
def test_a_malformed_order_of_the_client_is_refused(channel: ChannelInVm, body: Cell, exit_code: int) -> None:
    before = channel.account().data
    assert channel.order(body).exit_code == exit_code
    assert channel.account().data == before
