"""The registry's operators, run in the real TVM: entries, prices and anchors of many, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from pytoniq_core import Address, Cell, begin_cell

from billing.errors import UnknownOperatorError
from billing.tariff import Tariff
from billing.ton.registry import (
    OP_SET_OPERATOR,
    OP_SET_PRICE,
    ModelTerms,
    OperatorStatus,
    OperatorTerms,
    anchor_body,
    parse_operator,
    registry_init,
    remove_operator_body,
    remove_price_body,
    set_model_body,
    set_operator_body,
    set_price_body,
)
from tests.contracts.harness import OPERATOR, OPERATOR_ID, OWNER, STRANGER, TREASURY, RegistryInVm

KEY, OTHER_KEY = b"\x11" * 32, b"\xee" * 32
OWN = Tariff(prompt_price=4, cached_price=1, completion_price=9, reasoning_price=8)
MODEL = ModelTerms(name="m", tariff=Tariff(prompt_price=5, completion_price=10), context=512)
NOT_THE_OPERATOR, EPOCH_NOT_LATER, FEE, TEXT, BODY = 402, 403, 406, 407, 408
WALLET_TAKEN, STATUS, PRICE, ENDPOINTS = 451, 453, 454, 455
CELL_UNDERFLOW = 9


def terms(number: int) -> OperatorTerms:
    digest = sha256(b"operator %d" % number).digest()
    return OperatorTerms(
        name=f"operator {number}",
        public_key=digest,
        endpoints=(f"https://{number}.example", f"https://spare.{number}.example"),
        wallet=Address((0, sha256(digest).digest())),
        fee_permille=number,
        status=OperatorStatus(number % 3),
        channel_delay_s=number * 3600,
        terms=digest,
    )


@pytest.fixture
def registry() -> RegistryInVm:
    registry = RegistryInVm()
    assert registry.deploy().exit_code == 0
    return registry


def many(count: int) -> RegistryInVm:
    registry = RegistryInVm(operators={number: terms(number) for number in range(count)})
    assert registry.deploy().exit_code == 0
    return registry


def test_the_owner_names_several_operators_and_each_is_read_alone(registry: RegistryInVm) -> None:
    for number in (1, 2, 3):
        assert registry.send(OWNER, set_operator_body(number, terms(number))).exit_code == 0
    assert registry.send(OWNER, remove_operator_body(2)).exit_code == 0
    state = registry.state()
    assert {key: operator.terms for key, operator in state.operators.items()} == {
        OPERATOR_ID: OPERATOR,
        1: terms(1),
        3: terms(3),
    }
    assert parse_operator(registry.account(), 3) == state.operators[3]
    with pytest.raises(UnknownOperatorError):
        parse_operator(registry.account(), 2)


def test_an_operator_is_found_by_its_key(registry: RegistryInVm) -> None:
    registry.send(OWNER, set_operator_body(1, terms(1)))
    assert registry.state().operator_of_key(terms(1).public_key).id == 1
    with pytest.raises(UnknownOperatorError, match="first"):
        registry.state().operator_of_key(KEY)
    registry.send(OWNER, set_operator_body(2, replace(terms(2), public_key=terms(1).public_key)))
    with pytest.raises(UnknownOperatorError, match="not exactly one"):
        registry.state().operator_of_key(terms(1).public_key)


def test_each_operator_anchors_its_own_epochs(registry: RegistryInVm) -> None:
    registry.send(OWNER, set_operator_body(1, terms(1)))
    assert registry.send(TREASURY, anchor_body(5, KEY)).exit_code == 0
    assert registry.send(terms(1).wallet, anchor_body(1, OTHER_KEY)).exit_code == 0
    assert registry.send(terms(1).wallet, anchor_body(1, KEY)).exit_code == EPOCH_NOT_LATER
    state = registry.state()
    assert state.anchor_of(TREASURY) == state.operators[OPERATOR_ID].anchor == (5, KEY)
    assert state.anchor_of(terms(1).wallet) == state.operators[1].anchor == (1, OTHER_KEY)


def test_a_wallet_of_the_same_number_in_the_masterchain_is_not_the_operators(registry: RegistryInVm) -> None:
    assert registry.send(Address((-1, TREASURY.hash_part)), anchor_body(1, KEY)).exit_code == NOT_THE_OPERATOR


def test_new_terms_keep_the_prices_and_another_wallet_takes_the_anchor_along(registry: RegistryInVm) -> None:
    registry.send(OWNER, set_price_body(OPERATOR_ID, KEY, OWN))
    registry.send(TREASURY, anchor_body(5, KEY))
    changed = replace(OPERATOR, wallet=STRANGER, fee_permille=0, endpoints=("https://gateway.example",))
    assert registry.send(OWNER, set_operator_body(OPERATOR_ID, changed)).exit_code == 0
    operator = registry.state().operators[OPERATOR_ID]
    assert (operator.terms, operator.prices, operator.anchor) == (changed, {KEY: OWN}, (5, KEY))
    assert registry.send(TREASURY, anchor_body(6, KEY)).exit_code == NOT_THE_OPERATOR
    assert registry.send(STRANGER, anchor_body(5, OTHER_KEY)).exit_code == EPOCH_NOT_LATER
    assert registry.send(STRANGER, anchor_body(6, OTHER_KEY)).exit_code == 0
    same = replace(changed, status=OperatorStatus.SUSPENDED)
    assert registry.send(OWNER, set_operator_body(OPERATOR_ID, same)).exit_code == 0
    assert registry.state().operators[OPERATOR_ID].anchor == (6, OTHER_KEY)


def test_a_removed_operator_leaves_nothing_behind(registry: RegistryInVm) -> None:
    registry.send(OWNER, set_price_body(OPERATOR_ID, KEY, OWN))
    registry.send(TREASURY, anchor_body(5, KEY))
    assert registry.send(OWNER, remove_operator_body(OPERATOR_ID)).exit_code == 0
    assert registry.state().operators == {}
    assert registry.send(TREASURY, anchor_body(6, KEY)).exit_code == NOT_THE_OPERATOR
    assert registry.send(OWNER, set_operator_body(8, OPERATOR)).exit_code == 0  # the wallet is free again
    assert registry.state().operators[8].prices == {}


def test_a_wallet_that_is_another_operators_is_refused(registry: RegistryInVm) -> None:
    registry.send(OWNER, set_operator_body(1, terms(1)))
    before = registry.state()
    for number in (1, 2):
        body = set_operator_body(number, replace(terms(number), wallet=TREASURY))
        assert registry.send(OWNER, body).exit_code == WALLET_TAKEN
    assert registry.state() == before
    with pytest.raises(ValueError, match="wallet of its own"):
        registry_init(network_id=-777, owner=OWNER, operators={1: OPERATOR, 2: OPERATOR})


def test_an_operator_charges_its_own_price_for_one_model_and_the_models_for_the_others(registry: RegistryInVm) -> None:
    registry.send(OWNER, set_model_body(KEY, MODEL))
    registry.send(OWNER, set_model_body(OTHER_KEY, MODEL))
    assert registry.send(OWNER, set_price_body(OPERATOR_ID, KEY, MODEL.tariff)).exit_code == 0
    assert registry.send(OWNER, set_price_body(OPERATOR_ID, KEY, OWN)).exit_code == 0
    operator = registry.state().operators[OPERATOR_ID]
    assert (operator.tariff(KEY, MODEL), operator.tariff(OTHER_KEY, MODEL)) == (OWN, MODEL.tariff)
    assert parse_operator(registry.account(), OPERATOR_ID) == operator
    assert registry.send(OWNER, remove_price_body(OPERATOR_ID, KEY)).exit_code == 0
    assert registry.state().operators[OPERATOR_ID].prices == {}


def test_one_of_a_hundred_operators_is_read_and_anchored_without_the_others() -> None:
    registry, alone = many(100), many(1)
    assert parse_operator(registry.account(), 42).terms == terms(42)
    assert len(registry.state().operators) == 100
    one = alone.send(terms(0).wallet, anchor_body(1, KEY)).gas
    hundred = registry.send(terms(42).wallet, anchor_body(1, KEY)).gas
    assert hundred < one + 12 * 700  # the path: a cell loaded and a cell made on each level


def text(length: int, *, announced: int | None = None) -> Cell:
    return begin_cell().store_uint(length if announced is None else announced, 8).store_bytes(b"x" * length)


def chain(count: int) -> Cell:
    cell = text(3).store_bit(0).end_cell()
    for _ in range(count - 1):
        cell = text(3).store_bit(1).store_ref(cell).end_cell()
    return cell


PROFILE = text(5).store_bytes(KEY).end_cell()


def entry(
    *, fee: int = 50, status: int = 0, profile: Cell = PROFILE, endpoints: Cell | None = None, tail: int = 0
) -> Cell:
    builder = begin_cell().store_bytes(KEY).store_bytes(OTHER_KEY).store_uint(fee, 16).store_uint(status, 8)
    builder = builder.store_uint(0, 32).store_ref(profile).store_ref(endpoints or chain(1))
    return (builder.store_uint(0, tail) if tail else builder).end_cell()


def order(operation: int = OP_SET_OPERATOR) -> Cell:
    return begin_cell().store_uint(operation, 32).store_uint(7, 64).store_uint(OPERATOR_ID, 32)


PRICES = begin_cell().store_uint(5, 64).store_uint(6, 64).store_uint(0, 128).end_cell()
MALFORMED = {
    "fee-above-everything": (order().store_ref(entry(fee=1001)), FEE),
    "status-nobody-knows": (order().store_ref(entry(status=3)), STATUS),
    "no-terms": (order(), CELL_UNDERFLOW),
    "terms-with-a-tail": (order().store_ref(entry(tail=1)), BODY),
    "body-with-a-tail": (order().store_ref(entry()).store_bit(0), BODY),
    "no-name": (order().store_ref(entry(profile=text(0).store_bytes(KEY).end_cell())), TEXT),
    "name-too-long": (order().store_ref(entry(profile=text(65).store_bytes(KEY).end_cell())), TEXT),
    "profile-cut-short": (order().store_ref(entry(profile=text(5).store_bytes(KEY[:31]).end_cell())), CELL_UNDERFLOW),
    "profile-with-a-tail": (order().store_ref(entry(profile=text(5).store_bytes(bytes(33)).end_cell())), BODY),
    "no-endpoint": (order().store_ref(entry(endpoints=text(0).store_bit(0).end_cell())), TEXT),
    "endpoint-too-long": (order().store_ref(entry(endpoints=text(121).store_bit(0).end_cell())), TEXT),
    "endpoint-cut-short": (order().store_ref(entry(endpoints=text(3, announced=4).end_cell())), TEXT),
    "endpoint-with-a-tail": (order().store_ref(entry(endpoints=text(3).store_uint(0, 2).end_cell())), BODY),
    "five-endpoints": (order().store_ref(entry(endpoints=chain(5))), ENDPOINTS),
    "half-an-id": (begin_cell().store_uint(OP_SET_OPERATOR, 32).store_uint(7, 64).store_uint(1, 31), CELL_UNDERFLOW),
    "price-without-a-model": (order(OP_SET_PRICE).store_cell(PRICES), CELL_UNDERFLOW),
    "cached-dearer-than-prompt": (order(OP_SET_PRICE).store_bytes(KEY).store_cell(PRICES), PRICE),
    "price-with-a-tail": (order(OP_SET_PRICE).store_bytes(KEY).store_bytes(bytes(33)), BODY),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_entry_is_refused(registry: RegistryInVm, name: str) -> None:
    before = registry.state()
    body, exit_code = MALFORMED[name]
    assert registry.send(OWNER, body.end_cell()).exit_code == exit_code
    assert registry.state() == before


def test_four_endpoints_are_taken(registry: RegistryInVm) -> None:
    assert registry.send(OWNER, order().store_ref(entry(endpoints=chain(4))).end_cell()).exit_code == 0
    assert len(registry.state().operators[OPERATOR_ID].terms.endpoints) == 4
