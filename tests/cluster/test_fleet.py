import pickle
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet import (
    GONE_AFTER,
    Action,
    Admitted,
    Bound,
    HealthMissed,
    HealthSeen,
    HostState,
    Refused,
    Tick,
    joining,
    step,
)
from cluster.model import HostHints, Load
from tests.cluster.fleets import NOW, active, capability, fleet

SECOND = timedelta(seconds=1)
MISS = HealthMissed(reason="no answer", at=NOW)
REFUSED = Refused(error="DebugGuestError", reason="debug guest", checks=(), at=NOW)


def misses(record, count):
    actions = ()
    for number in range(count):
        record, actions = step(record, HealthMissed(reason="no answer", at=NOW + SECOND * number))
    return record, actions


def test_a_host_that_proves_itself_becomes_active_and_gets_a_route() -> None:
    record, actions = step(joining("127.0.0.1:1", HostHints(), now=NOW), Admitted(capability=capability(), at=NOW))
    assert (record.state, actions) == (HostState.ACTIVE, (Action.OPEN_ROUTE,))


def test_a_refused_host_keeps_reason_and_checks_and_gets_no_route() -> None:
    record, actions = step(joining("127.0.0.1:1", HostHints(), now=NOW), REFUSED)
    assert (record.state, record.reason, record.error, actions) == (
        HostState.REFUSED,
        "debug guest",
        "DebugGuestError",
        (),
    )


def test_hints_alone_never_make_a_host_active() -> None:
    record = joining("127.0.0.1:1", HostHints(name="h100", labels=(("tee", "tdx"), ("attested", "1"))), now=NOW)
    for event in (HealthSeen(load=Load(ready=True), at=NOW), Bound(node_id="ab"), Tick(at=NOW), MISS):
        record, _ = step(record, event)
    assert record.state is HostState.JOINING


def test_two_missed_health_checks_are_forgiven_and_the_third_suspends() -> None:
    record, actions = misses(active(), 2)
    assert (record.state, actions) == (HostState.ACTIVE, ())
    record, actions = misses(active(), 3)
    assert (record.state, actions) == (HostState.SUSPENDED, (Action.CLOSE_ROUTE,))
    assert "3 health checks missed" in record.reason


def test_an_answer_in_between_clears_the_misses() -> None:
    record, _ = misses(active(), 2)
    record, _ = step(record, HealthSeen(load=Load(), at=NOW))
    record, _ = misses(record, 2)
    assert record.state is HostState.ACTIVE


def test_a_suspended_host_that_answers_is_challenged_and_not_trusted_again_by_itself() -> None:
    record, _ = misses(active(), 3)
    record, actions = step(record, HealthSeen(load=Load(ready=True), at=NOW + SECOND))
    assert (record.state, actions) == (HostState.SUSPENDED, (Action.CHALLENGE,))
    record, actions = step(record, Admitted(capability=capability(), at=NOW + 2 * SECOND))
    assert (record.state, actions) == (HostState.ACTIVE, (Action.OPEN_ROUTE,))


def test_a_suspended_host_is_not_challenged_more_often_than_every_five_seconds() -> None:
    record, _ = misses(active(), 3)
    record, first = step(record, HealthSeen(load=Load(), at=NOW))
    record, second = step(record, HealthSeen(load=Load(), at=NOW + SECOND))
    _, third = step(record, HealthSeen(load=Load(), at=NOW + 6 * SECOND))
    assert (first, second, third) == ((Action.CHALLENGE,), (), (Action.CHALLENGE,))


def test_a_host_silent_for_a_minute_after_suspension_is_gone() -> None:
    record, _ = misses(active(), 3)
    record, _ = step(record, Tick(at=record.since + GONE_AFTER))
    assert record.state is HostState.GONE


def test_evidence_is_renewed_before_it_expires() -> None:
    record = active()
    assert step(record, Tick(at=NOW + 299 * SECOND))[1] == ()
    assert step(record, Tick(at=NOW + 300 * SECOND))[1] == (Action.CHALLENGE,)


def test_a_host_whose_evidence_expired_is_suspended() -> None:
    record, actions = step(active(), Tick(at=NOW + 600 * SECOND))
    assert (record.state, actions) == (HostState.SUSPENDED, (Action.CLOSE_ROUTE,))
    assert "expired" in record.reason


def test_renewal_replaces_the_capability_without_touching_the_route() -> None:
    newer = capability(not_after=NOW + timedelta(hours=1))
    record, actions = step(active(), Admitted(capability=newer, at=NOW + 300 * SECOND))
    assert (record.capability, actions) == (newer, ())


def test_an_active_host_that_fails_a_renewal_loses_its_route() -> None:
    record, actions = step(replace(active(), node_id="n1"), REFUSED)
    assert (record.state, actions, record.node_id) == (HostState.REFUSED, (Action.CLOSE_ROUTE,), None)


def test_another_enclave_instance_cannot_take_over_a_record() -> None:
    with pytest.raises(ValueError, match="record of its own"):
        step(active("a"), Admitted(capability=capability("b"), at=NOW))


EVENTS = st.sampled_from(
    [
        Admitted(capability=capability(), at=NOW),
        REFUSED,
        HealthSeen(load=Load(ready=True), at=NOW),
        MISS,
        Bound(node_id="n1"),
        Tick(at=NOW + 10 * SECOND),
        Tick(at=NOW + 700 * SECOND),
    ]
)


@given(st.lists(EVENTS, max_size=30))
def test_a_route_is_open_exactly_while_the_host_is_active(events) -> None:
    record, route = joining("127.0.0.1:1", HostHints(), now=NOW), False
    for event in events:
        record, actions = step(record, event)
        if Action.OPEN_ROUTE in actions:
            assert not route
            route = True
        if Action.CLOSE_ROUTE in actions:
            assert route
            route = False
        assert route == (record.state is HostState.ACTIVE)
        assert record.state is not HostState.ACTIVE or record.capability is not None


def test_a_snapshot_survives_pickling() -> None:
    snapshot = fleet(active("a"), active("b"))
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"running": -1}, id="negative-count"),
        pytest.param({"running": True}, id="boolean-count"),
        pytest.param({"running": 10**30}, id="absurd-count"),
        pytest.param({"models": ["zz"]}, id="model-not-hex"),
        pytest.param({"models": ["ab"]}, id="model-too-short"),
        pytest.param({"models": None}, id="models-missing"),
        pytest.param({"ready": "yes"}, id="ready-is-text"),
    ],
)
def test_a_malformed_health_answer_is_refused(change) -> None:
    health = {"ready": True, "running": 0, "waiting": 0, "served": 0, "output_tokens": 0, "models": ["11" * 32]}
    assert Load.from_health(health).models == {b"\x11" * 32}
    with pytest.raises(ValueError, match="health"):
        Load.from_health(health | change)
