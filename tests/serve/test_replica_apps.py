from dataclasses import replace
from datetime import timedelta

from cluster.fleet import Window
from cluster.host_state import Planned, step
from cluster.model import Load
from cluster.placement import Replica
from serve_apps.replica_apps import Pinned, plan_changes
from tests.cluster.fleets import MODEL, NOW, active, fleet

MANAGED = {MODEL.root: 60}
LOADED, COLD = Load(ready=True, models=frozenset({MODEL.root})), Load()
NODES = {"a": "aa" * 28, "b": "bb" * 28}


def host(name, load=LOADED):
    return replace(active(name, load=load), node_id=NODES[name])


def drained(record, since=NOW):
    record, _ = step(record, Planned(window=Window(start=since, end=None, reason="disk"), at=since))
    return record


def pinned(name):
    return Pinned(model=MODEL.root, host_id=active(name).host_id, node_id=NODES[name])


def plan(hosts, replicas, apps, now=NOW):
    there = [Replica(model=MODEL.root, host_id=active(name).host_id, gpus=1, since=NOW) for name in replicas]
    return plan_changes(there, MANAGED, fleet(*hosts), apps, now=now)


def test_each_replica_is_pinned_to_the_node_of_its_host() -> None:
    changes = plan([host("a", COLD), host("b", COLD)], "a", ["gateway"])
    assert (changes.deploy, changes.delete, changes.unload) == ((pinned("a"),), (), ())


def test_what_is_there_stays_untouched() -> None:
    changes = plan([host("a"), host("b")], "ab", [pinned("a").app, pinned("b").app, "gateway"])
    assert (changes.deploy, changes.delete, changes.unload) == ((), (), ())


def test_a_model_is_unloaded_only_after_serve_let_go_of_its_replica() -> None:
    hosts = [host("a"), host("b")]
    first = plan(hosts, "a", [pinned("a").app, pinned("b").app])
    assert (first.delete, first.unload) == ((pinned("b").app,), ())
    then = plan(hosts, "a", [pinned("a").app])
    assert (then.delete, then.unload) == ((), ((MODEL.root, pinned("b").host_id),))


def test_a_host_that_came_back_serves_until_the_one_that_replaces_it_does() -> None:
    loading, other = [host("a"), host("b", COLD)], b"\x33" * 32
    assert plan(loading, "b", [pinned("b").app]).unload == ()
    assert plan([host("a"), host("b")], "b", [pinned("b").app]).unload == ((MODEL.root, pinned("a").host_id),)
    needed = [Replica(model=other, host_id=pinned("a").host_id, gpus=1, since=NOW)]
    there = [Replica(model=MODEL.root, host_id=pinned("b").host_id, gpus=1, since=NOW), *needed]
    changes = plan_changes(there, MANAGED | {other: 60}, fleet(*loading), [pinned("b").app], now=NOW)
    assert changes.unload == ((MODEL.root, pinned("a").host_id),)


def test_a_draining_host_keeps_its_replica_while_old_leases_last() -> None:
    hosts, apps = [host("a"), drained(host("b"))], [pinned("a").app, pinned("b").app]
    kept = plan(hosts, "a", apps, now=NOW + timedelta(seconds=59))
    assert (kept.delete, kept.unload) == ((), ())
    assert plan(hosts, "a", apps, now=NOW + timedelta(seconds=60)).delete == (pinned("b").app,)


def test_a_host_that_came_back_on_another_node_gets_another_application() -> None:
    moved = replace(host("a"), node_id="cc" * 28)
    changes = plan([moved], "a", [pinned("a").app])
    assert changes.delete == (pinned("a").app,)
    assert [one.node_id for one in changes.deploy] == ["cc" * 28]


def test_the_application_of_a_host_that_left_goes_and_an_unbound_host_waits() -> None:
    unbound = replace(active("a", load=COLD), node_id=None)
    changes = plan([unbound], "ab", [pinned("b").app])
    assert (changes.delete, changes.deploy, changes.unload) == ((pinned("b").app,), (), ())


def test_models_that_nobody_manages_here_are_left_alone() -> None:
    other = Load(ready=True, models=frozenset({b"\x33" * 32}))
    assert plan([host("a", other)], "", []).unload == ()
