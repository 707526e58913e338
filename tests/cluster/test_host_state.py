import pickle
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet import ENDED, HISTORY_MAX, ROUTED, HostState, Standing, Window
from cluster.host_state import (
    FLAPS_MAX,
    GONE_AFTER,
    LOADING_MISSES_MAX,
    MISSES_MAX,
    Action,
    Admitted,
    Ban,
    Bound,
    HealthMissed,
    HealthSeen,
    Planned,
    Quarantine,
    Rated,
    Refused,
    Released,
    Tick,
    joining,
    sole_models,
    step,
)
from cluster.model import HostHints, Load
from tests.cluster.fleets import MODEL, NOW, active, capability, fleet

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
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


def test_a_host_whose_evidence_ran_out_loses_its_route_and_comes_back_by_fresh_evidence() -> None:
    record, actions = step(active(), Tick(at=NOW + 600 * SECOND))
    assert (record.state, actions) == (HostState.EXPIRED, (Action.CLOSE_ROUTE,))
    assert "expired" in record.reason
    record, actions = step(record, HealthSeen(load=Load(), at=NOW + 601 * SECOND))
    assert actions == (Action.CHALLENGE,)
    newer = capability(verified_at=NOW + 601 * SECOND, not_after=NOW + 1200 * SECOND)
    assert step(record, Admitted(capability=newer, at=NOW + 601 * SECOND))[1] == (Action.OPEN_ROUTE,)


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


def test_a_host_that_comes_and_goes_three_times_in_ten_minutes_is_quarantined_for_five() -> None:
    record, now = active(), NOW
    for number in range(3):
        for _ in range(3):
            record, actions = step(record, HealthMissed(reason="no answer", at=now))
        now += 10 * SECOND
        if number < 2:
            assert record.state is HostState.SUSPENDED
            record, _ = step(record, Admitted(capability=capability(), at=now))
            record, _ = step(record, HealthSeen(load=Load(ready=True), at=now))
    assert (record.state, actions) == (HostState.QUARANTINED, (Action.CLOSE_ROUTE,))
    record, actions = step(record, Admitted(capability=capability(), at=now))
    assert (record.state, actions) == (HostState.QUARANTINED, ()), "evidence alone must not end a quarantine"
    record, actions = step(record, Tick(at=record.held_until))
    assert (record.state, actions) == (HostState.SUSPENDED, (Action.CHALLENGE,))


@pytest.mark.parametrize(
    ("load", "patience"),
    [
        pytest.param(Load(ready=True, loading=True), LOADING_MISSES_MAX, id="it-loads-another-model"),
        pytest.param(Load(loading=True), LOADING_MISSES_MAX, id="it-loads-its-first-model"),
        pytest.param(Load(), MISSES_MAX, id="it-has-no-model"),
    ],
)
def test_a_host_that_loads_a_model_or_has_none_is_suspended_late_and_never_for_flapping(load, patience) -> None:
    record = active()
    for _ in range(2 * FLAPS_MAX):
        record, _ = step(record, HealthSeen(load=load, at=NOW))
        record, _ = misses(record, patience - 1)
        assert record.state is HostState.ACTIVE
        record, _ = misses(record, 1)
        assert record.state is HostState.SUSPENDED
        record, _ = step(record, Admitted(capability=capability(), at=NOW))


def test_a_release_from_quarantine_does_not_count_as_flapping() -> None:
    record = active()
    for _ in range(2 * FLAPS_MAX):
        record, _ = step(record, Quarantine(reason="seen twice", at=NOW))
        record, _ = step(record, Released(reason="looked at it", at=NOW))
        record, _ = step(record, Admitted(capability=capability(), at=NOW))
    record, _ = step(record, HealthSeen(load=Load(ready=True), at=NOW))
    record, _ = misses(record, MISSES_MAX)
    assert record.state is HostState.SUSPENDED


def test_a_quarantine_without_an_end_waits_for_the_operator() -> None:
    record, actions = step(active(), Quarantine(reason="seen twice", at=NOW))
    assert actions == (Action.CLOSE_ROUTE,)
    record, _ = step(record, Tick(at=NOW + timedelta(days=30)))
    assert record.state is HostState.QUARANTINED
    record, actions = step(record, Released(reason="looked at it", at=NOW + SECOND))
    assert (record.state, actions) == (HostState.SUSPENDED, (Action.CHALLENGE,))


def test_a_banned_host_stays_out_whatever_it_proves() -> None:
    record, actions = step(active(), Ban(reason="complaints", at=NOW))
    assert (record.state, actions) == (HostState.BANNED, (Action.CLOSE_ROUTE,))
    for event in (Admitted(capability=capability(), at=NOW), HealthSeen(load=Load(), at=NOW), Tick(at=NOW + HOUR)):
        assert step(record, event) == (record, ())
    record, _ = step(record, Released(reason="appeal", at=NOW))
    assert record.state is HostState.GONE


def test_a_drained_host_keeps_its_route_and_takes_traffic_again_when_its_window_ends() -> None:
    record, actions = step(active(), Planned(window=Window(start=NOW, end=NOW + 60 * SECOND, reason="disk"), at=NOW))
    assert (record.state, record.reason, actions) == (HostState.DRAINING, "disk", ())
    assert record.load.models, "what it serves is still served"
    record, _ = step(record, Tick(at=NOW + 59 * SECOND))
    assert record.state is HostState.DRAINING
    record, _ = step(record, Tick(at=NOW + 60 * SECOND))
    assert (record.state, record.window) == (HostState.ACTIVE, None)


def test_an_announced_window_begins_on_time_and_can_be_called_off() -> None:
    window = Window(start=NOW + 60 * SECOND, end=None, reason="move")
    record, _ = step(active(), Planned(window=window, at=NOW))
    assert step(record, Tick(at=NOW + 59 * SECOND))[0].state is HostState.ACTIVE
    record, _ = step(record, Tick(at=NOW + 60 * SECOND))
    assert record.state is HostState.DRAINING
    record, _ = step(record, Planned(window=None, at=NOW + 61 * SECOND))
    assert record.state is HostState.ACTIVE


def test_a_window_waits_while_nobody_else_serves_a_model_unless_it_is_forced() -> None:
    window = Window(start=NOW + SECOND, end=None, reason="move")
    record, _ = step(active(), Planned(window=window, at=NOW))
    sole = frozenset({MODEL.root})
    waiting, _ = step(record, Tick(at=NOW + SECOND, sole=sole))
    assert (waiting.state, "no other host serves" in waiting.reason) == (HostState.ACTIVE, True)
    forced, _ = step(replace(record, window=replace(window, forced=True)), Tick(at=NOW + SECOND, sole=sole))
    assert forced.state is HostState.DRAINING
    assert step(waiting, Tick(at=NOW + 2 * SECOND))[0].state is HostState.DRAINING


def test_a_host_suspended_in_its_window_comes_back_draining() -> None:
    record, _ = step(active(), Planned(window=Window(start=NOW, end=None, reason="move"), at=NOW))
    for _ in range(3):
        record, actions = step(record, MISS)
    assert (record.state, actions) == (HostState.SUSPENDED, (Action.CLOSE_ROUTE,))
    record, actions = step(record, Admitted(capability=capability(), at=NOW))
    assert (record.state, actions) == (HostState.DRAINING, (Action.OPEN_ROUTE,))


def test_a_refusal_needs_no_other_host() -> None:
    record, _ = step(active(), REFUSED)
    assert record.state is HostState.REFUSED


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin before"):
        Window(start=NOW, end=NOW, reason="")


def test_a_host_is_the_last_one_of_a_model_unless_another_active_one_serves_it() -> None:
    a, b = active("a"), active("b")
    assert sole_models(a, [a]) == {MODEL.root}
    assert sole_models(a, [a, b]) == frozenset()
    suspended, _ = misses(b, 3)
    drained, _ = step(b, Planned(window=Window(start=NOW, end=None, reason=""), at=NOW))
    loading = replace(b, load=replace(b.load, ready=False))
    for other in (suspended, drained, loading):
        assert sole_models(a, [a, other]) == {MODEL.root}


EVENTS = st.sampled_from(
    [
        Admitted(capability=capability(), at=NOW),
        REFUSED,
        HealthSeen(load=Load(ready=True), at=NOW),
        MISS,
        Bound(node_id="n1"),
        Planned(window=Window(start=NOW, end=NOW + 60 * SECOND, reason="disk"), at=NOW),
        Planned(window=Window(start=NOW + 5 * SECOND, end=None, reason="move"), at=NOW),
        Planned(window=None, at=NOW),
        Quarantine(reason="twice", at=NOW),
        Quarantine(reason="twice", at=NOW, until=NOW + 60 * SECOND),
        Ban(reason="complaints", at=NOW),
        Released(reason="appeal", at=NOW),
        Rated(standing=Standing(weight=5, attempts=9, failures=9)),
        Tick(at=NOW + 10 * SECOND),
        Tick(at=NOW + 10 * SECOND, sole=frozenset({MODEL.root})),
        Tick(at=NOW + 700 * SECOND),
    ]
)


@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_the_machine_knows_what_to_do(events) -> None:
    """Closed under all events; a route is open exactly in two states; every change has its reason and time."""
    record, route = joining("127.0.0.1:1", HostHints(), now=NOW), False
    for event in events:
        before = record
        record, actions = step(record, event)
        for action in actions:
            if action is not Action.CHALLENGE:
                assert route == (action is Action.CLOSE_ROUTE)
                route = not route
        assert route == (record.state in ROUTED)
        assert record.state not in ROUTED or record.capability is not None
        assert len(record.history) <= HISTORY_MAX
        last = record.history[-1]
        assert (last.state, last.at) == (record.state, record.since)
        assert last.reason
        if before.state in ENDED and not isinstance(event, Ban | Released):
            assert record == before
        if before.state is HostState.QUARANTINED:
            assert record.state not in ROUTED


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
        pytest.param({"loading": 1}, id="loading-is-a-number"),
    ],
)
def test_a_malformed_health_answer_is_refused(change) -> None:
    health: dict = {"ready": True, "loading": False, "running": 0, "waiting": 0, "models": ["11" * 32]}
    health |= {"served": 0, "failed": 0, "abandoned": 0, "output_tokens": 0}
    assert Load.from_health(health).models == {b"\x11" * 32}
    with pytest.raises(ValueError, match="health"):
        Load.from_health(health | change)
