"""The vault contract in the real TVM: a stolen hot key, malformed orders, forged data."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytoniq_core import Address, Cell, begin_cell

from billing.errors import WrongContractError
from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.outgoing import ACTION_SEND, OutMessage
from billing.ton.vault import (
    NO_KEY,
    parse_vault,
    vault_init,
)
from billing.ton.vault_order import Order, order_digest, order_is_void
from tests.contracts.harness import HOT_KEY, OWNER, STRANGER, TON, Outcome, VaultInVm
from tests.contracts.vaults import (
    CELL_UNDERFLOW,
    NOBODY,
    entitled,
    inside,
    order,
    outside,
    paid,
    payee,
    refusal,
    resigned,
    signed,
)


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
