"""Redundancy for hosts that prove nothing: a unit on hosts of different owners, credit to those that agree. Pure.

Adaptive replication as in BOINC: a host whose last TRUSTED_AFTER results in a row were valid is checked only now and
then; one miss, and each of its results is checked again. Whether a unit is checked is drawn by the caller's random
number after the host was chosen, so a host cannot know it before it answers.

Source: BOINC wiki, "AdaptiveReplication"; Anderson, "BOINC: A Platform for Volunteer Computing", section 3.4.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from billing.verdict import QUORUM, RESULTS_MAX

TRUSTED_AFTER = 10  # valid results in a row
SAMPLED_SHARE = 0.1  # of a trusted host's units that are checked all the same


class Agreement(StrEnum):
    """When two results say the same."""

    EXACT = "exact"  # bytes; of a text model at temperature 0 on the same engine
    NUMERIC = "numeric"  # lists of numbers, each within tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How results of one kind of task are compared."""

    agreement: Agreement
    relative: float = 0.0  # of numbers: of the larger of the two
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.relative < 1 or not 0 <= self.absolute < math.inf:
            raise ValueError("relative must be from 0 to below 1, absolute finite and not negative")
        if self.agreement is Agreement.EXACT and (self.relative or self.absolute):
            raise ValueError("an exact rule has no tolerance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a host of the open tier has shown."""

    valid_in_row: int = 0

    @property
    def trusted(self) -> bool:
        """Whether most of its results count without a second opinion."""
        return self.valid_in_row >= TRUSTED_AFTER

    def after(self, valid: bool) -> "Standing":
        """Return the standing after one more checked result."""
        return Standing(valid_in_row=self.valid_in_row + 1 if valid else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitResult:
    """What one host says a unit gives: bytes for an exact rule, numbers for a numeric one."""

    host: bytes
    owner: bytes  # payee
    value: bytes | tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Where a unit stands: `wanted` more results, or its `result` with who is right and who is wrong, or failed."""

    wanted: int = 0
    result: UnitResult | None = None
    credited: tuple[bytes, ...] = ()  # hosts that agree with the result
    refused: tuple[bytes, ...] = ()  # hosts that do not
    checked: bool = True  # False: a trusted host's word, which changes no standing
    failed: bool = False  # RESULTS_MAX results and no quorum: nobody is credited, nobody blamed


def needs_check(standing: Standing, draw: float) -> bool:
    """Tell whether a unit of a host needs other owners' results; `draw` is random from 0 to below 1."""
    return not standing.trusted or draw < SAMPLED_SHARE


def agree(one: UnitResult, other: UnitResult, rule: Rule) -> bool:
    """Tell whether two results say the same; numbers that are not finite agree with nothing."""
    a, b = one.value, other.value
    if rule.agreement is Agreement.EXACT:
        return isinstance(a, bytes) and a == b
    if isinstance(a, bytes) or isinstance(b, bytes) or len(a) != len(b):
        return False
    return all(
        math.isfinite(x) and math.isfinite(y) and math.isclose(x, y, rel_tol=rule.relative, abs_tol=rule.absolute)
        for x, y in zip(a, b, strict=True)
    )


def judge(results: Sequence[UnitResult], rule: Rule, *, check: bool) -> Judgement:
    """Decide about a unit by the results that came so far.

    A result has a quorum when results of QUORUM different owners agree with it: more hosts of one owner, or a host that
    answers twice, add nothing. Tolerance is not transitive, so everybody is compared with one result, the one that most
    owners agree with, of equal ones the first; two that have as many owners and disagree decide nothing yet.

    Args:
        results: in the order they came.
        rule: how they are compared.
        check: what `needs_check` said of the first host.

    Returns:
        What follows. With `check` False the first result counts at once.
    """
    counted = _one_of_each_host(results)
    if not counted:
        return Judgement(wanted=QUORUM if check else 1)
    if not check and _well_formed(counted[0], rule):
        return Judgement(result=counted[0], credited=(counted[0].host,), checked=False)
    owners = {result.host: _supporters(result, counted, rule) for result in counted}
    best = max(counted, key=lambda result: len(owners[result.host]))  # the first of equal ones
    support = owners[best.host]
    rivals = [each for each in counted if len(owners[each.host]) == len(support) and not agree(best, each, rule)]
    if len(support) >= QUORUM and not rivals:
        right = tuple(each.host for each in counted if agree(best, each, rule))
        wrong = tuple(each.host for each in counted if not agree(best, each, rule))
        return Judgement(result=best, credited=right, refused=wrong)
    if len({each.owner for each in counted}) >= RESULTS_MAX:
        return Judgement(failed=True)
    return Judgement(wanted=1 if rivals else QUORUM - len(support) or 1)


def standings_after(standings: Mapping[bytes, Standing], judgement: Judgement) -> dict[bytes, Standing]:
    """Return the standings of the hosts that a judgement is about; hosts that are new begin at nothing."""
    if not judgement.checked or judgement.result is None:
        return {}
    outcomes = [(host, True) for host in judgement.credited] + [(host, False) for host in judgement.refused]
    return {host: standings.get(host, Standing()).after(valid) for host, valid in outcomes}


def _one_of_each_host(results: Sequence[UnitResult]) -> list[UnitResult]:
    first: dict[bytes, UnitResult] = {}
    for result in results:
        first.setdefault(result.host, result)
    return list(first.values())


def _supporters(result: UnitResult, results: Sequence[UnitResult], rule: Rule) -> frozenset[bytes]:
    """Owners of those that agree with a result; one that agrees with nothing, not even itself, has none."""
    return frozenset(each.owner for each in results if agree(result, each, rule))


def _well_formed(result: UnitResult, rule: Rule) -> bool:
    return agree(result, result, rule)
