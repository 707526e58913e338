"""The vault contract, run in the real TVM: every operation, and every refusal by its exit code."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell, begin_cell
from pytoniq_core.crypto.crc import crc16
from pytoniq_core.tlb.transaction import Transaction as FullTransaction

from billing.batch import SignedMessage
from billing.entitlements import Entitlements
from billing.errors import WrongContractError
from billing.money import Nanotons
from billing.ton.cells import address_of, payee_of
from billing.ton.channel import OP_PAYOUT
from billing.ton.deposits import deposit_body
from billing.ton.emulator import ExternalNotAcceptedError
from billing.ton.outgoing import ACTION_SEND, OutMessage
from billing.ton.owner import HANDOVER_DELAY_S, order_body
from billing.ton.registry import anchor_body
from billing.ton.vault import (
    NO_KEY,
    OP_CLAIM,
    OP_PAID,
    OP_WITHDRAW,
    RENT_RESERVE,
    adopt_key_body,
    claim_body,
    parse_vault,
    propose_key_body,
    revoke_key_body,
    vault_init,
    withdraw_body,
)
from billing.ton.vault_order import MESSAGES_MAX, Order, order_digest, order_is_void, sign_order
from tests.contracts.harness import HOT_KEY, NOW, OWNER, STRANGER, TON, Outcome, VaultInVm

NOT_THE_OWNER, WRONG_WORKCHAIN, MALFORMED_BODY, TOO_EARLY = 401, 405, 408, 410
BAD_SIGNATURE, EXPIRED, WRONG_SEQNO, EXPIRES_TOO_LATE, CLAIMED_SINCE, NO_KEY_SET = 411, 413, 414, 415, 416, 417
NOT_IN_THE_ROOT, NOTHING_DUE, UNDERFUNDED, VALUE_TOO_LOW, NO_SUCH_SURPLUS = 421, 422, 423, 424, 425
CELL_UNDERFLOW, UNKNOWN_OPERATION = 9, 0xFFFF
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x6f" * 32)
NOBODY = Entitlements(amounts={})


def payee(i: int) -> Address:
    return Address((0, sha256(f"payee {i}".encode()).digest()))


def entitled(*amounts: int) -> Entitlements:
    return Entitlements(amounts={payee_of(payee(i)): amount for i, amount in enumerate(amounts) if amount})


def order(*payments: int, after: Entitlements = NOBODY, held: int = 0) -> Order:
    """Pays `payments` to payees 0, 1...; afterwards they may claim what `after` says."""
    messages = tuple(OutMessage(destination=payee_of(payee(i)), amount=Nanotons(n)) for i, n in enumerate(payments))
    return Order(messages=messages, root=after.root, held=held)


@pytest.fixture
def vault() -> VaultInVm:
    vault = VaultInVm()
    assert vault.send(STRANGER, value=100 * TON, init=vault.init).exit_code == 0
    return vault


def refusal(vault: VaultInVm, message: Cell) -> int | None:
    """The exit code with which an external message is not accepted: it costs nothing and changes nothing."""
    before = vault.account()
    with pytest.raises(ExternalNotAcceptedError) as error:
        vault.execute(message)
    assert vault.account() == replace(before, last_lt=vault.account().last_lt)
    return error.value.exit_code


def paid(outcome: Outcome) -> list[tuple[bytes | None, int]]:
    return [(out.destination, out.value) for out in outcome.transaction.outgoing]


# --- orders ----------------------------------------------------------------------------------------------------------


def test_a_new_vault_owes_nobody_and_names_network_owner_and_key(vault: VaultInVm) -> None:
    state = vault.state()
    assert (state.network_id, state.seqno, state.claims, state.held) == (-777, 0, 0, 0)
    assert (state.ownership.owner, state.public_key) == (OWNER, HOT_KEY.public_key().public_bytes_raw())
    assert (state.root, state.claimed, state.next_key) == (NOBODY.root, frozenset(), NO_KEY)


@pytest.mark.parametrize("count", [1, 64, MESSAGES_MAX])
def test_an_order_pays_everybody_on_its_list_and_sets_the_root(vault: VaultInVm, count: int) -> None:
    amounts = [TON // 100 + i for i in range(count)]
    after = entitled(0, 5)
    outcome = vault.order(order(*amounts, after=after, held=7))
    assert (outcome.exit_code, outcome.action_code) == (0, 0)
    assert paid(outcome) == [(payee_of(payee(i)), amount) for i, amount in enumerate(amounts)]
    assert (vault.state().seqno, vault.state().root, vault.state().held) == (1, after.root, 7)


def test_an_order_without_payments_anchors(vault: VaultInVm) -> None:
    for epoch in (1, 2):
        after = entitled(epoch)
        assert vault.order(order(after=after)).exit_code == 0
        assert (vault.state().seqno, vault.state().root) == (epoch, after.root)


def test_an_order_may_carry_the_registrys_anchor(vault: VaultInVm) -> None:
    body = anchor_body(1, b"\x11" * 32)
    message = OutMessage(destination=payee_of(STRANGER), amount=Nanotons(TON), body=body)
    outcome = vault.order(Order(messages=(message,), root=NOBODY.root, held=0))
    assert [out.body.hash for out in outcome.transaction.outgoing] == [body.hash]


def test_figures_of_the_specification_hold(vault: VaultInVm) -> None:
    assert vault.order(order(after=entitled(TON))).transaction.cost <= 1_700_000
    assert vault.order(order(*[TON] * 64)).transaction.cost <= 64 * 700_000


def test_an_order_signed_by_another_key_is_refused(vault: VaultInVm) -> None:
    assert refusal(vault, vault.sign(order(TON), key=OTHER_KEY)) == BAD_SIGNATURE


@pytest.mark.parametrize("position", range(0, 512, 37))
def test_one_flipped_bit_of_the_signature_is_refused(vault: VaultInVm, position: int) -> None:
    body = inside(vault.sign(order(TON)))
    bits = body.bits.copy()
    bits.invert(position)
    assert refusal(vault, outside(vault, Cell(bits, body.refs, -1))) == BAD_SIGNATURE


@pytest.mark.parametrize("position", [0, 31, 63, 95, 96, 351, 352, 415])
def test_one_flipped_bit_of_the_order_is_refused(vault: VaultInVm, position: int) -> None:
    body = inside(vault.sign(order(TON)))
    signed = body.refs[0]
    bits = signed.bits.copy()
    bits.invert(position)
    forged = begin_cell().store_bits(body.bits).store_ref(Cell(bits, signed.refs, -1)).end_cell()
    assert refusal(vault, outside(vault, forged)) == BAD_SIGNATURE


def test_another_list_under_the_same_signature_is_refused(vault: VaultInVm) -> None:
    body, other = inside(vault.sign(order(TON))), inside(vault.sign(order(2 * TON)))
    forged = begin_cell().store_bits(body.bits).store_ref(other.refs[0]).end_cell()
    assert refusal(vault, outside(vault, forged)) == BAD_SIGNATURE


def test_an_order_for_another_network_or_vault_is_refused(vault: VaultInVm) -> None:
    mainnet = VaultInVm(network_id=-239)
    mainnet.send(STRANGER, value=TON, init=mainnet.init)
    stranger = inside(mainnet.sign(order(TON)))
    assert refusal(vault, outside(vault, stranger)) == BAD_SIGNATURE
    state = replace(vault.state(), network_id=-239)  # the right address, the other network
    assert refusal(vault, vault.sign(order(TON), state=state)) == BAD_SIGNATURE


def test_a_replayed_order_is_refused(vault: VaultInVm) -> None:
    message = vault.sign(order(TON))
    assert vault.execute(message).exit_code == 0
    assert refusal(vault, message) == WRONG_SEQNO


@pytest.mark.parametrize("seqno", [1, 3, 0], ids=["last", "skipped", "first"])
def test_an_order_out_of_its_turn_is_refused(vault: VaultInVm, seqno: int) -> None:
    for _ in range(2):
        vault.order(order(after=NOBODY))
    assert refusal(vault, vault.sign(order(TON), state=replace(vault.state(), seqno=seqno))) == WRONG_SEQNO


def test_an_order_past_its_time_is_refused(vault: VaultInVm) -> None:
    message = vault.sign(order(TON), timeout_s=120)
    vault.now += 120
    assert refusal(vault, message) == EXPIRED
    vault.now -= 1
    assert vault.execute(message).exit_code == 0


def test_an_order_that_would_live_too_long_is_refused(vault: VaultInVm) -> None:
    assert refusal(vault, vault.sign(order(TON), timeout_s=601)) == EXPIRES_TOO_LATE
    assert vault.order(order(TON), timeout_s=600).exit_code == 0


def test_an_order_that_was_signed_before_a_claim_is_refused(vault: VaultInVm) -> None:
    """The signer did not know of the claim: what it pushes may be what was just claimed."""
    vault.order(order(after=entitled(3 * TON)))
    message = vault.sign(order(3 * TON, after=NOBODY))
    assert vault.claim(entitled(3 * TON), payee(0)).exit_code == 0
    assert refusal(vault, message) == CLAIMED_SINCE
    assert vault.order(order(TON)).exit_code == 0  # signed anew, it knows


def test_an_anchor_alone_is_void_after_a_claim_too(vault: VaultInVm) -> None:
    """It would forget that the claim was paid, and its root may hold what the claim took."""
    vault.order(order(after=entitled(TON)))
    message = vault.sign(order(after=entitled(2 * TON)))
    vault.claim(entitled(TON), payee(0))
    assert refusal(vault, message) == CLAIMED_SINCE


def test_an_order_cannot_spend_the_rent(vault: VaultInVm) -> None:
    """It has no effect at all; what it costs until it expires is its gas."""
    before = vault.state()
    balance = vault.account().balance
    outcome = vault.order(order(balance - RENT_RESERVE))
    assert outcome.action_code != 0
    assert paid(outcome) == []
    assert vault.state() == before
    assert vault.account().balance > balance - TON // 100


def test_an_order_that_could_not_be_carried_out_can_be_sent_again_once_funded(vault: VaultInVm) -> None:
    amount = vault.account().balance - RENT_RESERVE // 2
    message = vault.sign(order(amount))
    assert vault.execute(message).action_code != 0
    vault.send(STRANGER, value=TON)
    assert paid(vault.execute(message)) == [(payee_of(payee(0)), amount)]
    assert refusal(vault, message) == WRONG_SEQNO


def test_a_payment_the_vault_cannot_make_is_left_out_and_the_others_are_made(vault: VaultInVm) -> None:
    outcome = vault.order(order(TON, 1000 * TON, 2 * TON))
    assert outcome.action_code == 0
    assert paid(outcome) == [(payee_of(payee(0)), TON), (payee_of(payee(2)), 2 * TON)]
    assert vault.state().seqno == 1


def hostile(vault: VaultInVm, actions: Cell) -> Outcome:
    """An order of a stolen hot key, with any list at all."""
    state = vault.state()
    cell = (
        begin_cell()
        .store_uint(state.seqno, 32)
        .store_uint(vault.now + 60, 32)
        .store_uint(state.claims, 32)
        .store_bytes(NOBODY.root)
        .store_uint(0, 64)
        .store_ref(actions)
        .end_cell()
    )
    signature = HOT_KEY.sign(order_digest(cell, vault.address, -777))
    return vault.execute(outside(vault, begin_cell().store_bytes(signature).store_ref(cell).end_cell()))


def action(bits: Cell, *refs: Cell) -> Cell:
    builder = begin_cell().store_ref(Cell.empty()).store_cell(bits.end_cell())
    for ref in refs:
        builder.store_ref(ref)
    return builder.end_cell()


def test_a_stolen_hot_key_cannot_change_the_code(vault: VaultInVm) -> None:
    code = vault.account().code
    set_code = action(begin_cell().store_uint(0xAD4DE08E, 32), Cell.empty())
    assert hostile(vault, set_code).action_code == 0
    assert vault.account().code == code


@pytest.mark.parametrize("mode", [128, 128 + 32, 128 + 32 + 2])
def test_a_stolen_hot_key_cannot_delete_the_account(vault: VaultInVm, mode: int) -> None:
    """A deleted vault would begin again with its first owner, its first key and no claims."""
    everything = (
        begin_cell().store_uint(0x10, 6).store_address(STRANGER).store_coins(0).store_uint(0, 1 + 4 + 4 + 64 + 32 + 2)
    ).end_cell()
    before = vault.state()
    outcome = hostile(vault, action(begin_cell().store_uint(ACTION_SEND, 32).store_uint(mode, 8), everything))
    assert outcome.action_code != 0
    assert paid(outcome) == []
    assert vault.state() == before


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param(begin_cell().store_uint(7, 8).end_cell(), id="no-list"),
        pytest.param(action(begin_cell().store_uint(0xDEADBEEF, 32)), id="unknown-action"),
    ],
)
def test_a_list_that_is_none_has_no_effect(vault: VaultInVm, actions: Cell) -> None:
    before = vault.state()
    assert hostile(vault, actions).action_code != 0
    assert vault.state() == before


@pytest.mark.parametrize("shape", ["short-signature", "no-order", "tail", "order-tail", "short-order", "two-lists"])
def test_a_malformed_order_is_refused(vault: VaultInVm, shape: str) -> None:
    body = inside(vault.sign(order(TON)))
    signed = body.refs[0]
    match shape:
        case "short-signature":
            forged = begin_cell().store_bits(body.bits[:511]).store_ref(signed).end_cell()
        case "no-order":
            forged = begin_cell().store_bits(body.bits).end_cell()
        case "tail":
            forged = begin_cell().store_cell(body).store_bit(1).end_cell()
        case "order-tail":
            forged = resigned(vault, begin_cell().store_cell(signed).store_bit(0).end_cell())
        case "short-order":
            forged = resigned(vault, begin_cell().store_bits(signed.bits[:-1]).store_ref(signed.refs[0]).end_cell())
        case "two-lists":
            forged = resigned(vault, begin_cell().store_cell(signed).store_ref(signed.refs[0]).end_cell())
    assert refusal(vault, outside(vault, forged)) == CELL_UNDERFLOW


def test_what_the_chain_would_refuse_is_refused_before() -> None:
    message = OutMessage(destination=payee_of(STRANGER), amount=Nanotons(1))
    with pytest.raises(ValueError, match="at most 250"):
        Order(messages=(message,) * 251, root=NOBODY.root, held=0)
    for root, held in ((b"short", 0), (NOBODY.root, -1), (NOBODY.root, 1 << 64)):
        with pytest.raises(ValueError, match="root has 32 bytes"):
            Order(messages=(), root=root, held=held)
    with pytest.raises(ValueError, match="basechain"):
        vault_init(network_id=-777, owner=Address((-1, bytes(32))), public_key=b"\x01" * 32)
    with pytest.raises(ValueError, match="32 bytes"):
        vault_init(network_id=-777, owner=OWNER, public_key=NO_KEY)


def test_an_order_is_void_once_another_or_a_claim_came_first(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON)))
    pays, anchors = (signed(vault, order(*payments)) for payments in ((TON,), ()))
    assert not order_is_void(pays, vault.state())
    vault.claim(entitled(TON), payee(0))
    assert order_is_void(pays, vault.state())
    assert order_is_void(anchors, vault.state())
    anchors = signed(vault, order())
    assert not order_is_void(anchors, vault.state())
    vault.order(order())
    assert order_is_void(anchors, vault.state())


def signed(vault: VaultInVm, what: Order) -> SignedMessage:
    return sign_order(what, vault=vault.address, state=vault.state(), key=HOT_KEY, created_at=vault.now, after_lt=0)


@pytest.mark.parametrize("damage", ["short", "tail", "tag", "next-key", "claimed-tail"])
def test_the_right_code_over_other_data_is_refused(vault: VaultInVm, damage: str) -> None:
    """Whoever deploys a contract chooses its first data; the code alone proves nothing about it."""
    vault.order(order(after=entitled(TON)))
    vault.claim(entitled(TON), payee(0))
    data = vault.account().data
    assert data is not None
    claimed, owner, next_key = data.refs
    bits = data.bits.copy()
    match damage:
        case "short":
            bits = bits[:-1]
        case "tail":
            next_key = begin_cell().store_cell(next_key).store_bit(0).end_cell()
        case "tag":
            bits.invert(1 + 32 + 256 + 64 + 32)
        case "next-key":
            next_key = begin_cell().store_bits(next_key.bits[:-1]).end_cell()
        case "claimed-tail":
            claimed = begin_cell().store_cell(claimed).store_bit(0).end_cell()
    forged = begin_cell().store_bits(bits).store_ref(claimed).store_ref(owner).store_ref(next_key).end_cell()
    with pytest.raises(WrongContractError, match="not a vault's"):
        parse_vault(replace(vault.account(), data=forged))


def resigned(vault: VaultInVm, cell: Cell) -> Cell:
    signature = HOT_KEY.sign(order_digest(cell, vault.address, -777))
    return begin_cell().store_bytes(signature).store_ref(cell).end_cell()


def inside(message: Cell) -> Cell:
    """The body of an external message."""
    return message.begin_parse().skip_bits(4 + 267 + 4 + 1 + 1).to_cell()


def outside(vault: VaultInVm, body: Cell) -> Cell:
    head = begin_cell().store_uint(0b1000, 4).store_address(vault.address).store_coins(0).store_bit(0)
    return head.store_bit(0).store_cell(body).end_cell()


# --- claims ----------------------------------------------------------------------------------------------------------


def paid_to(outcome: Outcome) -> int:
    """What a claim paid, as the vault says; the message carries that and what is left of the attached value."""
    assert (outcome.exit_code, outcome.action_code) == (0, 0)
    (payment,) = outcome.transaction.outgoing
    assert payment.operation == OP_PAID
    amount = int(payment.body.begin_parse().skip_bits(32 + 64).load_coins())
    assert 0 < payment.value - amount < outcome.transaction.received
    return amount


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 16, 33])
def test_every_payee_claims_what_is_anchored_for_it(vault: VaultInVm, count: int) -> None:
    after = entitled(*[TON + i for i in range(count)])
    vault.order(order(after=after, held=50 * TON))
    for i in range(count):
        assert paid_to(vault.claim(after, payee(i))) == TON + i
    state = vault.state()
    assert state.claimed == frozenset(range(count))
    assert (state.claims, state.held) == (count, max(50 * TON - sum(after.amounts.values()), 0))


def test_a_claim_costs_the_vault_nothing_but_the_claim(vault: VaultInVm) -> None:
    after = entitled(*[TON] * 100)
    vault.order(order(after=after))
    before = vault.account().balance
    assert paid_to(vault.claim(after, payee(7))) == TON
    assert vault.account().balance == before - TON


def test_a_claim_pays_what_is_new_since_the_last_one(vault: VaultInVm) -> None:
    """The books know the claim when they sign the next root, so its leaf holds what was earned since."""
    for amount in (TON, 2 * TON, 1):
        vault.order(order(after=entitled(amount, TON)))
        assert paid_to(vault.claim(entitled(amount, TON), payee(0))) == amount
        assert vault.claim(entitled(amount, TON), payee(0)).exit_code == NOTHING_DUE


def test_a_replayed_claim_is_refused(vault: VaultInVm) -> None:
    after = entitled(TON, TON)
    vault.order(order(after=after))
    vault.claim(after, payee(0))
    assert vault.claim(after, payee(0)).exit_code == NOTHING_DUE
    vault.order(order(after=entitled(0, TON)))
    assert vault.claim(after, payee(0)).exit_code == NOT_IN_THE_ROOT


def test_an_order_forgets_what_was_claimed_under_the_root_before(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON, TON)))
    vault.claim(entitled(TON, TON), payee(0))
    vault.order(order(after=entitled(0, TON)))
    assert (vault.state().claimed, vault.state().claims) == (frozenset(), 1)


@pytest.mark.parametrize("order_of_claims", ["ascending", "descending"])
def test_leaves_on_all_pages_of_the_record_are_claimed_once(vault: VaultInVm, order_of_claims: str) -> None:
    names = sorted(payee_of(payee(i)) for i in range(20_000))
    after = Entitlements(amounts=dict.fromkeys(names, TON // 1000))
    vault.order(order(after=after))
    places = [0, 1, 959, 960, 1919, 1920, 9599, 9600, 19_999]
    for place in places if order_of_claims == "ascending" else reversed(places):
        claimer = address_of(names[place])
        assert paid_to(vault.claim(after, claimer)) == TON // 1000
        assert vault.claim(after, claimer).exit_code == NOTHING_DUE
    assert vault.state().claimed == frozenset(places)


def test_a_claim_under_a_root_that_was_replaced_is_refused(vault: VaultInVm) -> None:
    """What was pushed is no longer in the root, so it cannot be claimed as well."""
    before = entitled(5 * TON, TON)
    vault.order(order(after=before))
    vault.order(order(5 * TON, after=entitled(0, TON)))
    assert vault.claim(before, payee(0)).exit_code == NOT_IN_THE_ROOT
    assert paid_to(vault.claim(entitled(0, TON), payee(1))) == TON


def test_somebody_elses_claim_is_refused(vault: VaultInVm) -> None:
    after = entitled(TON, 2 * TON, 3 * TON)
    vault.order(order(after=after))
    body = claim_body(after.index(payee_of(payee(1))), 2 * TON, after.path(payee_of(payee(1))))
    for thief in (STRANGER, payee(0), OWNER):
        assert vault.send(thief, body).exit_code == NOT_IN_THE_ROOT
    assert vault.send(payee(1), body).exit_code == 0


def test_a_payee_outside_the_basechain_cannot_claim_with_the_same_account(vault: VaultInVm) -> None:
    after = entitled(TON)
    vault.order(order(after=after))
    twin = Address((-1, payee(0).hash_part))
    assert vault.send(twin, claim_body(0, TON, ())).exit_code == WRONG_WORKCHAIN


@pytest.mark.parametrize("forgery", ["more", "less", "flipped-sibling", "flipped-side", "cut", "longer", "of-another"])
def test_a_claim_whose_path_does_not_hold_is_refused(vault: VaultInVm, forgery: str) -> None:
    after = entitled(*[TON + i for i in range(9)])
    vault.order(order(after=after))
    amount, path = TON + 2, list(after.path(payee_of(payee(2))))
    match forgery:
        case "more":
            amount += 1
        case "less":
            amount -= 1
        case "flipped-sibling":
            path[1] = (path[1][0], bytes([path[1][1][0] ^ 1]) + path[1][1][1:])
        case "flipped-side":
            path[0] = (not path[0][0], path[0][1])
        case "cut":
            path.pop()
        case "longer":
            path.append((True, bytes(32)))
        case "of-another":
            path = list(after.path(payee_of(payee(3))))
    assert vault.send(payee(2), claim_body(after.index(payee_of(payee(2))), amount, path)).exit_code == NOT_IN_THE_ROOT
    assert vault.state().claimed == frozenset()


def test_nothing_can_be_claimed_from_a_vault_that_anchored_nothing(vault: VaultInVm) -> None:
    assert vault.send(payee(0), claim_body(0, TON, ())).exit_code == NOT_IN_THE_ROOT


def test_a_node_of_the_tree_is_no_leaf(vault: VaultInVm) -> None:
    """A leaf's hash begins with another byte than a node's, and has another length."""
    after = entitled(TON, TON)
    vault.order(order(after=after))
    assert vault.send(payee(0), claim_body(0, 0, ())).exit_code == NOT_IN_THE_ROOT


def test_an_underfunded_claim_is_refused_and_good_again_once_funded(vault: VaultInVm) -> None:
    after = entitled(500 * TON, TON)
    vault.order(order(after=after, held=501 * TON))
    before = vault.state()
    outcome = vault.claim(after, payee(0), value=TON)
    assert outcome.exit_code == UNDERFUNDED
    (bounce,) = outcome.transaction.outgoing
    assert bounce.bounced
    assert bounce.value > TON - 20_000_000
    assert vault.state() == before
    assert paid_to(vault.claim(after, payee(1))) == TON
    vault.send(STRANGER, value=500 * TON)
    assert paid_to(vault.claim(after, payee(0))) == 500 * TON
    assert vault.claim(after, payee(0)).exit_code == NOTHING_DUE


def test_a_claim_cannot_spend_the_rent(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON)))
    left = vault.account().balance
    vault.order(order(left - TON - RENT_RESERVE // 2))
    vault.order(order(after=entitled(TON)))
    assert vault.claim(entitled(TON), payee(0), value=TON).exit_code == UNDERFUNDED


def test_a_claim_with_too_little_attached_is_refused_and_good_later(vault: VaultInVm) -> None:
    after = entitled(TON)
    vault.order(order(after=after))
    assert vault.claim(after, payee(0), value=9_999_999).exit_code == VALUE_TOO_LOW
    assert paid_to(vault.claim(after, payee(0), value=10_000_000)) == TON


def test_the_smallest_value_pays_the_deepest_claim(vault: VaultInVm) -> None:
    """Nobody loses the attached value: what the vault insists on is enough for a tree of 4096 payees."""
    after = Entitlements(amounts={b"\0" + sha256(b"%d" % i).digest(): TON for i in range(4096)})
    vault.order(order(after=after))
    lucky = Address((0, sha256(b"17").digest()))
    assert paid_to(vault.claim(after, lucky, value=10_000_000)) == TON


def test_a_claim_never_bounces_back_so_nothing_has_to_be_restored(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON)))
    outcome = vault.claim(entitled(TON), payee(0))
    (payment,) = FullTransaction.deserialize(outcome.cell.begin_parse()).out_msgs
    assert payment.info.bounce is False


def test_a_claim_of_noise_is_refused(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON, TON)))
    short = order_body(OP_CLAIM, 0).store_uint(TON, 128).store_bit(1).store_uint(1, 255).end_cell()
    assert vault.send(payee(0), short).exit_code == CELL_UNDERFLOW
    assert vault.send(payee(0), order_body(OP_CLAIM, 0).store_uint(TON, 127).end_cell()).exit_code == CELL_UNDERFLOW


def test_the_largest_leaf_is_refused_for_lack_of_money_not_by_accident(vault: VaultInVm) -> None:
    after = Entitlements(amounts={payee_of(payee(0)): (1 << 63) - 1})
    vault.order(order(after=after))
    assert vault.claim(after, payee(0)).exit_code == UNDERFUNDED


def test_claims_go_on_without_a_hot_key(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(TON)))
    vault.send(OWNER, revoke_key_body())
    assert paid_to(vault.claim(entitled(TON), payee(0))) == TON


# --- the owner -------------------------------------------------------------------------------------------------------


def test_the_owner_replaces_the_hot_key_a_day_after_proposing_it(vault: VaultInVm) -> None:
    public_key = OTHER_KEY.public_key().public_bytes_raw()
    assert vault.send(OWNER, propose_key_body(public_key)).exit_code == 0
    assert (vault.state().next_key, vault.state().adopt_from) == (public_key, NOW + HANDOVER_DELAY_S)
    assert refusal(vault, vault.sign(order(TON), key=OTHER_KEY)) == BAD_SIGNATURE
    assert vault.order(order(TON)).exit_code == 0  # until then the old one works
    vault.now += HANDOVER_DELAY_S
    assert vault.send(OWNER, adopt_key_body()).exit_code == 0
    assert (vault.state().public_key, vault.state().next_key) == (public_key, NO_KEY)
    assert refusal(vault, vault.sign(order(TON))) == BAD_SIGNATURE
    assert vault.order(order(TON), key=OTHER_KEY).exit_code == 0


def test_a_key_adopted_before_the_day_is_over_is_refused(vault: VaultInVm) -> None:
    vault.send(OWNER, propose_key_body(b"\x01" * 32))
    vault.now += HANDOVER_DELAY_S - 1
    assert vault.send(OWNER, adopt_key_body()).exit_code == TOO_EARLY


def test_a_key_that_was_not_proposed_cannot_be_adopted(vault: VaultInVm) -> None:
    assert vault.send(OWNER, adopt_key_body()).exit_code == NO_KEY_SET
    vault.send(OWNER, propose_key_body(b"\x01" * 32))
    vault.now += HANDOVER_DELAY_S
    vault.send(OWNER, adopt_key_body())
    assert vault.send(OWNER, adopt_key_body()).exit_code == NO_KEY_SET


def test_a_stolen_hot_key_is_revoked_at_once(vault: VaultInVm) -> None:
    vault.send(OWNER, propose_key_body(b"\x01" * 32))
    message = vault.sign(order(TON))
    assert vault.send(OWNER, revoke_key_body()).exit_code == 0
    assert (vault.state().public_key, vault.state().next_key) == (NO_KEY, NO_KEY)
    assert refusal(vault, message) == NO_KEY_SET


def test_nobody_signs_for_a_revoked_key(vault: VaultInVm) -> None:
    """32 zero bytes are a point of small order: signatures under it can be made by anybody."""
    vault.send(OWNER, revoke_key_body())
    cell = inside(vault.sign(order(TON))).refs[0]
    for scalar in range(8):
        forged = begin_cell().store_bytes(bytes(31) + bytes([scalar]) + bytes(32)).store_ref(cell).end_cell()
        assert refusal(vault, outside(vault, forged)) == NO_KEY_SET


def test_a_key_of_zeros_cannot_be_proposed(vault: VaultInVm) -> None:
    assert vault.send(OWNER, order_body(0x43560011, 0).store_uint(0, 256).end_cell()).exit_code == NO_KEY_SET
    with pytest.raises(ValueError, match="32 bytes"):
        propose_key_body(NO_KEY)


def test_the_owner_withdraws_what_is_held_for_nobody(vault: VaultInVm) -> None:
    vault.order(order(after=entitled(40 * TON), held=40 * TON))
    free = vault.account().balance - RENT_RESERVE - 40 * TON
    assert vault.send(OWNER, withdraw_body(Nanotons(free + 1))).exit_code == NO_SUCH_SURPLUS
    outcome = vault.send(OWNER, withdraw_body(Nanotons(free), query_id=3))
    assert outcome.exit_code == 0
    ((destination, value),) = paid(outcome)
    assert destination == payee_of(OWNER)
    assert free < value < free + TON // 20
    assert vault.account().balance >= 40 * TON + RENT_RESERVE
    assert paid_to(vault.claim(entitled(40 * TON), payee(0))) == 40 * TON
    assert vault.send(OWNER, withdraw_body(Nanotons(1))).exit_code == NO_SUCH_SURPLUS


def test_what_comes_with_a_withdrawal_is_no_surplus(vault: VaultInVm) -> None:
    free = vault.account().balance - RENT_RESERVE
    assert vault.send(OWNER, withdraw_body(Nanotons(free + 1)), value=50 * TON).exit_code == NO_SUCH_SURPLUS


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(propose_key_body(b"\x01" * 32), id="propose-key"),
        pytest.param(adopt_key_body(), id="adopt-key"),
        pytest.param(revoke_key_body(), id="revoke-key"),
        pytest.param(withdraw_body(Nanotons(1)), id="withdraw"),
        pytest.param(order_body(0x43560099, 0).end_cell(), id="unknown"),
    ],
)
@pytest.mark.parametrize("sender", [STRANGER, payee(0)], ids=["stranger", "payee"])
def test_an_owners_operation_by_anyone_else_is_refused(vault: VaultInVm, sender: Address, body: Cell) -> None:
    vault.order(order(after=entitled(TON)))
    vault.send(OWNER, propose_key_body(b"\x02" * 32))
    vault.now += HANDOVER_DELAY_S
    before = vault.state()
    assert vault.send(sender, body).exit_code == NOT_THE_OWNER
    assert vault.state() == before


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        pytest.param(order_body(0x43560099, 0).end_cell(), UNKNOWN_OPERATION, id="unknown-operation"),
        pytest.param(begin_cell().store_uint(OP_WITHDRAW, 32).end_cell(), CELL_UNDERFLOW, id="no-query-id"),
        pytest.param(begin_cell().store_uint(OP_WITHDRAW, 31).end_cell(), CELL_UNDERFLOW, id="half-an-operation"),
        pytest.param(order_body(0x43560011, 0).store_uint(1, 255).end_cell(), CELL_UNDERFLOW, id="short-key"),
        pytest.param(order_body(0x43560013, 0).store_bit(1).end_cell(), MALFORMED_BODY, id="tail"),
        pytest.param(order_body(0x43560013, 0).store_ref(Cell.empty()).end_cell(), MALFORMED_BODY, id="hidden-cell"),
    ],
)
def test_a_malformed_message_of_the_owner_is_refused(vault: VaultInVm, body: Cell, exit_code: int) -> None:
    before = vault.state()
    assert vault.send(OWNER, body).exit_code == exit_code
    assert vault.state() == before


def test_the_hot_key_has_no_power_over_owner_or_keys(vault: VaultInVm) -> None:
    before = vault.state()
    vault.order(order(TON))
    after = vault.state()
    assert (after.ownership, after.public_key, after.next_key) == (before.ownership, before.public_key, NO_KEY)


# --- money in, rent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "bounced"),
    [
        pytest.param(None, False, id="empty"),
        pytest.param(deposit_body(b"\x01" * 32), False, id="deposit"),
        pytest.param(begin_cell().store_uint(0, 32).store_bytes(b"hello").end_cell(), False, id="comment"),
        pytest.param(order_body(0xD53276DB, 0).end_cell(), False, id="change"),
        pytest.param(begin_cell().store_uint(OP_PAYOUT, 32).store_uint(TON, 64).end_cell(), False, id="from-a-channel"),
        pytest.param(begin_cell().store_uint(0xFFFFFFFF, 32).store_uint(OP_CLAIM, 32).end_cell(), True, id="bounced"),
        pytest.param(revoke_key_body(), True, id="bounced-order-of-the-owner"),
    ],
)
def test_plain_money_is_kept_and_changes_nothing(vault: VaultInVm, body: Cell | None, bounced: bool) -> None:
    before, balance = vault.state(), vault.account().balance
    outcome = vault.send(OWNER, body, value=TON, bounced=bounced)
    assert (outcome.exit_code, paid(outcome)) == (0, [])
    assert vault.account().balance > balance + TON - 1_000_000
    assert vault.state() == before


def test_a_message_nobody_understands_bounces_with_its_money(vault: VaultInVm) -> None:
    outcome = vault.send(STRANGER, order_body(0x12345678, 0).end_cell(), value=TON)
    assert outcome.aborted
    assert outcome.transaction.outgoing[0].value > TON - 20_000_000


def test_a_vault_in_debt_for_its_storage_pays_it_from_the_next_money_and_owes_what_it_owed(vault: VaultInVm) -> None:
    after = entitled(TON)
    vault.order(order(after=after))
    vault.order(order(vault.account().balance - RENT_RESERVE - 2_900_000, after=after))
    before = vault.state()
    vault.now += 7 * 365 * 86_400
    assert vault.claim(after, payee(0), value=TON).exit_code == UNDERFUNDED
    vault.send(STRANGER, value=3 * TON)
    assert vault.state() == before
    assert paid_to(vault.claim(after, payee(0))) == TON


def test_get_methods_answer_with_two_values(vault: VaultInVm) -> None:
    after = entitled(TON, TON)
    vault.order(order(after=after, held=9))
    vault.claim(after, payee(0))
    vault.send(OWNER, propose_key_body(b"\x01" * 32))

    def get(name: str, *arguments: int) -> list[object]:
        result, stack = vault.get(int.from_bytes(crc16(name.encode()), "big") & 0xFFFF | 0x10000, list(arguments))
        assert result.exit_code == 0
        assert len(stack) == 2
        return stack

    assert get("get_version") == [-777, 1]
    assert get("get_owner") == [0, int.from_bytes(OWNER.hash_part, "big")]
    assert get("get_key") == [int.from_bytes(HOT_KEY.public_key().public_bytes_raw(), "big"), 1]
    assert get("get_anchor") == [int.from_bytes(after.root, "big"), 0]
    pages, claims = get("get_claimed")
    assert isinstance(pages, Cell) and claims == 1
    assert pages.bits.to01().endswith("1" + "0" * 959)
    owner, next_key = get("get_proposals")
    assert isinstance(owner, Cell) and isinstance(next_key, Cell)
    assert owner.hash == vault.state().ownership.cell().hash
    assert next_key.begin_parse().load_bytes(32) == b"\x01" * 32
