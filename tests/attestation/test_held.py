"""What held before is not checked again, and nothing else passes for it."""

from dataclasses import replace

import pytest

from attestation.errors import TierError
from attestation.held import remember
from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.verdict import CheckLog

POLICY = AppraisalPolicy(
    reference=ReferenceValues(measurements=frozenset({bytes(32)}), rims=frozenset(), models=frozenset()),
)


class Checks:
    """Counts how often it runs."""

    def __init__(self, *, ok: bool = True) -> None:
        self.ok, self.runs = ok, 0

    def __call__(self, log: CheckLog) -> None:
        self.runs += 1
        log.require("one", True, seen="a", required="b", error=TierError)
        log.require("two", self.ok, seen="c", required="d", error=TierError)


def test_checks_that_held_are_listed_again_without_being_run(about: str) -> None:
    checks, first, second = Checks(), CheckLog(), CheckLog()
    second.require("before", True, seen="x", required="y", error=TierError)
    remember(about, POLICY, first, checks)
    remember(about, POLICY, second, checks)
    assert checks.runs == 1
    assert second.checks[1:] == first.checks
    assert [check.name for check in second.checks] == ["before", "one", "two"]


def test_other_evidence_and_other_policies_are_checked(about: str) -> None:
    checks = Checks()
    remember(about, POLICY, CheckLog(), checks)
    remember(about + " else", POLICY, CheckLog(), checks)
    remember(about, replace(POLICY), CheckLog(), checks)  # equal, but nobody compares
    assert checks.runs == 3


def test_a_policy_s_place_in_memory_is_not_taken_by_another(about: str) -> None:
    checks = Checks()
    for _ in range(50):  # each is gone before the next is made, unless it is kept
        remember(about, replace(POLICY), CheckLog(), checks)
    assert checks.runs == 50


def test_what_failed_is_not_remembered(about: str) -> None:
    failing, log = Checks(ok=False), CheckLog()
    for _ in range(2):
        with pytest.raises(TierError) as refusal:
            remember(about, POLICY, log, failing)
        assert [check.outcome for check in refusal.value.checks] == ["held", "failed"]
    assert (failing.runs, log.checks) == (2, ())


@pytest.fixture
def about(request: pytest.FixtureRequest) -> str:
    """A subject of its own for each test: what is remembered outlives it."""
    return request.node.nodeid
