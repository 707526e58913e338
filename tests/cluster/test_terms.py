"""What the cluster takes from the registry contract about its own operator."""

from __future__ import annotations

import pytest

from billing.errors import UnknownOperatorError
from billing.ton.registry import Operator, RegistryState
from billing.ton.registry_entries import OperatorStatus
from cluster.admission import NetworkTerms
from tests.client.support import make_registry, operator_terms

KEY = b"\x07" * 32


def state(status: OperatorStatus) -> RegistryState:
    operators = {1: Operator(id=1, terms=operator_terms(KEY, "http://127.0.0.1:1", status=status))}
    return make_registry([], KEY, "http://127.0.0.1:1", operators=operators)


@pytest.mark.parametrize(
    ("status", "closed"),
    [
        (OperatorStatus.ACTIVE, ""),
        (OperatorStatus.CLOSING, "the registry says that it is closing"),
        (OperatorStatus.SUSPENDED, "governance has suspended it"),
    ],
)
def test_the_terms_say_whether_the_operator_may_take_leases(status: OperatorStatus, closed: str) -> None:
    assert NetworkTerms.from_registry(state(status), operator=KEY).closed == closed


def test_an_operator_that_the_registry_does_not_name_has_no_terms() -> None:
    with pytest.raises(UnknownOperatorError):
        NetworkTerms.from_registry(state(OperatorStatus.ACTIVE), operator=b"\x09" * 32)
