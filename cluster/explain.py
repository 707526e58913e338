"""Why did this host get work, or none? From the last decisions and the picture of now, when somebody asks. Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cluster.fleet import WEIGHT_ONE, FleetSnapshot, HostRecord
from cluster.fleet_index import FleetIndex
from cluster.lease import LEASE_S
from cluster.model import JobRequirement, ModelOffer
from cluster.rules import first_loss

DECISIONS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PastDecision:
    """One decision, without the picture that it was made from."""

    at: datetime
    what: str  # for people: "placed a model", "started job ..."
    requirement: JobRequirement
    chosen: frozenset[bytes]  # host ids


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """The last DECISIONS_MAX decisions."""

    decisions: "deque[PastDecision]" = field(default_factory=lambda: deque(maxlen=DECISIONS_MAX))

    def add(self, what: str, requirement: JobRequirement, chosen: Iterable[bytes], *, now: datetime) -> None:
        """Remember a decision; the oldest is forgotten."""
        past = PastDecision(at=now, what=what, requirement=requirement, chosen=frozenset(chosen))
        self.decisions.append(past)

    def of(self, host: HostRecord, *, now: datetime) -> list[dict[str, str]]:
        """What each decision meant for a host, newest first; for those that it lost, the rule it would lose now."""
        told = []
        for past in reversed(self.decisions):
            if host.host_id in past.chosen:
                outcome = "chosen"
            else:
                loss = first_loss(host, past.requirement, now=now)
                outcome = f"not chosen; {loss}" if loss else "not chosen; it wins every rule, other hosts were better"
            told.append({"at": past.at.isoformat(timespec="seconds"), "decision": past.what, "outcome": outcome})
        return told


def explain_host(fleet: FleetSnapshot, name: str, log: DecisionLog, *, now: datetime) -> dict[str, Any] | None:
    """All there is to say about a host, as JSON; None when nobody is called that.

    Args:
        fleet: the hosts as last seen.
        name: host id in hex, the name its owner gave it, or its address.
        log: the last decisions.
        now: for evidence and maintenance.
    """
    host = find_host(fleet, name)
    if host is None:
        return None
    standing = host.standing
    return describe_row(host) | {
        "leases": {offer.name: _lease_of(fleet, host, offer, now=now) for offer in fleet.models},
        "reputation": f"{standing.weight * 100 / WEIGHT_ONE:.1f} % of a full share; {standing.failures} of "
        f"{standing.attempts} requests failed",
        "maintenance": _maintenance(host),
        "history": [
            {"at": past.at.isoformat(timespec="seconds"), "state": str(past.state), "reason": past.reason}
            for past in reversed(host.history)
        ],
        "decisions": log.of(host, now=now),
    }


def describe_row(host: HostRecord) -> dict[str, Any]:
    """A host in a list."""
    capability = host.capability
    return {
        "host_id": host.host_id.hex() if host.host_id else None,
        "name": host.hints.name,
        "address": host.address,
        "state": str(host.state),
        "since": host.since.isoformat(timespec="seconds"),
        "reason": host.reason,
        "tier": str(capability.tier) if capability else None,
        "gpus": len(capability.gpus) if capability else 0,
        "requests": host.load.depth,
        "models": sorted(root.hex() for root in host.load.models),
        "share": round(host.standing.weight / WEIGHT_ONE, 4),
    }


def find_host(fleet: FleetSnapshot, name: str) -> HostRecord | None:
    """The host of this id (hex), name or address. Of several with one name, the one that changed last."""
    index = FleetIndex.of(fleet)
    try:
        found = index.host(bytes.fromhex(name))
    except ValueError:
        found = None
    same = [host for host in fleet.hosts if name in {host.hints.name, host.address}]
    return found or max(same, key=lambda host: host.since, default=None)


def _lease_of(fleet: FleetSnapshot, host: HostRecord, offer: ModelOffer, *, now: datetime) -> str:
    """Whether leases of a model may name this host now."""
    need = JobRequirement(model=offer.root, loaded=True, duration_s=LEASE_S)
    loss = first_loss(host, need, now=now)
    if loss is not None:
        return f"no; {loss}"
    others = sum(pool.size for pool in FleetIndex.of(fleet).pools(need)) - 1
    return f"yes, beside {others} other hosts"


def _maintenance(host: HostRecord) -> str | None:
    if host.window is None:
        return None
    end = host.window.end.isoformat(timespec="seconds") if host.window.end else "it is resumed"
    return f"from {host.window.start.isoformat(timespec='seconds')} until {end}: {host.window.reason}"
