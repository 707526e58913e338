"""Redundancy as properties: no owner convinces alone, whoever agrees is paid, one miss ends trust."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.redundancy import (
    QUORUM,
    RESULTS_MAX,
    SAMPLED_SHARE,
    TRUSTED_AFTER,
    Agreement,
    Judgement,
    Rule,
    Standing,
    UnitResult,
    agree,
    judge,
    needs_check,
    standings_after,
)

EXACT = Rule(agreement=Agreement.EXACT)
CLOSE = Rule(agreement=Agreement.NUMERIC, relative=1e-3, absolute=1e-6)


def result(host: int, value, owner: int | None = None) -> UnitResult:
    return UnitResult(host=bytes([host]), owner=bytes([host if owner is None else owner]), value=value)


results = st.lists(
    st.builds(result, st.integers(0, 9), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 4)), max_size=12
)


@given(results)
def test_credit_goes_to_those_that_agree_with_at_least_two_owners(given_results: list[UnitResult]) -> None:
    judgement = judge(given_results, EXACT, check=True)
    if judgement.result is None:
        assert judgement.credited == judgement.refused == ()
        assert judgement.failed != (judgement.wanted > 0)
        return
    first = {each.host: each for each in reversed(given_results)}
    right = [first[host] for host in judgement.credited]
    assert len({each.owner for each in right}) >= QUORUM
    assert all(each.value == judgement.result.value for each in right)
    assert all(first[host].value != judgement.result.value for host in judgement.refused)
    assert {*judgement.credited} | {*judgement.refused} == set(first)


@given(st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=20), st.booleans())
def test_one_owner_with_any_number_of_hosts_convinces_nobody(values: list[bytes], repeats: bool) -> None:
    mine = [result(0 if repeats else host, value, owner=1) for host, value in enumerate(values)]
    assert judge(mine, EXACT, check=True).wanted >= 1


@given(results, st.permutations([result(11, b"a"), result(12, b"a"), result(13, b"a")]))
def test_two_lying_owners_lose_against_three_honest_ones(_: list[UnitResult], honest: list[UnitResult]) -> None:
    liars = [result(1, b"lie"), result(2, b"lie")]
    judgement = judge([*liars, *honest], EXACT, check=True)
    assert judgement.result is not None
    assert judgement.result.value == b"a"
    assert set(judgement.refused) == {b"\x01", b"\x02"}


def test_as_many_on_two_sides_decide_nothing_until_one_more_comes() -> None:
    split = [result(1, b"a"), result(2, b"a"), result(3, b"b"), result(4, b"b")]
    assert judge(split, EXACT, check=True) == Judgement(wanted=1)
    assert judge([*split, result(5, b"b")], EXACT, check=True).credited == (b"\x03", b"\x04", b"\x05")


def test_a_unit_that_nobody_agrees_on_fails_and_blames_nobody() -> None:
    lonely = [result(number, bytes([number])) for number in range(RESULTS_MAX)]
    assert judge(lonely[:-1], EXACT, check=True).wanted == 1
    failed = judge(lonely, EXACT, check=True)
    assert failed.failed
    assert standings_after({}, failed) == {}


numbers = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=4).map(tuple)


@given(numbers, numbers)
def test_agreement_of_numbers_is_symmetric_and_never_of_what_is_not_finite(one, other) -> None:
    a, b = result(1, one), result(2, other)
    assert agree(a, b, CLOSE) == agree(b, a, CLOSE)
    assert agree(a, a, CLOSE) == all(map(math.isfinite, one))
    if agree(a, b, CLOSE):
        assert all(abs(x - y) <= max(1e-3 * max(abs(x), abs(y)), 1e-6) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("value", [b"text", (), (1.0, 2.0), (math.nan,)])
def test_results_of_another_shape_agree_with_nothing(value) -> None:
    assert not agree(result(1, value), result(2, (1.0,)), CLOSE)
    assert not agree(result(1, (1.0,)), result(2, b"text"), EXACT)


@given(st.lists(st.booleans(), max_size=60))
def test_trust_is_ten_valid_results_in_a_row_and_ends_with_one_miss(outcomes: list[bool]) -> None:
    standing = Standing()
    for valid in outcomes:
        standing = standing.after(valid)
    run = 0
    for valid in reversed(outcomes):
        if not valid:
            break
        run += 1
    assert standing.trusted == (run >= TRUSTED_AFTER)
    assert needs_check(standing, 0.0)
    assert needs_check(standing, 0.999) != standing.trusted
    assert needs_check(standing, SAMPLED_SHARE) != standing.trusted


def test_a_trusted_host_is_believed_alone_but_not_with_rubbish() -> None:
    believed = judge([result(1, (1.0,))], CLOSE, check=False)
    assert (believed.credited, believed.checked) == ((b"\x01",), False)
    assert standings_after({}, believed) == {}
    assert judge([result(1, (math.nan,))], CLOSE, check=False).result is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, exclude_max=True)), max_size=80))
def test_a_host_that_turns_bad_is_believed_at_most_until_it_is_drawn(steps: list[tuple[bool, float]]) -> None:
    """Every wrong result that counted was one that no check was drawn for, and the first one drawn ends it."""
    standings: dict[bytes, Standing] = {}
    told = Counter[str]()
    for honest, draw in steps:
        check = needs_check(standings.get(b"\x01", Standing()), draw)
        mine = result(1, b"right" if honest else b"wrong")
        others = [result(2, b"right"), result(3, b"right")] if check else []
        judgement = judge([mine, *others], EXACT, check=check)
        standings |= standings_after(standings, judgement)
        assert judgement.result is not None
        if judgement.result.value == b"wrong":
            assert draw >= SAMPLED_SHARE
            told["wrong"] += 1
        if check and not honest:
            assert not standings[b"\x01"].trusted
            assert b"\x01" in judgement.refused


def test_rules_that_mean_nothing_are_refused() -> None:
    for wrong in ({"relative": 1.0}, {"absolute": math.inf}, {"relative": -0.1}):
        with pytest.raises(ValueError, match="relative must be"):
            Rule(agreement=Agreement.NUMERIC, **wrong)
    with pytest.raises(ValueError, match="no tolerance"):
        Rule(agreement=Agreement.EXACT, relative=0.1)
