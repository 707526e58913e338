"""The payment channel in the real TVM: money in, vouchers, and every refusal by its exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pytoniq_core import Address, Cell, begin_cell

from billing.errors import BadSignatureError
from billing.money import Nanotons
from billing.ton.channel import (
    OP_ANNOUNCE_WITHDRAWAL,
    OP_PAYOUT,
    RENT_RESERVE,
    ChannelStatus,
    SignedOrder,
    announce_close_body,
    channel_address,
    redeem_message,
)
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
from tests.contracts.channels import (
    BAD_CLIENT,
    BAD_OPERATOR,
    CELL_UNDERFLOW,
    EXPIRED,
    MALFORMED,
    NOT_LATER,
    OPERATOR,
    UNDERFUNDED,
    UNKNOWN,
    balance,
    external_header,
    refused,
)
from tests.contracts.harness import NOW, STRANGER, TON


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
