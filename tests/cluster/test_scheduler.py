from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.transcript import CcState
from attestation.verdict import TeeKind, Tier
from cluster.fleet import Standing, Window
from cluster.host_state import HealthMissed, step
from cluster.model import JobRequirement, Load
from cluster.rules import first_loss
from cluster.scheduler import place
from tests.cluster.fleets import MODEL, NOW, active, capability, fleet

BUSY = Load(ready=True, running=8, waiting=4, models=frozenset({MODEL.root}))
OWNER = b"\0" + b"\x77" * 32


GPU = capability().gpus[0]
MINUTE = timedelta(seconds=60)


def hinted(*labels, name="a", **changes):
    host = active(name, **changes)
    return replace(host, hints=replace(host.hints, labels=labels))


def leaving(name="a"):
    host = active(name)
    return replace(host, window=Window(start=NOW + MINUTE, end=None, reason="disk"))


def rated(name, weight, **changes):
    return replace(active(name, **changes), standing=Standing(weight=weight))


def names(decision, hosts):
    by_id = {host.host_id: host.hints.name for host in hosts}
    return [by_id[placement.host_id] for placement in decision.placements]


def need(**changes):
    return JobRequirement(model=MODEL.root, **changes)


ONLY_H100 = need(gpu_models=frozenset({"GH100"}))


@pytest.mark.parametrize(
    ("host", "requirement", "rule"),
    [
        pytest.param(active(tier=Tier.OPEN), need(), "tier", id="open-host-for-private-prompts"),
        pytest.param(active(tier=Tier.CONFIDENTIAL_CPU), need(), "tier", id="no-confidential-gpu"),
        pytest.param(active(), need(tees=frozenset({TeeKind.SEV_SNP})), "tee", id="another-tee"),
        pytest.param(active(), need(gpus_min=2), "gpus", id="too-few-gpus"),
        pytest.param(active(models=frozenset()), need(), "model", id="model-not-attested"),
        pytest.param(active(coefficient=1500), need(coefficient_max=1200), "price", id="too-dear"),
        pytest.param(active(load=Load(ready=True)), need(loaded=True), "loaded", id="model-not-loaded"),
        pytest.param(active(), need(tcb_statuses=frozenset({"SWHardeningNeeded"})), "tcb", id="another-firmware"),
        pytest.param(active(), need(gpu_models=frozenset({"GB100"})), "gpu model", id="another-gpu"),
        pytest.param(active(gpus=(GPU, replace(GPU, model="GA100"))), ONLY_H100, "gpu model", id="one-other-gpu"),
        pytest.param(active(gpus=(replace(GPU, cc=CcState.OFF),)), need(gpu_cc=True), "gpu cc", id="cc-off"),
        pytest.param(active(gpus=()), need(gpu_cc=True), "gpu cc", id="cc-without-a-gpu"),
        pytest.param(active(), need(declared_location="eu"), "location", id="says-nothing-about-its-place"),
        pytest.param(active(), need(declared_gpu_memory_gib=80), "gpu memory", id="says-nothing-about-memory"),
        pytest.param(hinted(("gpu-memory-gib", "9e9")), need(declared_gpu_memory_gib=80), "gpu memory", id="no-number"),
        pytest.param(active(load=BUSY), need(depth_max=11), "queue", id="too-many-before-it"),
        pytest.param(active(), need(owners_avoided=frozenset({active().owner})), "owner", id="owner-avoided"),
        pytest.param(leaving(), need(duration_s=60), "maintenance", id="maintenance-before-it-would-end"),
        pytest.param(active(verified_at=NOW - MINUTE), need(evidence_age_max_s=59), "evidence", id="old-evidence"),
        pytest.param(active(not_after=NOW), need(), "evidence", id="expired-evidence"),
        pytest.param(active(verified_at=NOW + timedelta(seconds=5)), need(), "evidence", id="verdict-of-the-future"),
    ],
)
def test_a_host_that_loses_a_rule_is_not_chosen_and_the_rule_is_named(host, requirement, rule) -> None:
    decision = place(requirement, fleet(host), now=NOW)
    assert decision.placements == ()
    assert [loss.rule for loss in decision.losses] == [rule]


def test_a_suspended_host_is_not_chosen() -> None:
    host = active()
    for _ in range(3):
        host, _ = step(host, HealthMissed(reason="no answer", at=NOW))
    decision = place(need(), fleet(host), now=NOW)
    assert decision.placements == ()
    assert decision.losses[0].rule == "state"


def test_labels_and_names_do_not_buy_a_placement() -> None:
    host = active(tier=Tier.OPEN)
    boast = replace(host, hints=replace(host.hints, labels=(("tee", "tdx"), ("gpu", "h100"), ("tier", "confidential"))))
    assert place(need(), fleet(boast), now=NOW).placements == ()


def test_a_stronger_host_may_do_weaker_work() -> None:
    assert place(need(tier=Tier.OPEN), fleet(active()), now=NOW).placements


def test_the_least_loaded_host_comes_first_then_the_cheapest() -> None:
    hosts = (active("busy", load=BUSY), active("dear", coefficient=1100), active("cheap"))
    assert names(place(need(hosts=3), fleet(*hosts), now=NOW), hosts) == ["cheap", "dear", "busy"]


def test_different_owners_are_preferred_to_the_same_owner_twice() -> None:
    hosts = (active("one", payee=OWNER), active("two", payee=OWNER), active("other", load=BUSY))
    chosen = names(place(need(hosts=2), fleet(*hosts), now=NOW), hosts)
    assert "other" in chosen


def test_one_owner_may_fill_up_when_nobody_else_is_there() -> None:
    hosts = (active("one", payee=OWNER), active("two", payee=OWNER))
    assert len(place(need(hosts=2), fleet(*hosts), now=NOW).placements) == 2


def test_decisions_from_one_snapshot_spread_over_equal_hosts() -> None:
    hosts = [active(name) for name in "abc"]
    first = {names(place(need(), fleet(*hosts), now=NOW, salt=bytes([n])), hosts)[0] for n in range(40)}
    assert first == {"a", "b", "c"}


def test_what_an_owner_declares_counts_only_where_it_was_asked_for() -> None:
    host = hinted(("location", "eu"), ("gpu-memory-gib", "141"))
    assert place(need(declared_location="eu", declared_gpu_memory_gib=141), fleet(host), now=NOW).placements
    assert place(need(location="us"), fleet(host), now=NOW).placements, "a preference must not exclude"


def test_a_preferred_location_orders() -> None:
    hosts = (hinted(("location", "eu"), name="near", load=BUSY), active("far"))
    assert names(place(need(location="eu", hosts=2), fleet(*hosts), now=NOW), hosts) == ["near", "far"]


def test_a_short_job_may_still_run_before_a_maintenance() -> None:
    assert place(need(duration_s=59), fleet(leaving()), now=NOW).placements


def test_an_owner_is_not_taken_twice_where_distinct_ones_are_wanted() -> None:
    hosts = (active("one", payee=OWNER), active("two", payee=OWNER), active("three"))
    decision = place(need(hosts=3, owners_distinct=True), fleet(*hosts), now=NOW)
    assert len(decision.placements) == 2
    assert [loss.rule for loss in decision.losses] == ["owner"]


def test_a_host_of_little_reputation_gets_its_share_of_first_places_even_when_it_is_idle() -> None:
    hosts = (active("good", load=BUSY), rated("bad", 1000))
    firsts = [names(place(need(), fleet(*hosts), now=NOW, salt=b"%d" % n), hosts)[0] for n in range(2000)]
    assert 0 < firsts.count("bad") < 20


def test_hosts_of_equally_little_reputation_are_used_all_the_same() -> None:
    hosts = (rated("a", 1), rated("b", 1))
    firsts = [names(place(need(), fleet(*hosts), now=NOW, salt=b"%d" % n), hosts)[0] for n in range(200)]
    assert 50 < firsts.count("a") < 150


BIG = tuple(rated(f"host {n}", 1_000_000 if n else 1000) for n in range(60))


def test_in_a_large_fleet_too_a_host_of_little_reputation_gets_little() -> None:
    firsts = [names(place(need(), fleet(*BIG), now=NOW, salt=b"%d" % n), BIG)[0] for n in range(1500)]
    assert firsts.count("host 0") < 5
    assert len(set(firsts)) == 60 - (firsts.count("host 0") == 0)


def test_the_only_host_that_fits_is_found_in_a_large_fleet() -> None:
    hosts = (*(active(f"busy {n}", load=BUSY) for n in range(400)), active("free"))
    assert names(place(need(depth_max=0), fleet(*hosts), now=NOW), hosts) == ["free"]


LOADS = st.builds(
    Load, ready=st.booleans(), running=st.integers(0, 3), models=st.sampled_from([{MODEL.root}, set()]).map(frozenset)
)
HOSTS = st.lists(
    st.builds(
        lambda name, weight, window, **changes: replace(
            active(name, **changes), standing=Standing(weight=weight), window=window
        ),
        st.uuids().map(str),
        st.integers(1, 1_000_000),
        st.sampled_from([None, Window(start=NOW + MINUTE, end=None, reason="disk")]),
        load=LOADS,
        coefficient=st.integers(900, 1100),
        tier=st.sampled_from(Tier),
        payee=st.sampled_from([OWNER, b"\0" + b"\x78" * 32]),
        not_after=st.sampled_from([NOW, NOW + MINUTE]),
    ),
    max_size=40,
)
NEEDS = st.builds(
    need,
    tier=st.sampled_from(Tier),
    hosts=st.integers(1, 5),
    loaded=st.booleans(),
    coefficient_max=st.integers(900, 1200),
    depth_max=st.none() | st.integers(0, 3),
    duration_s=st.sampled_from([0, 60]),
    owners_distinct=st.booleans(),
    owners_avoided=st.sampled_from([frozenset(), frozenset({OWNER})]),
)


@given(HOSTS, NEEDS, st.binary(max_size=4))
def test_nobody_who_loses_a_rule_is_placed_and_nobody_who_wins_all_is_forgotten(hosts, requirement, salt) -> None:
    snapshot = fleet(*hosts)
    decision = place(requirement, snapshot, now=NOW, salt=salt)
    chosen = [snapshot.host(placement.host_id) for placement in decision.placements]
    assert all(first_loss(host, requirement, now=NOW) is None for host in chosen)
    assert len({host.host_id for host in chosen}) == len(chosen) <= requirement.hosts
    fitting = [host for host in hosts if first_loss(host, requirement, now=NOW) is None]
    most = len({host.owner for host in fitting}) if requirement.owners_distinct else len(fitting)
    assert len(chosen) == min(requirement.hosts, most)
    shuffled = place(requirement, fleet(*reversed(hosts)), now=NOW, salt=salt)
    assert shuffled.placements == decision.placements, "the order of the hosts must not matter"


@given(st.integers(0, 6), st.integers(1, 4))
def test_every_host_is_either_chosen_or_explained(count, wanted) -> None:
    hosts = [active(str(n), coefficient=1000 + n, tier=list(Tier)[n % 3]) for n in range(count)]
    decision = place(need(hosts=wanted), fleet(*hosts), now=NOW)
    chosen = {placement.host_id for placement in decision.placements}
    explained = {loss.host_id for loss in decision.losses}
    assert chosen | explained == {host.host_id for host in hosts}
    assert not chosen & explained
    assert len(chosen) <= wanted
