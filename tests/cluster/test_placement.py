from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet import Standing, Window
from cluster.host_state import Planned, Refused, step
from cluster.model import JobRequirement, Load
from cluster.placement import RESIDENCE_MIN_S, ModelDemand, Replica, plan_models, replicas_seen
from cluster.rules import first_loss
from cluster.slots import Claim
from tests.cluster.fleets import MODEL, NOW, active, capability, fleet

GPU = capability().gpus[0]
OTHER = b"\x33" * 32
BOTH = frozenset({MODEL.root, OTHER})
OWNER = b"\0" + b"\x77" * 32
LATER = NOW + timedelta(seconds=RESIDENCE_MIN_S)
COLD = Load()


def server(name, gpus=1, **changes):
    values = {"models": BOTH, "load": COLD, "not_after": NOW + timedelta(days=1)} | changes
    return active(name, gpus=(GPU,) * gpus, **values)


def demand(replicas, gpus=1, model=MODEL.root, **changes):
    return ModelDemand(requirement=JobRequirement(model=model, gpus_min=gpus, **changes), replicas=replicas)


def on(snapshot, replicas):
    names = {host.host_id: host.hints.name for host in snapshot.hosts}
    return sorted(names[replica.host_id] for replica in replicas)


def replica(host, gpus=1, model=MODEL.root, since=NOW):
    return Replica(model=model, host_id=host.host_id, gpus=gpus, since=since)


def drained(host):
    host, _ = step(host, Planned(window=Window(start=NOW, end=None, reason="disk"), at=NOW))
    return host


def test_a_replica_of_several_gpus_goes_where_one_host_has_them() -> None:
    snapshot = fleet(server("one"), server("four", 4), server("eight", 8))
    assert on(snapshot, plan_models([demand(1, 4)], [], snapshot, now=NOW).load) == ["four"]


def test_large_replicas_are_placed_before_small_ones_take_their_room() -> None:
    snapshot = fleet(server("a", 4), server("b", 2))
    plan = plan_models([demand(1, 2), demand(1, 4, model=OTHER)], [], snapshot, now=NOW)
    assert {(one.model, one.gpus) for one in plan.load} == {(MODEL.root, 2), (OTHER, 4)}
    assert plan.missing == ()


def test_replicas_spread_over_owners() -> None:
    hosts = (server("a", payee=OWNER), server("b", payee=OWNER), server("c", 8))
    assert "c" in on(fleet(*hosts), plan_models([demand(2)], [], fleet(*hosts), now=NOW).load)


def test_a_warm_host_is_preferred_to_a_cold_one_that_would_fit_better() -> None:
    snapshot = fleet(server("cold"), server("warm", 8, load=Load(ready=True, models=frozenset({MODEL.root}))))
    assert on(snapshot, plan_models([demand(1)], [], snapshot, now=NOW).load) == ["warm"]


def test_a_host_that_fails_much_comes_last() -> None:
    snapshot = fleet(replace(server("bad"), standing=Standing(weight=1000)), server("good", 8))
    assert on(snapshot, plan_models([demand(1)], [], snapshot, now=NOW).load) == ["good"]


def test_a_plan_that_is_asked_for_again_changes_nothing() -> None:
    snapshot = fleet(*(server(name, 2) for name in "abcd"))
    demands = [demand(3), demand(2, 2, model=OTHER)]
    first = plan_models(demands, [], snapshot, now=NOW)
    again = plan_models(demands, first.replicas, snapshot, now=LATER)
    assert (again.replicas, again.load, again.unload) == (first.replicas, (), ())


def test_surplus_stays_warm_while_nobody_needs_its_room_and_is_taken_back() -> None:
    a, b = server("a"), server("b")
    snapshot = fleet(a, b)
    fewer = plan_models([demand(1)], [replica(a), replica(b)], snapshot, now=LATER)
    assert (len(fewer.replicas), fewer.unload) == (2, ())
    more = plan_models([demand(2)], fewer.replicas, snapshot, now=LATER)
    assert (more.replicas, more.load) == (fewer.replicas, ())


def test_surplus_goes_once_it_was_too_much_for_as_long_as_the_demand_says() -> None:
    a, b = server("a"), server("b")
    snapshot = fleet(a, b)
    little, much = replace(demand(1), spare_s=60), replace(demand(2), spare_s=60)
    placed = [replica(a), replace(replica(b), since=NOW + timedelta(seconds=1))]
    begun = plan_models([little], placed, snapshot, now=LATER)
    almost = plan_models([little], begun.replicas, snapshot, now=LATER + timedelta(seconds=59))
    assert (len(almost.replicas), almost.unload) == (2, ())
    over = plan_models([little], almost.replicas, snapshot, now=LATER + timedelta(seconds=60))
    assert (on(snapshot, over.replicas), on(snapshot, over.unload)) == (["a"], ["b"])  # the one that came last
    needed = plan_models([much], almost.replicas, snapshot, now=LATER + timedelta(seconds=60))
    again = plan_models([little], needed.replicas, snapshot, now=LATER + timedelta(seconds=61))
    assert (needed.unload, again.unload) == ((), ())  # the time begins anew


def test_surplus_makes_room_for_another_model_but_not_before_its_time() -> None:
    a, b = server("a"), server("b")
    demands = [demand(1), demand(1, model=OTHER)]
    early = plan_models(demands, [replica(a), replica(b)], fleet(a, b), now=NOW)
    assert (early.unload, early.load) == ((), ())
    ((model, count, losses),) = early.missing
    assert (model, count) == (OTHER, 1)
    assert all("nothing there may go yet" in loss.detail for loss in losses)
    late = plan_models(demands, [replica(a), replica(b)], fleet(a, b), now=LATER)
    assert (len(late.unload), [one.model for one in late.load], late.missing) == (1, [OTHER], ())


def test_a_refused_host_loses_its_replica_at_once() -> None:
    a, b = server("a"), server("b")
    refused, _ = step(a, Refused(error="E", reason="debug guest", checks=(), at=NOW))
    snapshot = fleet(refused, b)
    plan = plan_models([demand(1)], [replica(a)], snapshot, now=NOW)
    assert (plan.unload, on(snapshot, plan.load)) == ((replica(a),), ["b"])


def test_a_host_in_maintenance_serves_until_another_one_does() -> None:
    a, b = drained(server("a")), server("b")
    first = plan_models([demand(1)], [replica(a)], fleet(a, b), now=NOW)
    assert (first.leaving, first.unload, on(fleet(a, b), first.load)) == ((replica(a),), (), ["b"])
    loading = plan_models([demand(1)], first.replicas, fleet(a, b), now=NOW)
    assert (loading.leaving, loading.unload, loading.load) == ((replica(a),), (), ())
    serving = fleet(a, replace(b, load=Load(ready=True, models=frozenset({MODEL.root}))))
    done = plan_models([demand(1)], loading.replicas, serving, now=NOW)
    assert (done.unload, on(serving, done.replicas)) == ((replica(a),), ["b"])


def test_a_host_whose_maintenance_waits_for_another_one_is_replaced() -> None:
    """Else both would wait for each other."""
    window = Window(start=NOW, end=None, reason="disk")
    serving = Load(ready=True, models=frozenset({MODEL.root}))
    a, b = replace(server("a", load=serving), window=window), server("b")
    plan = plan_models([demand(1)], [replica(a)], fleet(a, b), now=NOW)
    assert (plan.leaving, on(fleet(a, b), plan.load)) == ((replica(a),), ["b"])


def test_gpus_that_jobs_have_are_not_given_to_replicas() -> None:
    a = server("a", 2)
    plan = plan_models([demand(1, 2)], [], fleet(a), now=NOW, jobs=[Claim(host_id=a.host_id, slots=1)])
    assert plan.load == ()
    assert plan.missing[0][2][0].detail.startswith("1 GPUs are free, 2 are needed")


def test_a_scheduler_that_begins_anew_takes_over_what_hosts_serve() -> None:
    serving = Load(ready=True, models=frozenset({MODEL.root}))
    snapshot = fleet(server("a", load=serving), server("b"))
    seen = replicas_seen([demand(1)], snapshot, now=NOW)
    assert on(snapshot, seen) == ["a"]
    assert plan_models([demand(1)], seen, snapshot, now=NOW).replicas == seen


def test_a_host_in_maintenance_without_a_replacement_goes_on() -> None:
    a = drained(server("a"))
    plan = plan_models([demand(1)], [replica(a)], fleet(a), now=NOW)
    assert (plan.leaving, plan.unload) == ((replica(a),), ())
    assert plan.missing[0][2][0].rule == "state"


def test_two_demands_for_one_model_are_refused() -> None:
    with pytest.raises(ValueError, match="one demand"):
        plan_models([demand(1), demand(2)], [], fleet(), now=NOW)


HOSTS = st.lists(st.sampled_from([1, 2, 4, 8]), max_size=6)
DEMANDS = st.tuples(st.integers(0, 4), st.sampled_from([1, 2, 4]), st.integers(0, 4), st.sampled_from([0, 1, 8]))


@given(HOSTS, st.lists(DEMANDS, min_size=1, max_size=5))
def test_however_demand_changes_no_gpu_is_given_twice_and_nobody_is_placed_who_loses_a_rule(gpus, changes) -> None:
    hosts = [server(f"h{number}", count) for number, count in enumerate(gpus)]
    snapshot, replicas, now = fleet(*hosts), (), NOW
    for first, first_gpus, second, second_gpus in changes:
        now += timedelta(seconds=400)
        demands = [demand(first, first_gpus), demand(second, second_gpus, model=OTHER)]
        plan = plan_models(demands, replicas, snapshot, now=now)
        used: Counter[bytes] = Counter()
        for one in plan.replicas:
            used[one.host_id] += one.gpus
        assert all(used[host.host_id] <= len(host.capability.gpus) for host in hosts)
        assert len({one.claim for one in plan.replicas}) == len(plan.replicas)
        assert set(plan.replicas) == (set(replicas) - set(plan.unload)) | set(plan.load)
        for one in plan.load:
            need = demands[one.model == OTHER].requirement
            assert first_loss(snapshot.host(one.host_id), need, now=now) is None
        for gone in plan.unload:
            changed = demands[gone.model == OTHER].requirement.gpus_min != gone.gpus
            assert changed or (now - gone.since).total_seconds() >= RESIDENCE_MIN_S
        for one, want in zip((MODEL.root, OTHER), demands, strict=True):
            lacking = sum(count for model, count, _ in plan.missing if model == one)
            assert sum(replica.model == one for replica in plan.replicas) + lacking >= want.replicas
        replicas = plan.replicas


def test_replicas_of_a_retired_model_go_at_once() -> None:
    hosts = [server("a"), server("b")]
    present = [replica(hosts[0]), replica(hosts[1], model=OTHER)]
    plan = plan_models([demand(1)], present, fleet(*hosts), now=NOW, retired=frozenset({OTHER}))
    assert (on(fleet(*hosts), plan.unload), on(fleet(*hosts), plan.replicas)) == (["b"], ["a"])


def test_hosts_that_a_ray_node_is_bound_to_come_first() -> None:
    snapshot = fleet(*(server(name) for name in "abc"), replace(server("bound"), node_id="n"))
    assert on(snapshot, plan_models([demand(1)], [], snapshot, now=NOW).load) == ["bound"]
