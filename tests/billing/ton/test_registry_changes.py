"""A document against a registry: the difference in words, its messages, and what is refused before any is sent."""

from __future__ import annotations

from typing import Any

import pytest

from billing.errors import BadAddressError
from billing.ton.registry import parse_registry
from billing.ton.registry_changes import describe_operator, plan_changes
from tests.contracts.harness import OPERATOR, OPERATOR_ID, OWNER, TREASURY, RegistryInVm

A, B, C = (letter * 64 for letter in "abc")
FULL: dict[str, Any] = {
    "measurements": {A: {"kind": 1, "label": "image"}},
    "rims": {A: True, B: True},
    "models": {C: {"name": "tiny", "context": 512, "prompt_price": 5, "completion_price": 9}},
    "operators": {8: describe_operator(OPERATOR) | {"name": "second", "wallet": f"0:{B}", "status": "closing"}},
    "prices": {8: {C: {"prompt_price": 4, "cached_price": 1, "completion_price": 8, "reasoning_price": 7}}},
    "policy": A,
    "checkpoint": {"log": A, "size": 5, "root": B},
}


@pytest.fixture
def registry() -> RegistryInVm:
    registry = RegistryInVm()
    assert registry.deploy().exit_code == 0
    return registry


def apply(registry: RegistryInVm, document: object) -> list[str]:
    changes = plan_changes(document, parse_registry(registry.account()))
    for change in changes:
        assert registry.send(OWNER, change.body).exit_code == 0, change
    return [str(change) for change in changes]


def test_every_section_is_written_once_and_then_nothing_changes(registry: RegistryInVm) -> None:
    words = apply(registry, FULL)
    assert len(words) == 8
    assert all(line.startswith("+ ") for line in words)
    assert apply(registry, FULL) == []
    assert describe_operator(registry.state().operators[8].terms) == FULL["operators"][8]
    assert len(registry.state().operators) == 2


def test_null_removes_and_what_is_not_named_stays(registry: RegistryInVm) -> None:
    apply(registry, FULL)
    nothing = {
        "measurements": {A: None},
        "rims": {B: None},
        "models": {C: None},
        "operators": {OPERATOR_ID: None},
        "prices": {8: {C: None}},
        "policy": None,
        "checkpoint": None,
    }
    assert all(line.startswith("- ") for line in apply(registry, nothing))
    state = registry.state()
    assert (state.measurements, state.models, len(state.rims), set(state.operators)) == ({}, {}, 1, {8})


def test_a_part_of_an_operators_terms_changes_that_part(registry: RegistryInVm) -> None:
    (words,) = apply(registry, {"operators": {OPERATOR_ID: {"status": "suspended", "fee_permille": 40}}})
    assert words == f"~ operator {OPERATOR_ID}: fee_permille 50, status active -> fee_permille 40, status suspended"
    assert registry.state().operators[OPERATOR_ID].terms.wallet == TREASURY


@pytest.mark.parametrize(
    ("document", "why"),
    [
        pytest.param([], "must be a mapping", id="a-list"),
        pytest.param({"rim": {}}, "unknown keys: rim", id="unknown-section"),
        pytest.param({"rims": {"ab": True}}, "64 hexadecimal", id="short-key"),
        pytest.param({"rims": {int("1" * 64): True}}, "64 hexadecimal", id="a-number-without-quotes"),
        pytest.param({"rims": {A: False}}, "write true", id="neither-true-nor-null"),
        pytest.param({"rims": {A: None}}, "is not in the registry", id="removes-nothing"),
        pytest.param({"operators": {9: None}}, "is not in the registry", id="removes-no-operator"),
        pytest.param({"operators": {9: {"name": "x"}}}, "lacks", id="new-operator-in-part"),
        pytest.param({"operators": {"7": {"fee_permille": 4}}}, "whole number", id="id-as-text"),
        pytest.param({"operators": {7: {"fee_permille": 1001}}}, "fee_permille", id="fee-above-everything"),
        pytest.param({"operators": {7: {"fee_permille": 0.5}}}, "whole number", id="a-float"),
        pytest.param({"operators": {7: {"status": "away"}}}, "active, closing, suspended", id="unknown-status"),
        pytest.param({"operators": {7: {"endpoints": "x"}}}, "must be a list", id="endpoints-no-list"),
        pytest.param(
            {"models": {A: {"name": "x", "context": 1, "prompt_price": 1}}}, "completion_price", id="no-price"
        ),
        pytest.param({"prices": {7: {A: {"prompt_price": -1, "completion_price": 1}}}}, "prompt_price", id="negative"),
        pytest.param(
            {"prices": {7: {A: {"prompt_price": 1, "cached_price": 2, "completion_price": 1}}}},
            "cached_price",
            id="cached-dearer",
        ),
        pytest.param({"measurements": {A: {"kind": True, "label": "x"}}}, "whole number", id="kind-as-truth"),
        pytest.param({"measurements": {A: {"kind": 1, "label": ""}}}, "printable", id="no-label"),
        pytest.param({"checkpoint": {"log": A, "size": 5}}, "lacks root", id="half-a-checkpoint"),
    ],
)
def test_a_document_the_contract_would_refuse_is_refused_before(
    registry: RegistryInVm, document: object, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        plan_changes(document, registry.state())


def test_a_mistyped_wallet_and_a_smaller_checkpoint_are_refused(registry: RegistryInVm) -> None:
    apply(registry, FULL)
    with pytest.raises(BadAddressError):
        plan_changes({"operators": {7: {"wallet": "0:12"}}}, registry.state())
    with pytest.raises(ValueError, match="only grows"):
        plan_changes({"checkpoint": {"log": A, "size": 4, "root": C}}, registry.state())
