"""Refusals: one root, a name for each reason, and they survive the way between processes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from attestation import errors
from attestation.errors import (
    AttestationError,
    AttesterError,
    EndorsementFetchError,
    EnvelopeError,
    FloorFileError,
    LogStoreError,
    PolicyError,
    SealedStateError,
)
from attestation.verdict import Check, CheckLog

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
REFUSALS = [kind for kind in CLASSES if issubclass(kind, AttestationError)]
CHECK = Check(name="image", seen="a", required="b", outcome="failed")


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_crosses_processes_with_its_checks(kind: type[AttestationError]) -> None:
    error = kind("got a, want b", (CHECK,))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.checks) == (kind, "got a, want b", (CHECK,))


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_can_be_given_the_checks_before_it(kind: type[AttestationError]) -> None:
    error = kind("why").with_checks((CHECK,))
    assert (type(error), str(error), error.checks) == (kind, "why", (CHECK,))


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_one_root_a_line_in_the_tree_and_its_meaning(kind: type[Exception]) -> None:
    services = (EndorsementFetchError, FloorFileError, LogStoreError, SealedStateError)
    roots = (AttestationError, PolicyError, AttesterError, EnvelopeError, *services)
    assert issubclass(kind, roots)
    assert kind.__name__ in str(errors.__doc__)
    assert kind.__doc__
    assert pickle.loads(pickle.dumps(kind("why"))).args


def test_the_first_failed_check_raises_with_all_before_it() -> None:
    log = CheckLog()
    log.require("one", True, seen="1", required="1", error=AttestationError)
    log.skip("two", why="nothing to see")
    with pytest.raises(errors.FreshnessError, match=r"three: 3; required: 4") as caught:
        log.require("three", False, seen="3", required="4", error=errors.FreshnessError)
    assert [check.outcome for check in caught.value.checks] == ["held", "not applicable", "failed"]
