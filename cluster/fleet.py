"""The life of a host as a pure state machine, and the picture of the whole fleet that everybody decides from.

    joining --Admitted--> active <--Admitted-- suspended --(60 s without an answer)--> gone
       |                    |  ^                  ^
       Refused              |  +--HealthSeen--    | 3 x HealthMissed, evidence expired
       v                    v                     |
    refused <--Refused-- (any state) -------------+

A suspended host comes back only by fresh evidence; a refused or gone one only by joining again.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from attestation.floors import NO_FLOORS, Floors
from attestation.verdict import Check
from cluster.capability import Capability
from cluster.model import HostHints, Load, ModelOffer

MISSES_MAX = 3  # at one health check a second
RENEW_AFTER = 0.5  # share of a verdict's life after which it is renewed
RETRY_RENEW = timedelta(seconds=5)
GONE_AFTER = timedelta(seconds=60)


class HostState(StrEnum):
    """Where a host is in its life."""

    JOINING = "joining"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REFUSED = "refused"
    GONE = "gone"


class Action(StrEnum):
    """What the registry has to do after a step."""

    CHALLENGE = "challenge"  # ask for fresh evidence; feed back Admitted, Refused or HealthMissed
    OPEN_ROUTE = "open route"  # let the relay send requests to it
    CLOSE_ROUTE = "close route"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """One host as the registry knows it."""

    address: str  # host:port of the enclave's HTTP front
    hints: HostHints
    state: HostState
    reason: str  # why it is in this state, for people
    since: datetime
    capability: Capability | None = None
    node_id: str | None = None  # Ray node that proved to be on the host
    load: Load = field(default_factory=Load)
    misses: int = 0
    challenged_at: datetime | None = None
    error: str = ""  # class name of the refusal
    checks: tuple[Check, ...] = ()  # of the refusal; an admitted host has them in its capability

    @property
    def host_id(self) -> bytes | None:
        """8-byte name of the enclave instance, once it has proved one."""
        return self.capability.host_id if self.capability else None

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return self.hints.name or (self.host_id.hex() if self.host_id else self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Fresh evidence held."""

    capability: Capability
    at: datetime
    marks: Floors = NO_FLOORS  # how new the vendor's lists behind it are


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
class Tick:
    """Time passed."""

    at: datetime


Event = Admitted | Refused | HealthSeen | HealthMissed | Bound | Tick
Step = tuple[HostRecord, tuple[Action, ...]]


def joining(address: str, hints: HostHints, *, now: datetime) -> HostRecord:
    """A host that asked to join and has proved nothing."""
    return HostRecord(
        address=address, hints=hints, state=HostState.JOINING, reason="waiting for its evidence", since=now
    )


def step(record: HostRecord, event: Event) -> Step:
    """The record after `event`, and what has to be done because of it."""
    match event:
        case Admitted():
            return _admitted(record, event)
        case Refused():
            return _refused(record, event)
        case HealthSeen():
            return _health_seen(record, event)
        case HealthMissed():
            return _health_missed(record, event)
        case Bound():
            return replace(record, node_id=event.node_id), ()
        case Tick():
            return _tick(record, event.at)


def _admitted(record: HostRecord, event: Admitted) -> Step:
    if record.host_id not in {None, event.capability.host_id}:
        raise ValueError("another enclave instance needs a record of its own")
    after = replace(record, capability=event.capability, misses=0, challenged_at=None, error="", checks=())
    if record.state is HostState.ACTIVE:
        return after, ()
    after = replace(after, state=HostState.ACTIVE, reason="its evidence holds", since=event.at)
    return after, (Action.OPEN_ROUTE,)


def _refused(record: HostRecord, event: Refused) -> Step:
    after = replace(
        record,
        state=HostState.REFUSED,
        reason=event.reason,
        error=event.error,
        checks=event.checks,
        since=event.at,
        node_id=None,
        load=Load(),
        challenged_at=None,
    )
    return after, (Action.CLOSE_ROUTE,) if record.state is HostState.ACTIVE else ()


def _health_seen(record: HostRecord, event: HealthSeen) -> Step:
    after = replace(record, load=event.load, misses=0)
    if record.state is HostState.SUSPENDED:
        return _challenge(after, event.at)
    return after, ()


def _health_missed(record: HostRecord, event: HealthMissed) -> Step:
    after = replace(record, misses=record.misses + 1)
    if record.state is HostState.ACTIVE and after.misses >= MISSES_MAX:
        return _suspend(after, f"{after.misses} health checks missed: {event.reason}", event.at)
    return after, ()


def _tick(record: HostRecord, now: datetime) -> Step:
    if record.state is HostState.SUSPENDED and now - record.since >= GONE_AFTER:
        return replace(record, state=HostState.GONE, reason=f"{record.reason}; gave up", since=now, node_id=None), ()
    if record.state is not HostState.ACTIVE or record.capability is None:
        return record, ()
    capability = record.capability
    if not capability.valid_at(now):
        return _suspend(record, f"its evidence expired at {capability.not_after:%H:%M:%S} UTC", now)
    renew_at = capability.verified_at + (capability.not_after - capability.verified_at) * RENEW_AFTER
    return _challenge(record, now) if now >= renew_at else (record, ())


def _suspend(record: HostRecord, reason: str, now: datetime) -> Step:
    after = replace(record, state=HostState.SUSPENDED, reason=reason, since=now, load=Load(), challenged_at=None)
    return after, (Action.CLOSE_ROUTE,)


def _challenge(record: HostRecord, now: datetime) -> Step:
    if record.challenged_at is not None and now - record.challenged_at < RETRY_RENEW:
        return record, ()
    return replace(record, challenged_at=now), (Action.CHALLENGE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """The fleet at one moment; small, immutable, pushed to whoever decides."""

    version: int  # grows with every change
    at: datetime
    hosts: tuple[HostRecord, ...]
    models: tuple[ModelOffer, ...]
    operator: bytes = b""  # the operator's Ed25519 public key, 32 bytes, from the on-chain registry

    def host(self, host_id: bytes) -> HostRecord | None:
        """The host with this id, None when there is none."""
        return next((host for host in self.hosts if host.host_id == host_id), None)

    def model(self, name: str) -> ModelOffer | None:
        """The model called `name` (or with this hex root), None when the registry does not list it."""
        return next((model for model in self.models if name in {model.name, model.root.hex()}), None)

    def active(self) -> tuple[HostRecord, ...]:
        """Hosts whose evidence holds and that answer."""
        return tuple(host for host in self.hosts if host.state is HostState.ACTIVE)
