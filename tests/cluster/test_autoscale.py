from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.autoscale import CLAIM_MAX, Sample, Scale, ScaleLimits, needed, sample_of, step, token_rates
from cluster.model import Load
from tests.cluster.fleets import MODEL, NOW, active, fleet

LIMITS = ScaleLimits(replicas_min=1, replicas_max=8, depth_target=10, up_after_s=5, down_after_s=60)
limits = st.builds(
    lambda low, more, depth, tokens, up, down: ScaleLimits(
        replicas_min=low,
        replicas_max=low + more,
        depth_target=depth,
        tokens_per_s=tokens,
        up_after_s=up,
        down_after_s=down,
    ),
    *(st.integers(1, 20), st.integers(0, 50), st.integers(1, 20), st.sampled_from([0, 100]), st.integers(0, 10)),
    st.integers(0, 60),
)
samples = st.builds(
    lambda depth, tokens, offered: Sample(depth=depth, tokens_per_s=tokens, offered=offered),
    *(st.integers(0, 2000), st.integers(0, 20_000), st.integers(0, 80)),
)


def sample(depth, tokens=0, offered=100):
    return Sample(depth=depth, tokens_per_s=tokens, offered=offered)


def run(scale, depths, terms=LIMITS):
    """One sample a second; the number wanted after each."""
    wanted = []
    for second, depth in enumerate(depths):
        scale = step(scale, sample(depth), terms, now=NOW + timedelta(seconds=second))
        wanted.append(scale.wanted)
    return wanted


def test_a_peak_shorter_than_the_patience_changes_nothing() -> None:
    assert run(Scale(wanted=1), [80] * 5 + [0] + [80] * 5) == [1] * 11


def test_lasting_work_at_most_doubles_the_replicas_at_once() -> None:
    assert run(Scale(wanted=1), [80] * 18) == [1] * 5 + [2] * 6 + [4] * 6 + [8]


def test_replicas_go_one_by_one_and_only_with_room_to_spare() -> None:
    assert run(Scale(wanted=4), [25] * 200)[-1] == 4, "25 of 30 is more than 70 % of three"
    assert run(Scale(wanted=4), [20] * 121) == [4] * 60 + [3] * 61
    assert run(Scale(wanted=4), [0] * 181) == [4] * 60 + [3] * 60 + [2] * 60 + [1]


def test_throughput_counts_like_depth() -> None:
    terms = replace(LIMITS, tokens_per_s=100, up_after_s=0)
    assert step(Scale(wanted=3), sample(0, tokens=501), terms, now=NOW).wanted == 6


@pytest.mark.parametrize(
    ("tokens", "count"),
    [(0, 1), (100, 1), (101, 2), (501, 6), (9000, 8)],
    ids=["idle", "one-is-enough", "two", "six", "the-operators-limit"],
)
def test_what_the_work_needs_is_said_even_when_the_fleet_offers_less(tokens, count) -> None:
    assert needed(sample(0, tokens=tokens, offered=2), replace(LIMITS, tokens_per_s=100)) == count


@given(scale=st.integers(0, 100), terms=limits, seen=st.lists(samples, min_size=1, max_size=60))
def test_what_is_wanted_stays_within_limits_and_fleet(scale, terms, seen) -> None:
    now, state = NOW, Scale(wanted=scale)
    for one in seen:
        now += timedelta(seconds=1)
        state = step(state, one, terms, now=now)
        ceiling = min(terms.replicas_max, one.offered)
        assert min(terms.replicas_min, ceiling) <= state.wanted <= ceiling


@given(scale=st.integers(0, 100), terms=limits, seen=samples)
def test_steady_work_never_moves_replicas_back_and_forth(scale, terms, seen) -> None:
    now, state, moves = NOW, Scale(wanted=scale), []
    state = step(state, seen, terms, now=now)
    for _ in range(100):
        now += timedelta(seconds=61)
        after = step(state, seen, terms, now=now)
        if after.wanted != state.wanted:
            moves.append(after.wanted > state.wanted)
        state = after
    assert len(set(moves)) <= 1


@given(scale=st.integers(1, 50), terms=limits, low=samples, more=st.integers(0, 500))
def test_more_work_never_wants_fewer_replicas(scale, terms, low, more) -> None:
    high = replace(low, depth=low.depth + more)
    fewer, greater = (
        step(Scale(wanted=scale, above_since=NOW, below_since=NOW), one, terms, now=NOW + timedelta(hours=1))
        for one in (low, high)
    )
    assert fewer.wanted <= greater.wanted


def test_one_lying_host_counts_for_a_few_replicas_only() -> None:
    load = Load(ready=True, models=frozenset({MODEL.root}), running=1 << 60, output_tokens=1 << 60)
    liar, honest = active("a", load=load), active("b", load=replace(load, running=3))
    seen = sample_of({MODEL.root}, fleet(liar, honest), {}, LIMITS, offered=2)
    assert seen.depth == CLAIM_MAX * LIMITS.depth_target + 3


def test_a_host_of_several_models_counts_its_share() -> None:
    other = b"\x33" * 32
    host = active("a", load=Load(ready=True, models=frozenset({MODEL.root, other}), running=4, waiting=3))
    assert sample_of({MODEL.root}, fleet(host), {}, LIMITS, offered=1).depth == 4
    assert sample_of({b"\x44" * 32}, fleet(host), {}, LIMITS, offered=1).depth == 0


def test_rates_are_tokens_a_second_and_a_restarted_counter_is_none() -> None:
    hosts = [active(name, load=Load(ready=True, output_tokens=100)) for name in "ab"]
    before = fleet(*hosts)
    later = [active("a", load=Load(ready=True, output_tokens=150)), active("b", load=Load(ready=True))]
    after = replace(fleet(*later, active("c")), at=NOW + timedelta(seconds=5))
    assert token_rates(before, after) == {hosts[0].host_id: 10, hosts[1].host_id: 0}
    assert token_rates(after, before) == {}


@pytest.mark.parametrize("values", [{"replicas_min": 0}, {"replicas_min": 3, "replicas_max": 2}, {"depth_target": 0}])
def test_impossible_limits_are_refused(values) -> None:
    with pytest.raises(ValueError, match=r"must|replicas"):
        ScaleLimits(**values)
