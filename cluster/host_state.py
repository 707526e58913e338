"""The life of a host as a pure state machine.

    joining --Admitted--> active <--window--> draining      both have a route at the relay
       |                    |                    |
       |                    +---- 3 misses: suspended ----+---- served, and third time in 10 min: quarantined
       |                    +---- evidence ran out: expired
       |                suspended, expired --Admitted--> active or draining; 60 s in silence: gone
       |                quarantined --its time is over, or Released--> suspended
       +-- Refused, from any state above --> refused
       +-- Ban, from any state --> banned --Released--> gone

Refused, banned and gone are ends: such a host begins anew by joining again, and its record's history goes with it.
Fresh evidence alone lets nobody out of quarantine or ban.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from attestation.verdict import Check
from cluster.capability import Capability
from cluster.fleet import (
    ENDED,
    HISTORY_MAX,
    ROUTED,
    WAITING,
    HostRecord,
    HostState,
    Standing,
    Transition,
    Window,
)
from cluster.model import HostHints, Load

MISSES_MAX = 3  # at one health check a second
LOADING_MISSES_MAX = 20  # loading a model keeps a machine busy, and such a host has nothing to lose but its models
RENEW_AFTER = 0.5  # share of a verdict's life after which it is renewed
RETRY_RENEW = timedelta(seconds=5)
GONE_AFTER = timedelta(seconds=60)
GONE_MISSES = 60  # of a quarantined host
FLAPS_MAX = 3  # suspensions of a host that served, within FLAP_WINDOW
FLAP_WINDOW = timedelta(minutes=10)
FLAP_QUARANTINE = timedelta(minutes=5)


class Action(StrEnum):
    """What the registry has to do after a step."""

    CHALLENGE = "challenge"  # ask for fresh evidence; feed back Admitted, Refused or HealthMissed
    OPEN_ROUTE = "open route"  # let the relay send requests to it
    CLOSE_ROUTE = "close route"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Fresh evidence held."""

    capability: Capability
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Fresh evidence did not hold."""

    error: str
    reason: str
    checks: tuple[Check, ...]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSeen:
    """The enclave answered, under its own host id."""

    load: Load
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthMissed:
    """The enclave did not answer, or another one did."""

    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A Ray node proved to run beside the enclave, or (None) left."""

    node_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Maintenance was announced, or (None) called off. Whoever sends it has checked `sole_models`."""

    window: Window | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Something about it is wrong that its own evidence does not show."""

    reason: str
    at: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    """The operator does not want it."""

    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The operator lifts a quarantine or a ban."""

    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """Its reputation was measured anew."""

    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed."""

    at: datetime
    sole: frozenset[bytes] = frozenset()  # models that nobody else serves: its maintenance has to wait for another host


Event = Admitted | Refused | HealthSeen | HealthMissed | Bound | Planned | Quarantine | Ban | Released | Rated | Tick
Step = tuple[HostRecord, tuple[Action, ...]]


def joining(address: str, hints: HostHints, *, now: datetime, history: tuple[Transition, ...] = ()) -> HostRecord:
    """A host that asked to join and has proved nothing; `history` is that of the record it continues."""
    record = HostRecord(address=address, hints=hints, state=HostState.JOINING, reason="", since=now, history=history)
    return _enter(record, HostState.JOINING, "waiting for its evidence", now)


def step(record: HostRecord, event: Event) -> Step:
    """The record after `event`, and what has to be done because of it."""
    after, actions = _after(record, event)
    was, is_ = record.state in ROUTED, after.state in ROUTED
    if was != is_:
        actions = (*actions, Action.OPEN_ROUTE if is_ else Action.CLOSE_ROUTE)
    return after, actions


def gone(record: HostRecord, reason: str, now: datetime) -> HostRecord:
    """The record of a host that nobody will hear of again."""
    return _end(record, HostState.GONE, reason, now)


def sole_models(host: HostRecord, others: Iterable[HostRecord]) -> frozenset[bytes]:
    """The models that this host serves and no other host that takes new work does."""
    if not host.load.models:
        return frozenset()
    elsewhere: set[bytes] = set()
    for other in others:
        if other.state is HostState.ACTIVE and other.load.ready and other.host_id != host.host_id:
            elsewhere |= other.load.models
    return host.load.models - elsewhere


def _after(record: HostRecord, event: Event) -> Step:  # noqa: C901, PLR0912  one case for each kind of event
    after: HostRecord = record
    actions: tuple[Action, ...] = ()
    match event:
        case Ban() if record.state is not HostState.BANNED:
            after = _end(record, HostState.BANNED, event.reason, event.at)
        case Released() if record.state is HostState.BANNED:
            after = _end(record, HostState.GONE, f"{event.reason}: it may join again", event.at)
        case _ if record.state in ENDED:
            pass
        case Admitted():
            after = _admitted(record, event)
        case Refused():
            after = _end(record, HostState.REFUSED, event.reason, event.at)
            after = replace(after, error=event.error, checks=event.checks)
        case HealthSeen():
            after = replace(record, load=event.load, misses=0)
            if record.state in WAITING:
                after, actions = _challenge(after, event.at)
        case HealthMissed():
            after = _health_missed(record, event)
        case Bound():
            after = replace(record, node_id=event.node_id)
        case Planned():
            after = _planned(record, event)
        case Quarantine():
            if record.state is not HostState.QUARANTINED:
                after = _leave(record, HostState.QUARANTINED, event.reason, event.at)
            after = replace(after, held_until=event.until)
        case Released():
            after, actions = _release(record, event.reason, event.at)
        case Rated():
            after = replace(record, standing=event.standing)
        case Tick():
            after, actions = _tick(record, event)
    return after, actions


def _admitted(record: HostRecord, event: Admitted) -> HostRecord:
    if record.host_id not in {None, event.capability.host_id}:
        raise ValueError("another enclave instance needs a record of its own")
    after = replace(record, capability=event.capability, misses=0, challenged_at=None, error="", checks=())
    if record.state in ROUTED or record.state is HostState.QUARANTINED:
        return after
    if record.window is not None and record.window.covers(event.at):
        return _enter(after, HostState.DRAINING, record.window.reason, event.at)
    return _enter(after, HostState.ACTIVE, "its evidence holds", event.at)


def _health_missed(record: HostRecord, event: HealthMissed) -> HostRecord:
    after = replace(record, misses=record.misses + 1)
    load = record.load
    if record.state in ROUTED and after.misses >= (LOADING_MISSES_MAX if load.loading else MISSES_MAX):
        reason = f"{after.misses} health checks missed: {event.reason}"
        if load.loading or not load.ready:  # it was not silent in the middle of its work
            return _leave(after, HostState.SUSPENDED, reason, event.at)
        recent = [past for past in record.history if past.flap and event.at - past.at < FLAP_WINDOW]
        if len(recent) + 1 >= FLAPS_MAX:
            after = _leave(after, HostState.QUARANTINED, f"it came and went {FLAPS_MAX} times; {reason}", event.at)
            return replace(after, held_until=event.at + FLAP_QUARANTINE)
        return _leave(after, HostState.SUSPENDED, reason, event.at, flap=True)
    if record.state is HostState.QUARANTINED and after.misses >= GONE_MISSES:
        return _end(after, HostState.GONE, f"{record.reason}; silent since", event.at)
    return after


def _planned(record: HostRecord, event: Planned) -> HostRecord:
    after = replace(record, window=event.window)
    covered = event.window is not None and event.window.covers(event.at)
    if record.state is HostState.ACTIVE and covered and event.window is not None:
        return _enter(after, HostState.DRAINING, event.window.reason, event.at)
    if record.state is HostState.DRAINING and not covered:
        return _enter(after, HostState.ACTIVE, "its maintenance is over", event.at)
    return after


def _release(record: HostRecord, reason: str, at: datetime) -> Step:
    if record.state is not HostState.QUARANTINED:
        return record, ()
    after = replace(_leave(record, HostState.SUSPENDED, reason, at), held_until=None, misses=0)
    return _challenge(after, at)


def _tick(record: HostRecord, event: Tick) -> Step:
    now = event.at
    if record.state in WAITING and now - record.since >= GONE_AFTER:
        return _end(record, HostState.GONE, f"{record.reason}; gave up", now), ()
    if record.state is HostState.QUARANTINED and record.held_until is not None and now >= record.held_until:
        return _release(record, "its quarantine is over", now)
    if record.state not in ROUTED or record.capability is None:
        return record, ()
    capability = record.capability
    if not capability.valid_at(now):
        return _leave(
            record, HostState.EXPIRED, f"its evidence expired at {capability.not_after:%H:%M:%S} UTC", now
        ), ()
    record = _maintained(record, event)
    renew_at = capability.verified_at + (capability.not_after - capability.verified_at) * RENEW_AFTER
    return _challenge(record, now) if now >= renew_at else (record, ())


def _maintained(record: HostRecord, event: Tick) -> HostRecord:
    """Begin or end the maintenance that was announced; it waits while nobody else serves a model of this host."""
    window, now = record.window, event.at
    if window is not None and window.over(now):
        record = replace(record, window=None)
        if record.state is HostState.DRAINING:
            return _enter(record, HostState.ACTIVE, "its maintenance is over", now)
        return record
    if record.state is not HostState.ACTIVE or window is None or not window.covers(now):
        return record
    if event.sole and not window.forced:
        names = ", ".join(sorted(root.hex()[:16] for root in event.sole))
        return replace(record, reason=f"maintenance waits: no other host serves {names}")
    return _enter(record, HostState.DRAINING, window.reason, now)


def _leave(record: HostRecord, state: HostState, reason: str, now: datetime, *, flap: bool = False) -> HostRecord:
    """Out of traffic, with a way back."""
    return _enter(replace(record, load=Load(), challenged_at=None), state, reason, now, flap=flap)


def _end(record: HostRecord, state: HostState, reason: str, now: datetime) -> HostRecord:
    """Out for good, as far as this record goes."""
    after = replace(record, node_id=None, load=Load(), challenged_at=None, held_until=None)
    return _enter(after, state, reason, now)


def _enter(record: HostRecord, state: HostState, reason: str, now: datetime, *, flap: bool = False) -> HostRecord:
    past = (*record.history, Transition(state=state, reason=reason, at=now, flap=flap))[-HISTORY_MAX:]
    return replace(record, state=state, reason=reason, since=now, history=past)


def _challenge(record: HostRecord, now: datetime) -> Step:
    if record.challenged_at is not None and now - record.challenged_at < RETRY_RENEW:
        return record, ()
    return replace(record, challenged_at=now), (Action.CHALLENGE,)
