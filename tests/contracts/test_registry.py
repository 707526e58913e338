"""The registry contract, run in the real TVM: every operation, and every refusal by its exit code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytoniq_core import Address, Cell, begin_cell
from pytoniq_core.crypto.crc import crc16

from billing.tariff import Tariff
from billing.ton.cells import payee_of
from billing.ton.emulator import ExternalNotAcceptedError
from billing.ton.registry import (
    OP_ANCHOR,
    OP_REMOVE_CHECKPOINT,
    OP_SET_CHECKPOINT,
    OP_SET_MEASUREMENT,
    OP_SET_MODEL,
    OP_SET_POLICY,
    LogCheckpoint,
    Measurement,
    ModelTerms,
    Operator,
    Policy,
    anchor_body,
    remove_checkpoint_body,
    remove_measurement_body,
    remove_model_body,
    remove_operator_body,
    remove_price_body,
    remove_rim_body,
    set_checkpoint_body,
    set_measurement_body,
    set_model_body,
    set_operator_body,
    set_policy_body,
    set_price_body,
    set_rim_body,
)
from tests.contracts.harness import OPERATOR, OPERATOR_ID, OWNER, STRANGER, TON, TREASURY, RegistryInVm

OP_EXCESSES = 0xD53276DB
KEY, OTHER_KEY = b"\x11" * 32, b"\xee" * 32
TDX = Measurement(kind=1, label="tdx: engine image 7")
TERMS = ModelTerms(
    name="tiny-translator",
    tariff=Tariff(prompt_price=2 * 10**8, cached_price=10**8, completion_price=6 * 10**8, reasoning_price=7 * 10**8),
    context=512,
)
CHECKPOINT = LogCheckpoint(log=OTHER_KEY, size=10, root=OTHER_KEY)
NOT_THE_OWNER, NOT_THE_OPERATOR, EPOCH_NOT_LATER, NO_SUCH_ENTRY = 401, 402, 403, 404
MALFORMED_TEXT, MALFORMED_BODY, SIZE_NOT_LARGER, PRICE = 407, 408, 452, 454
CELL_UNDERFLOW, UNKNOWN_OPERATION = 9, 0xFFFF


@pytest.fixture
def registry() -> RegistryInVm:
    registry = RegistryInVm()
    assert registry.deploy().exit_code == 0
    return registry


def method_id(name: str) -> int:
    return int.from_bytes(crc16(name.encode()), "big") & 0xFFFF | 0x10000


def header(operation: int) -> Cell:
    return begin_cell().store_uint(operation, 32).store_uint(7, 64)


def test_a_new_registry_is_empty_and_names_network_owner_and_first_operators(registry: RegistryInVm) -> None:
    state = registry.state()
    assert (state.network_id, state.seqno, state.owner, state.policy) == (-777, 0, OWNER, Policy())
    assert (state.measurements, state.rims, state.models) == ({}, frozenset(), {})
    assert state.operators == {OPERATOR_ID: Operator(id=OPERATOR_ID, terms=OPERATOR)}


def test_the_same_registry_on_two_networks_has_two_addresses() -> None:
    assert RegistryInVm(network_id=-239).address != RegistryInVm(network_id=-777).address


def test_the_owner_sets_and_removes_a_measurement(registry: RegistryInVm) -> None:
    assert registry.send(OWNER, set_measurement_body(KEY, TDX)).exit_code == 0
    assert registry.send(OWNER, set_measurement_body(OTHER_KEY, replace(TDX, label="second"))).exit_code == 0
    assert registry.state().measurements == {KEY: TDX, OTHER_KEY: replace(TDX, label="second")}
    assert registry.send(OWNER, remove_measurement_body(KEY)).exit_code == 0
    assert set(registry.state().measurements) == {OTHER_KEY}
    assert registry.state().seqno == 3


def test_the_owner_sets_and_removes_a_rim(registry: RegistryInVm) -> None:
    assert registry.send(OWNER, set_rim_body(KEY)).exit_code == 0
    assert registry.send(OWNER, set_rim_body(OTHER_KEY)).exit_code == 0
    assert registry.state().rims == {KEY, OTHER_KEY}
    assert registry.send(OWNER, remove_rim_body(OTHER_KEY)).exit_code == 0
    assert registry.state().rims == {KEY}


def test_the_owner_sets_changes_and_removes_a_model(registry: RegistryInVm) -> None:
    dearer = replace(TERMS, tariff=Tariff(prompt_price=1, completion_price=(1 << 63) - 1))
    for terms in (TERMS, dearer):
        assert registry.send(OWNER, set_model_body(KEY, terms)).exit_code == 0
        assert registry.state().models == {KEY: terms}
    assert registry.send(OWNER, remove_model_body(KEY)).exit_code == 0
    assert registry.state().models == {}


def test_the_operator_anchors_ever_later_epochs(registry: RegistryInVm) -> None:
    assert registry.send(TREASURY, anchor_body(1, KEY)).exit_code == 0
    assert registry.send(TREASURY, anchor_body(5, OTHER_KEY)).exit_code == 0
    assert registry.state().anchor_of(TREASURY) == (5, OTHER_KEY)
    assert registry.state().seqno == 0  # the owner changed nothing


def test_the_owner_names_a_policy_and_takes_it_back(registry: RegistryInVm) -> None:
    assert registry.send(OWNER, set_policy_body(KEY)).exit_code == 0
    assert registry.state().policy == Policy(digest=KEY)
    assert registry.send(OWNER, set_checkpoint_body(CHECKPOINT)).exit_code == 0
    assert registry.send(OWNER, set_policy_body(bytes(32))).exit_code == 0
    assert registry.state().policy == Policy(checkpoint=CHECKPOINT)
    assert registry.send(OWNER, remove_checkpoint_body()).exit_code == 0
    assert registry.state().policy == Policy()
    assert registry.state().seqno == 4


@pytest.mark.parametrize("size", [0, 1, 10], ids=["empty", "shorter", "the-same"])
def test_a_checkpoint_of_the_same_log_that_is_not_larger_is_refused(registry: RegistryInVm, size: int) -> None:
    registry.send(OWNER, set_checkpoint_body(CHECKPOINT))
    smaller = replace(CHECKPOINT, size=size, root=KEY)
    assert registry.send(OWNER, set_checkpoint_body(smaller)).exit_code == SIZE_NOT_LARGER
    assert registry.state().policy.checkpoint == CHECKPOINT
    assert registry.send(OWNER, set_checkpoint_body(replace(CHECKPOINT, size=11))).exit_code == 0
    assert registry.send(OWNER, set_checkpoint_body(replace(smaller, log=KEY))).exit_code == 0  # another log


def test_many_entries_of_every_kind_are_read_back(registry: RegistryInVm) -> None:
    keys = [bytes([i]) * 32 for i in range(20)]
    for key in keys:
        registry.send(OWNER, set_measurement_body(key, TDX))
        registry.send(OWNER, set_rim_body(key))
        registry.send(OWNER, set_model_body(key, TERMS))
    state = registry.state()
    assert set(state.measurements) == set(state.rims) == set(state.models) == set(keys)
    assert state.seqno == 60


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(set_measurement_body(KEY, TDX), id="set-measurement"),
        pytest.param(remove_measurement_body(KEY), id="remove-measurement"),
        pytest.param(set_rim_body(KEY), id="set-rim"),
        pytest.param(remove_rim_body(KEY), id="remove-rim"),
        pytest.param(set_model_body(KEY, TERMS), id="set-model"),
        pytest.param(remove_model_body(KEY), id="remove-model"),
        pytest.param(set_operator_body(OPERATOR_ID, OPERATOR), id="set-operator"),
        pytest.param(remove_operator_body(OPERATOR_ID), id="remove-operator"),
        pytest.param(set_price_body(OPERATOR_ID, KEY, TERMS.tariff), id="set-price"),
        pytest.param(remove_price_body(OPERATOR_ID, KEY), id="remove-price"),
        pytest.param(set_policy_body(KEY), id="set-policy"),
        pytest.param(set_checkpoint_body(CHECKPOINT), id="set-checkpoint"),
        pytest.param(remove_checkpoint_body(), id="remove-checkpoint"),
        pytest.param(header(0).end_cell(), id="comment"),
    ],
)
@pytest.mark.parametrize("sender", [STRANGER, TREASURY], ids=["stranger", "operator"])
def test_an_owner_operation_by_anyone_else_is_refused(registry: RegistryInVm, sender: Address, body: Cell) -> None:
    before = registry.state()
    assert registry.send(sender, body).exit_code == NOT_THE_OWNER
    assert registry.state() == before


@pytest.mark.parametrize("sender", [STRANGER, OWNER], ids=["stranger", "owner"])
def test_an_anchor_by_anyone_but_the_operator_is_refused(registry: RegistryInVm, sender: Address) -> None:
    assert registry.send(sender, anchor_body(1, KEY)).exit_code == NOT_THE_OPERATOR
    assert registry.state().anchor_of(TREASURY) == (0, bytes(32))


@pytest.mark.parametrize("epoch", [5, 4, 0], ids=["replayed", "earlier", "zero"])
def test_a_replayed_or_earlier_anchor_is_refused(registry: RegistryInVm, epoch: int) -> None:
    assert registry.send(TREASURY, anchor_body(5, KEY)).exit_code == 0
    assert registry.send(TREASURY, anchor_body(epoch, OTHER_KEY)).exit_code == EPOCH_NOT_LATER
    assert registry.state().anchor_of(TREASURY) == (5, KEY)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(remove_measurement_body(KEY), id="measurement"),
        pytest.param(remove_rim_body(KEY), id="rim"),
        pytest.param(remove_model_body(KEY), id="model"),
        pytest.param(remove_operator_body(8), id="operator"),
        pytest.param(remove_price_body(OPERATOR_ID, KEY), id="price"),
        pytest.param(remove_price_body(8, KEY), id="price-of-no-operator"),
        pytest.param(set_price_body(8, KEY, TERMS.tariff), id="price-for-no-operator"),
        pytest.param(remove_checkpoint_body(), id="checkpoint"),
    ],
)
def test_changing_what_is_not_there_is_refused(registry: RegistryInVm, body: Cell) -> None:
    assert registry.send(OWNER, body).exit_code == NO_SUCH_ENTRY
    assert registry.state().seqno == 0


def text(length: int, *, announced: int | None = None) -> Cell:
    return begin_cell().store_uint(length if announced is None else announced, 8).store_bytes(b"x" * length)


PRICES = begin_cell().store_uint(5, 64).store_uint(5, 64).store_uint(5, 64).store_uint(5, 64).end_cell()


def model_cell(name: Cell, *, prices: Cell = PRICES, context_bits: int = 32) -> Cell:
    return name.store_cell(prices).store_uint(1, context_bits).end_cell()


def prices(prompt: int, cached: int, completion: int, reasoning: int) -> Cell:
    builder = begin_cell()
    for price in (prompt, cached, completion, reasoning):
        builder.store_uint(price, 64)
    return builder.end_cell()


MALFORMED = [
    (header(0x43520099).store_bytes(KEY).end_cell(), UNKNOWN_OPERATION, "unknown-operation"),
    (begin_cell().store_uint(OP_SET_MODEL, 32).end_cell(), CELL_UNDERFLOW, "no-query-id"),
    (header(OP_SET_MODEL).store_bytes(KEY[:31]).end_cell(), CELL_UNDERFLOW, "short-key"),
    (header(OP_SET_MODEL).store_bytes(KEY).end_cell(), CELL_UNDERFLOW, "no-terms"),
    (
        header(OP_SET_MODEL).store_bytes(KEY).store_ref(model_cell(text(65))).end_cell(),
        MALFORMED_TEXT,
        "name-too-long",
    ),
    (header(OP_SET_MODEL).store_bytes(KEY).store_ref(model_cell(text(0))).end_cell(), MALFORMED_TEXT, "no-name"),
    (
        header(OP_SET_MODEL).store_bytes(KEY).store_ref(model_cell(text(3), context_bits=31)).end_cell(),
        CELL_UNDERFLOW,
        "terms-cut-short",
    ),
    (
        header(OP_SET_MODEL).store_bytes(KEY).store_ref(model_cell(text(3), context_bits=33)).end_cell(),
        MALFORMED_BODY,
        "terms-with-a-tail",
    ),
    (
        header(OP_SET_MEASUREMENT).store_bytes(KEY).store_uint(1, 8).store_cell(text(3, announced=4).end_cell()),
        MALFORMED_TEXT,
        "label-cut-short",
    ),
    (
        header(OP_SET_MEASUREMENT).store_bytes(KEY).store_uint(1, 8).store_cell(text(3, announced=2).end_cell()),
        MALFORMED_BODY,
        "label-with-a-tail",
    ),
    (
        header(OP_SET_MEASUREMENT)
        .store_bytes(KEY)
        .store_uint(1, 8)
        .store_cell(text(3).end_cell())
        .store_ref(Cell.empty()),
        MALFORMED_BODY,
        "label-with-a-hidden-cell",
    ),
    *(
        (header(OP_SET_MODEL).store_bytes(KEY).store_ref(model_cell(text(3), prices=wrong)).end_cell(), PRICE, name)
        for wrong, name in (
            (prices(5, 6, 5, 5), "cached-dearer-than-prompt"),
            (prices(1 << 63, 0, 0, 0), "prompt-price-of-64-bits"),
            (prices(0, 0, 1 << 63, 0), "completion-price-of-64-bits"),
            (prices(0, 0, 0, 1 << 63), "reasoning-price-of-64-bits"),
        )
    ),
    (header(OP_SET_POLICY).store_bytes(KEY[:31]).end_cell(), CELL_UNDERFLOW, "half-a-policy"),
    (header(OP_SET_POLICY).store_bytes(KEY).store_bit(0).end_cell(), MALFORMED_BODY, "policy-with-a-tail"),
    (header(OP_SET_CHECKPOINT).store_bytes(KEY).end_cell(), CELL_UNDERFLOW, "half-a-checkpoint"),
    (header(OP_SET_CHECKPOINT).store_bytes(bytes(73)).end_cell(), MALFORMED_BODY, "checkpoint-with-a-tail"),
    (header(OP_REMOVE_CHECKPOINT).store_bit(0).end_cell(), MALFORMED_BODY, "removal-with-a-tail"),
    (begin_cell().store_uint(OP_SET_MODEL, 31).end_cell(), CELL_UNDERFLOW, "half-an-operation"),
]


@pytest.mark.parametrize(("body", "exit_code"), [pytest.param(b, c, id=name) for b, c, name in MALFORMED])
def test_a_malformed_order_of_the_owner_is_refused(registry: RegistryInVm, body: Cell, exit_code: int) -> None:
    before = registry.state()
    cell = body if isinstance(body, Cell) else body.end_cell()
    assert registry.send(OWNER, cell).exit_code == exit_code
    assert registry.state() == before


def test_an_anchor_with_a_tail_is_refused(registry: RegistryInVm) -> None:
    body = header(OP_ANCHOR).store_uint(1, 64).store_bytes(KEY).store_bit(1).end_cell()
    assert registry.send(TREASURY, body).exit_code == MALFORMED_BODY


def test_an_external_message_is_refused(registry: RegistryInVm) -> None:
    with pytest.raises(ExternalNotAcceptedError) as refusal:
        registry.send_external(set_rim_body(KEY))
    assert refusal.value.exit_code == 11


def test_a_bounced_message_is_ignored(registry: RegistryInVm) -> None:
    outcome = registry.send(OWNER, set_rim_body(KEY), bounced=True)
    assert (outcome.exit_code, outcome.transaction.outgoing) == (0, ())
    assert registry.state().rims == frozenset()


def test_anyone_may_pay_the_rent(registry: RegistryInVm) -> None:
    before = registry.account().balance
    outcome = registry.send(STRANGER, value=TON)
    assert outcome.exit_code == 0
    assert registry.account().balance > before + TON * 99 // 100


def test_what_is_attached_beyond_gas_and_rent_comes_back(registry: RegistryInVm) -> None:
    kept = registry.account().balance
    outcome = registry.send(OWNER, set_rim_body(KEY, query_id=42), value=TON)
    (change,) = outcome.transaction.outgoing
    assert change.destination == payee_of(OWNER)
    assert change.operation == OP_EXCESSES
    assert change.body.begin_parse().skip_bits(32).load_uint(64) == 42
    assert change.value > TON - 20_000_000
    assert registry.account().balance >= kept - outcome.transaction.fees


def test_a_registry_short_of_rent_keeps_what_is_missing() -> None:
    registry = RegistryInVm()
    registry.send(STRANGER, value=TON // 100, init=registry.init)
    registry.send(OWNER, set_rim_body(KEY), value=TON)
    assert registry.account().balance == TON // 20


def test_a_refused_order_bounces_its_value_back(registry: RegistryInVm) -> None:
    outcome = registry.send(STRANGER, set_rim_body(KEY), value=TON)
    assert outcome.aborted
    (bounce,) = outcome.transaction.outgoing
    assert bounce.bounced
    assert bounce.value > TON - 20_000_000


def test_an_anchor_costs_less_than_five_thousandths_of_a_ton(registry: RegistryInVm) -> None:
    outcome = registry.send(TREASURY, anchor_body(1, KEY), value=20_000_000)
    assert outcome.transaction.cost < 5_000_000


def test_get_methods_answer_with_two_values(registry: RegistryInVm) -> None:
    registry.send(OWNER, set_measurement_body(KEY, TDX))
    registry.send(OWNER, set_rim_body(KEY))
    registry.send(OWNER, set_model_body(KEY, TERMS))
    registry.send(TREASURY, anchor_body(9, OTHER_KEY))
    key, missing = int.from_bytes(KEY, "big"), 12345

    def get(name: str, *arguments: int) -> list[object]:
        result, stack = registry.get(method_id(name), list(arguments))
        assert result.exit_code == 0
        assert len(stack) == 2
        return stack

    assert get("get_version") == [-777, 3]
    assert get("get_owner") == [0, int.from_bytes(OWNER.hash_part, "big")]
    terms, found = get("get_operator", OPERATOR_ID)
    assert isinstance(terms, Cell)
    assert (terms.hash, found) == (OPERATOR.cell().hash, -1)
    assert get("get_operator", 8) == [None, 0]
    assert get("get_anchor", int.from_bytes(TREASURY.hash_part, "big")) == [9, int.from_bytes(OTHER_KEY, "big")]
    assert get("get_anchor", missing) == [0, 0]
    assert get("get_price", OPERATOR_ID, key) == get("get_price", 8, key) == [None, 0]
    assert get("get_handover")[1] == 0
    assert get("get_policy")[1] == 0
    registry.send(OWNER, set_price_body(OPERATOR_ID, KEY, TERMS.tariff))
    registry.send(OWNER, set_checkpoint_body(CHECKPOINT))
    assert get("get_price", OPERATOR_ID, key)[1] == -1
    assert get("get_policy")[1] == -1
    assert get("get_measurement", key) == [1, -1]
    assert get("get_measurement", missing) == [0, 0]
    assert get("get_rim", key) == [key, -1]
    assert get("get_rim", missing) == [0, 0]
    terms, found = get("get_model", key)
    assert isinstance(terms, Cell)
    assert found == -1
    assert get("get_model", missing) == [None, 0]
