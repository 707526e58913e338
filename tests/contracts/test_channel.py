"""The payment channel contract, run in the real TVM: every operation, and every refusal by its exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pytoniq_core import Address, Cell, HashMap, begin_cell
from pytoniq_core.crypto.crc import crc16

from billing.errors import BadSignatureError
from billing.money import Nanotons
from billing.ton.channel import (
    OP_ANNOUNCE_WITHDRAWAL,
    OP_CLOSE,
    OP_PAYOUT,
    OP_REDEEM,
    RENT_RESERVE,
    ChannelStatus,
    SignedOrder,
    announce_close_body,
    announce_withdrawal_body,
    cancel_body,
    channel_address,
    finish_body,
    redeem_message,
)
from billing.ton.config import slim_config
from billing.ton.emulator import Emulator, ExternalNotAcceptedError
from billing.voucher import Voucher, encode_voucher, redemption_bytes, verify_voucher
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
from tests.contracts.harness import NOW, OWNER, STRANGER, TON, TREASURY, Outcome

MALFORMED, CLOSED, BAD_CLIENT, BAD_OPERATOR, NOT_LATER, UNDERFUNDED, EXPIRED = 408, 431, 432, 433, 434, 435, 436
NOT_THE_CLIENT, NOTHING_ANNOUNCED, TOO_EARLY, NO_AMOUNT, UNKNOWN = 437, 438, 439, 440, 0xFFFF
CELL_UNDERFLOW = 9
IMPORT_FEE = 400_000 + 40_000 + 512 * 400  # of a message with one cell beside the root
DAY = 86_400
OPERATOR = TREASURY


@pytest.fixture
def channel() -> ChannelInVm:
    return ChannelInVm()


def balance(channel: ChannelInVm) -> int:
    return channel.account().balance


def refused(channel: ChannelInVm, send: Callable[[], Outcome]) -> int | None:
    """The exit code with which the channel refused an external message, which then cost nothing."""
    before = (channel.state(), balance(channel))
    with pytest.raises(ExternalNotAcceptedError) as refusal:
        send()
    assert (channel.state(), balance(channel)) == before
    return refusal.value.exit_code


def test_a_new_channel_has_its_terms_and_nothing_redeemed(channel: ChannelInVm) -> None:
    state = channel.state()
    assert (state.terms, state.address) == (TERMS, channel.address)
    assert (state.status, state.redeemed, state.due, state.amount) == (ChannelStatus.OPEN, 0, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"network_id": -239},
        {"client": STRANGER},
        {"client_key": THIEF_KEY.public_key().public_bytes_raw()},
        {"operator": STRANGER},
        {"operator_key": THIEF_KEY.public_key().public_bytes_raw()},
        {"delay_s": DELAY + 1},
        {"nonce": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_terms_are_another_address(changes: dict[str, object]) -> None:
    assert channel_address(replace(TERMS, **changes)) != channel_address(TERMS)


# --- money in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", [CLIENT, STRANGER], ids=["client", "anybody"])
def test_top_ups_add_up(channel: ChannelInVm, sender: Address) -> None:
    before = balance(channel)
    fees = 0
    for _ in range(3):
        outcome = channel.send(sender, value=TON)
        assert (outcome.exit_code, outcome.transaction.outgoing) == (0, ())
        fees += outcome.transaction.fees
    assert balance(channel) == before + 3 * TON - fees
    assert fees < 3 * 500_000


def test_a_top_up_while_the_client_leaves_is_taken(channel: ChannelInVm) -> None:
    channel.order(announce_close_body())
    before = balance(channel)
    assert channel.send(CLIENT, value=TON).exit_code == 0
    assert balance(channel) > before + TON * 99 // 100


# --- vouchers ---------------------------------------------------------------------------------------------------------


def test_each_redemption_pays_the_difference_and_bears_its_own_fees(channel: ChannelInVm) -> None:
    before = 0
    for total in (TON // 100, TON // 2, 3 * TON):
        held = balance(channel)
        outcome = channel.redeem(total)
        assert (outcome.exit_code, outcome.action_code) == (0, 0)
        (message,) = outcome.transaction.outgoing
        assert message.operation == OP_PAYOUT
        assert message.body.begin_parse().skip_bits(32).load_uint(64) == total
        assert held - balance(channel) == total - before  # the client pays what it signed, to the nanoton
        assert paid_to(outcome, OPERATOR) + outcome.transaction.cost == total - before
        assert channel.state().redeemed == total
        before = total


def test_a_voucher_redeemed_twice_is_refused(channel: ChannelInVm) -> None:
    first = channel.redemption(TON)
    assert channel.external(first).exit_code == 0
    assert refused(channel, lambda: channel.external(first)) == BAD_OPERATOR  # the same bytes
    assert refused(channel, lambda: channel.redeem(TON)) == NOT_LATER  # signed anew by the operator
    assert refused(channel, lambda: channel.redeem(TON - 1)) == NOT_LATER  # an older voucher


REDEMPTIONS = [
    pytest.param({"client_key": THIEF_KEY}, BAD_CLIENT, id="a-voucher-by-a-thief"),
    pytest.param({"client_key": OPERATOR_KEY}, BAD_CLIENT, id="a-voucher-by-the-operator"),
    pytest.param({"operator_key": THIEF_KEY}, BAD_OPERATOR, id="by-a-thief"),
    pytest.param({"operator_key": CLIENT_KEY}, BAD_OPERATOR, id="by-the-client"),
    pytest.param({"terms": replace(TERMS, network_id=-239)}, BAD_CLIENT, id="of-another-network"),
    pytest.param({"terms": replace(TERMS, nonce=2)}, BAD_CLIENT, id="of-another-channel-of-the-two"),
    pytest.param({"redeemed": 1}, BAD_OPERATOR, id="for-another-state"),
    pytest.param({"valid_until": NOW}, EXPIRED, id="too-late"),
    pytest.param({"total": 0}, NOT_LATER, id="of-nothing"),
    pytest.param({"total": TON // 100 - 1}, UNDERFUNDED, id="of-less-than-its-fee"),
]


@pytest.mark.parametrize(("attack", "exit_code"), REDEMPTIONS)
def test_a_redemption_is_refused(channel: ChannelInVm, attack: dict[str, object], exit_code: int) -> None:
    boc = channel.redemption(**({"total": TON} | attack))
    assert refused(channel, lambda: channel.external(boc)) == exit_code


@pytest.mark.parametrize("network_id", [-239, -3, -777])
def test_a_channel_takes_the_vouchers_of_its_own_network_alone(network_id: int) -> None:
    own = replace(TERMS, network_id=network_id)
    channel = ChannelInVm(own)
    for other in {-239, -3, -777} - {network_id}:
        boc = channel.redemption(TON, terms=replace(own, network_id=other))
        assert refused(channel, lambda boc=boc: channel.external(boc)) == BAD_CLIENT
    assert channel.redeem(TON).exit_code == 0


@pytest.mark.parametrize("bit", [32, 95, 96, 127, 128, 639, 640, 1151], ids=lambda bit: f"bit-{bit}")
def test_a_redemption_with_a_flipped_bit_is_refused(channel: ChannelInVm, bit: int) -> None:
    message = Cell.one_from_boc(channel.redemption(TON))
    body, rest = message.begin_parse().skip_bits(277), message.refs[0].begin_parse()
    flipped = body.load_uint(body.remaining_bits) << 512 | rest.load_uint(512)
    flipped ^= 1 << (1151 - bit)
    forged = external_header(channel).store_uint(flipped >> 512, 640)
    forged = forged.store_ref(begin_cell().store_uint(flipped & (1 << 512) - 1, 512).end_cell()).end_cell()
    code = refused(channel, lambda: channel.execute(forged))
    assert code == (BAD_OPERATOR if 96 <= bit < 640 else BAD_CLIENT)


ORDER_L = (1 << 252) + 27742317777372353535851937790883648493  # of Ed25519's base point
IDENTITY = b"\x01" + bytes(31)


def plus_order(signature: bytes) -> bytes:
    """The same signature, its scalar written another way."""
    return signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER_L).to_bytes(32, "little")


ODD_SIGNATURES = [
    pytest.param(TERMS.client_key, lambda signature: signature, id="genuine"),
    pytest.param(TERMS.client_key, plus_order, id="scalar-not-reduced"),
    pytest.param(TERMS.client_key, lambda _: bytes(64), id="zero"),
    pytest.param(TERMS.client_key, lambda signature: IDENTITY + signature[32:], id="point-of-small-order"),
    pytest.param(IDENTITY, lambda _: IDENTITY + bytes(32), id="key-and-point-of-small-order"),
    pytest.param(bytes(32), lambda _: bytes(64), id="key-of-order-four"),
    pytest.param(b"\xff" * 32, lambda signature: signature, id="key-that-is-no-point"),
]


@pytest.mark.parametrize(("client_key", "forge"), ODD_SIGNATURES)
def test_contract_and_verifier_agree_on_odd_signatures(client_key: bytes, forge: Callable[[bytes], bytes]) -> None:
    """An operator that serves against a voucher the contract refuses has served for nothing."""
    terms = replace(TERMS, client_key=client_key)
    channel = ChannelInVm(terms)
    record = encode_voucher(Voucher(channel=terms.channel, total=Nanotons(TON)))
    signature = forge(CLIENT_KEY.sign(record))
    redemption = redemption_bytes(terms.channel, redeemed=Nanotons(0), total=Nanotons(TON), valid_until=NOW + 60)
    order = SignedOrder(
        total=Nanotons(TON),
        valid_until=NOW + 60,
        client_signature=signature,
        operator_signature=OPERATOR_KEY.sign(redemption),
    )
    try:
        verify_voucher(record + signature, client_key)
    except BadSignatureError:
        assert refused(channel, lambda: channel.external(redeem_message(channel.address, order))) == BAD_CLIENT
    else:
        assert channel.external(redeem_message(channel.address, order)).exit_code == 0


def external_header(channel: ChannelInVm) -> Cell:
    return begin_cell().store_uint(0b1000, 4).store_address(channel.address).store_coins(0).store_bit(0).store_bit(0)


def parts(channel: ChannelInVm) -> tuple[Cell, Cell]:
    """Header and body of a good redemption; the body has the client's signature as its reference."""
    body = Cell.one_from_boc(channel.redemption(TON)).begin_parse().skip_bits(277)
    return external_header(channel), body.to_cell()


def with_refs(header: Cell, body: Cell, *refs: Cell) -> Cell:
    header.store_bits(body.bits)
    for ref in refs:
        header.store_ref(ref)
    return header.end_cell()


@pytest.mark.parametrize(
    "bloat", ["body-apart", "bits-behind", "second-cell", "cell-below", "longer", "shorter", "state-init"]
)
def test_a_message_larger_than_needed_is_refused_before_the_deposit_pays_for_it(
    channel: ChannelInVm, bloat: str
) -> None:
    header, body = parts(channel)
    signature, junk = body.refs[0], begin_cell().store_uint(7, 256).end_cell()
    match bloat:
        case "body-apart":
            address = begin_cell().store_uint(0b1000, 4).store_address(channel.address).store_coins(0)
            message = address.store_bit(0).store_bit(1).store_ref(body).end_cell()
        case "bits-behind":
            message = header.store_bits(body.bits).store_bit(0).store_ref(signature).end_cell()
        case "second-cell":
            message = with_refs(header, body, signature, junk)
        case "cell-below":
            message = with_refs(header, body, begin_cell().store_bits(signature.bits).store_ref(junk).end_cell())
        case "longer":
            message = with_refs(header, body, begin_cell().store_bits(signature.bits).store_bit(0).end_cell())
        case "shorter":
            message = with_refs(header, body, begin_cell().store_bits(signature.bits[:511]).end_cell())
        case _:
            address = begin_cell().store_uint(0b1000, 4).store_address(channel.address).store_coins(0)
            message = address.store_bit(1).store_bit(0).store_cell(channel.init.serialize()).store_bit(0)
            message = with_refs(message, body, signature)
    assert refused(channel, lambda: channel.execute(message)) == MALFORMED
    assert channel.external(channel.redemption(TON)).exit_code == 0


def test_an_underfunded_voucher_is_paid_as_far_as_the_deposit_goes_and_the_rest_later() -> None:
    """The comparable network burns the difference: its counter moves before the money does."""
    channel = ChannelInVm(deposit=TON)
    payable = channel.state().payable
    outcome = channel.redeem(3 * TON)
    assert channel.state().redeemed == payable
    assert paid_to(outcome, OPERATOR) + outcome.transaction.cost == payable
    assert balance(channel) == RENT_RESERVE
    assert refused(channel, lambda: channel.redeem(3 * TON)) == UNDERFUNDED
    channel.send(CLIENT, value=5 * TON)
    assert channel.redeem(3 * TON).exit_code == 0
    assert channel.state().redeemed == 3 * TON


def test_a_payment_that_comes_back_is_kept_and_changes_nothing(channel: ChannelInVm) -> None:
    channel.redeem(TON)
    before, held = channel.state(), balance(channel)
    outcome = channel.send(OPERATOR, begin_cell().store_uint(0xFFFFFFFF, 32).end_cell(), value=TON, bounced=True)
    assert (outcome.exit_code, outcome.transaction.outgoing) == (0, ())
    assert channel.state() == replace(before, balance=Nanotons(balance(channel)))
    assert balance(channel) == held + TON - outcome.transaction.fees


@pytest.mark.parametrize("operation", [0, OP_ANNOUNCE_WITHDRAWAL, 0x43430099])
def test_any_other_external_message_is_refused(channel: ChannelInVm, operation: int) -> None:
    header, body = parts(channel)
    changed = begin_cell().store_uint(operation, 32).store_bits(body.bits[32:]).end_cell()
    assert refused(channel, lambda: channel.execute(with_refs(header, changed, body.refs[0]))) == UNKNOWN


@pytest.mark.parametrize("bits", [0, 31, 127, 639])
def test_an_external_message_cut_short_is_refused(channel: ChannelInVm, bits: int) -> None:
    header, body = parts(channel)
    cut = begin_cell().store_bits(body.bits[:bits]).end_cell()
    assert refused(channel, lambda: channel.execute(with_refs(header, cut, body.refs[0]))) == CELL_UNDERFLOW


# --- the client takes money out ---------------------------------------------------------------------------------------


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


ORDERS = [announce_withdrawal_body(Nanotons(TON)), announce_close_body(), cancel_body(), finish_body()]
ORDER_IDS = ["announce-withdrawal", "announce-close", "cancel", "finish"]


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


# --- closing together, and after --------------------------------------------------------------------------------------


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


@pytest.fixture(params=["together", "after-the-delay"])
def closed(channel: ChannelInVm, request: pytest.FixtureRequest) -> ChannelInVm:
    if request.param == "together":
        channel.close(TON)
    else:
        channel.redeem(TON)
        channel.order(announce_close_body())
        channel.now += DELAY
        channel.finish()
    assert channel.state().status is ChannelStatus.CLOSED
    return channel


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


# --- other prices -----------------------------------------------------------------------------------------------------


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


# --- rent -------------------------------------------------------------------------------------------------------------


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


# --- get-methods ------------------------------------------------------------------------------------------------------


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
