"""What the registry knows of each host, and the picture of the whole fleet that everybody decides from.

How a record changes: `cluster.host_state`.
"""

from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

from attestation.verdict import Check
from cluster.capability import Capability
from cluster.model import HostHints, Load, ModelOffer

HISTORY_MAX = 16  # transitions kept for the owner to read
WEIGHT_ONE = 1_000_000


class HostState(StrEnum):
    """Where a host is in its life."""

    JOINING = "joining"  # has proved nothing yet
    ACTIVE = "active"
    DRAINING = "draining"  # finishes what it has, gets nothing new
    SUSPENDED = "suspended"  # does not answer
    EXPIRED = "expired"  # its evidence ran out before it was renewed
    QUARANTINED = "quarantined"  # answers, and is not to be trusted with traffic for now
    REFUSED = "refused"  # its evidence does not hold
    BANNED = "banned"  # by the operator's word
    GONE = "gone"


ROUTED = frozenset({HostState.ACTIVE, HostState.DRAINING})  # the relay sends requests to these
WAITING = frozenset({HostState.SUSPENDED, HostState.EXPIRED})  # fresh evidence brings these back
ENDED = frozenset({HostState.REFUSED, HostState.BANNED, HostState.GONE})  # only joining again brings these back
WATCHED = frozenset(HostState) - ENDED - {HostState.JOINING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step of a host's life, kept for its owner to read."""

    state: HostState
    reason: str
    at: datetime
    flap: bool = False  # a host that served was lost sight of


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a host takes no new work, by its owner's or the operator's wish."""

    start: datetime
    end: datetime | None  # None: until somebody resumes it
    reason: str
    forced: bool = False  # begins even when no other host serves one of its models

    def __post_init__(self) -> None:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"a maintenance window that ends at {self.end} must begin before, not at {self.start}")

    def covers(self, now: datetime) -> bool:
        """Whether it has begun and not ended."""
        return self.start <= now and not self.over(now)

    def over(self, now: datetime) -> bool:
        """Whether it has ended."""
        return self.end is not None and now >= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A host's reputation as it travels: see cluster.reputation."""

    weight: int = WEIGHT_ONE  # parts per million of a full share of traffic
    attempts: int = 0  # since the platform is known
    failures: int = 0


NEW_STANDING = Standing()


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
    window: Window | None = None  # the maintenance that was announced
    held_until: datetime | None = None  # end of a quarantine; None: until the operator releases it
    standing: Standing = NEW_STANDING
    history: tuple[Transition, ...] = ()  # oldest first, the last one is the present state

    @property
    def host_id(self) -> bytes | None:
        """8-byte name of the enclave instance, once it has proved one."""
        return self.capability.host_id if self.capability else None

    @property
    def owner(self) -> bytes:
        """Whom it earns for (33 bytes): the only thing that says who owns it. Empty before it proved one."""
        return self.capability.payee if self.capability else b""

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return self.hints.name or (self.host_id.hex() if self.host_id else self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """The fleet at one moment; immutable, pushed to whoever decides."""

    version: int  # grows with every change
    at: datetime
    hosts: tuple[HostRecord, ...]
    models: tuple[ModelOffer, ...]
    preferred: frozenset[bytes] = frozenset()  # of several roots of one name, those that leases are for
    operator: bytes = b""  # the operator's Ed25519 public key, 32 bytes, from the on-chain registry
    closed: str = ""  # why no new leases are given; empty while governance lets the operator take them
    memo: dict[str, object] = field(default_factory=dict, compare=False, repr=False)  # what readers worked out of it

    def __getstate__(self) -> tuple[object, ...]:
        """Everything but the memo, which each process makes for itself."""
        return tuple(getattr(self, name) for name in _TRAVELS)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        for name, value in zip(_TRAVELS, state, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "memo", {})

    def host(self, host_id: bytes) -> HostRecord | None:
        """The host with this id, None when there is none."""
        return next((host for host in self.hosts if host.host_id == host_id), None)

    def model(self, name: str) -> ModelOffer | None:
        """The model called `name` (or with this hex root), None when the registry does not list it.

        When several roots have the name, it is the preferred one: see cluster.rollout.
        """
        named = [model for model in self.models if name in {model.name, model.root.hex()}]
        return next((model for model in named if model.root in self.preferred), named[0] if named else None)

    def active(self) -> tuple[HostRecord, ...]:
        """Hosts whose evidence holds, that answer, and that take new work."""
        return tuple(host for host in self.hosts if host.state is HostState.ACTIVE)


_TRAVELS = tuple(item.name for item in fields(FleetSnapshot) if item.name != "memo")
