"""The vault contract in the real TVM: orders of the hot key, and every refusal by its exit code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytoniq_core import Cell, begin_cell

from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.outgoing import OutMessage
from billing.ton.registry import anchor_body
from billing.ton.vault import (
    NO_KEY,
    RENT_RESERVE,
)
from billing.ton.vault_order import MESSAGES_MAX, Order
from tests.contracts.harness import HOT_KEY, OWNER, STRANGER, TON, VaultInVm
from tests.contracts.vaults import (
    BAD_SIGNATURE,
    CLAIMED_SINCE,
    EXPIRED,
    EXPIRES_TOO_LATE,
    NOBODY,
    OTHER_KEY,
    WRONG_SEQNO,
    entitled,
    inside,
    order,
    outside,
    paid,
    payee,
    refusal,
)


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
