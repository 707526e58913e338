"""What a registry bears: too little money, years of rent, flipped bits, noise; it stays readable through all of it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Address, Cell, begin_cell

from billing.errors import WrongContractError
from billing.tariff import Tariff
from billing.ton.proofs import AccountStatus
from billing.ton.registry import (
    LogCheckpoint,
    anchor_body,
    parse_registry,
    set_checkpoint_body,
    set_operator_body,
    set_policy_body,
    set_price_body,
    set_rim_body,
)
from tests.contracts.harness import OPERATOR, OPERATOR_ID, OWNER, STRANGER, TON, TREASURY, RegistryInVm
from tests.contracts.test_registry_operators import many, terms

KEY = b"\x11" * 32
YEAR = 365 * 86_400
TARIFF = Tariff(prompt_price=4, cached_price=1, completion_price=9, reasoning_price=8)
ORDERS = {
    "set-operator": (OWNER, set_operator_body(OPERATOR_ID, OPERATOR)),
    "set-price": (OWNER, set_price_body(OPERATOR_ID, KEY, TARIFF)),
    "set-policy": (OWNER, set_policy_body(KEY)),
    "set-checkpoint": (OWNER, set_checkpoint_body(LogCheckpoint(log=KEY, size=9, root=KEY))),
    "set-rim": (OWNER, set_rim_body(KEY)),
    "anchor": (TREASURY, anchor_body(3, KEY)),
}


def new_registry() -> RegistryInVm:
    registry = RegistryInVm()
    assert registry.deploy().exit_code == 0
    return registry


def rents(registry: RegistryInVm, years: int) -> None:
    registry.now += years * YEAR


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("value", [1, 100_000, 1_000_000], ids=["nothing", "less-than-the-least", "part-of-the-gas"])
def test_an_order_that_brings_too_little_for_its_gas_changes_nothing(name: str, value: int) -> None:
    registry = new_registry()
    before, balance = registry.state(), registry.account().balance
    sender, body = ORDERS[name]
    outcome = registry.send(sender, body, value=value)
    assert outcome.aborted
    assert registry.state() == before
    assert registry.account().balance >= balance  # the rent pays for nobody's message


@pytest.mark.parametrize("name", ORDERS)
def test_a_flipped_bit_in_an_order_is_refused_or_leaves_the_registry_readable(name: str) -> None:
    sender, body = ORDERS[name]
    inner = body.refs[0] if body.refs else None
    places = [(body, bit) for bit in range(len(body.bits))] + [
        (inner, bit) for bit in range(len(inner.bits) if inner else 0)
    ]
    for cell, bit in Random(name).sample(places, 48):
        registry = new_registry()
        before = registry.state()
        flipped = flip(cell, bit)
        changed = flipped if cell is body else begin_cell().store_bits(body.bits).store_ref(flipped).end_cell()
        done = registry.send(sender, changed)
        after = registry.state()  # raises when it cannot be read
        assert after == before if done.exit_code else after.operators.keys() >= before.operators.keys()


def flip(cell: Cell, bit: int) -> Cell:
    bits = cell.bits.copy()
    bits[bit] = not bits[bit]
    builder = begin_cell().store_bits(bits)
    for ref in cell.refs:
        builder.store_ref(ref)
    return builder.end_cell()


def join(parts: tuple[bytes, list[Cell]]) -> Cell:
    builder = begin_cell().store_bytes(parts[0])
    for ref in parts[1]:
        builder.store_ref(ref)
    return builder.end_cell()


cells = st.recursive(
    st.binary(max_size=120).map(lambda data: begin_cell().store_bytes(data).end_cell()),
    lambda inner: st.tuples(st.binary(max_size=120), st.lists(inner, max_size=4)).map(join),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(operation=st.sampled_from([*range(0x43520001, 0x43520011), 0x434F0001, 0x434F0002, 0x434F0003, 0]), tail=cells)
def test_noise_under_any_operation_is_refused(operation: int, tail: Cell) -> None:
    registry = new_registry()
    before = registry.state()
    body = begin_cell().store_uint(operation, 32).store_cell(tail).end_cell()
    for sender in (STRANGER, TREASURY):
        if sender is STRANGER or operation != 0x43520010:
            assert registry.send(sender, body).exit_code != 0
    assert registry.state() == before


@pytest.mark.parametrize("data", [Cell.empty(), begin_cell().store_uint(0, 1023).end_cell()], ids=["empty", "zeros"])
def test_an_account_with_the_code_and_no_registry_in_it_is_not_read(data: Cell) -> None:
    registry = new_registry()
    account = registry.account()
    object.__setattr__(account, "data", data)
    with pytest.raises(WrongContractError, match="not a registry"):
        parse_registry(account)


def test_the_reserve_pays_years_of_rent_and_the_next_orders_fill_it_up() -> None:
    registry = new_registry()
    rents(registry, 5)
    assert registry.send(TREASURY, anchor_body(1, KEY), value=TON // 50).exit_code == 0
    rents(registry, 5)
    assert registry.send(OWNER, set_policy_body(KEY), value=TON).exit_code == 0
    assert registry.account().balance == TON // 20


def test_a_registry_in_debt_for_rent_still_takes_anchors_and_pays_its_debt_from_the_next_money() -> None:
    registry = many(10)
    before = registry.state()
    rents(registry, 4)
    assert registry.send(terms(1).wallet, anchor_body(1, KEY)).exit_code == 0
    assert registry.state().anchor_of(terms(1).wallet) == (1, KEY)
    registry.send(STRANGER, value=TON)
    assert registry.account().balance < TON  # the debt was taken from it
    assert registry.state().operators.keys() == before.operators.keys()


def test_a_frozen_registry_refuses_everything_and_cannot_be_deployed_over() -> None:
    """Frozen by a debt above 0.1 TON: readers get no state, and stop."""
    registry = many(10)
    registry.send(OWNER, set_rim_body(KEY))
    rents(registry, 10)
    registry.send(STRANGER, value=1)
    assert registry.status() is AccountStatus.FROZEN
    for sender, init in ((OWNER, None), (STRANGER, registry.init)):
        assert registry.send(sender, set_rim_body(KEY), value=TON // 10, init=init).aborted
    assert registry.status() is AccountStatus.FROZEN


def test_a_wallet_outside_the_basechain_is_no_owner() -> None:
    registry = new_registry()
    outcome = registry.send(Address((-1, OWNER.hash_part)), set_rim_body(KEY))
    assert outcome.exit_code == 401
