"""Which attested host does what? Pure: a requirement, a fleet and a time in; a choice with its reasons out."""

from collections.abc import Callable, Iterable
from datetime import datetime
from hashlib import sha256

from cluster.capability import Capability
from cluster.fleet import FleetSnapshot, HostRecord, HostState
from cluster.model import Decision, JobRequirement, Loss, Placement

Rule = Callable[[HostRecord, Capability, JobRequirement], str]  # "" when it holds, else what was seen and wanted


def place(requirement: JobRequirement, fleet: FleetSnapshot, *, now: datetime, salt: bytes = b"") -> Decision:
    """Choose up to `requirement.hosts` hosts.

    Least loaded first, then cheapest; of equals, different owners before the same owner twice, then by a hash of
    `salt` and host id, so that many decisions from one snapshot spread.

    Args:
        requirement: what the job asks.
        fleet: the hosts as last seen.
        now: hosts whose verdict does not hold at this time lose.
        salt: decision id, for example the lease.

    Returns:
        The placements, best first, and for every other host the first rule that it lost.
    """
    eligible: list[HostRecord] = []
    losses: list[Loss] = []
    for host in fleet.hosts:
        loss = first_loss(host, requirement, now=now)
        if loss is None:
            eligible.append(host)
        else:
            losses.append(loss)
    chosen = _spread(eligible, requirement.hosts, salt)
    surplus = f"{requirement.hosts} better hosts were enough"
    losses.extend(_loss(host, "rank", surplus) for host in eligible if host not in chosen)
    return Decision(placements=tuple(_placement(host) for host in chosen), losses=tuple(losses))


def first_loss(host: HostRecord, requirement: JobRequirement, *, now: datetime) -> Loss | None:
    """The first rule this host loses; None when it may do the job."""
    if host.state is not HostState.ACTIVE or host.capability is None:
        return _loss(host, "state", f"it is {host.state}: {host.reason}")
    if not host.capability.valid_at(now):
        return _loss(host, "evidence", f"it expired at {host.capability.not_after:%H:%M:%S} UTC")
    for name, rule in _RULES:
        detail = rule(host, host.capability, requirement)
        if detail:
            return _loss(host, name, detail)
    return None


def _tier(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if capability.tier.satisfies(requirement.tier):
        return ""
    return f"it is {capability.tier}, {requirement.tier} is required"


def _tee(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if not requirement.tees or capability.tee in requirement.tees:
        return ""
    return f"it has {capability.tee or 'no TEE'}, wanted {' or '.join(sorted(requirement.tees))}"


def _gpus(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if len(capability.gpus) >= requirement.gpus_min:
        return ""
    return f"it proved {len(capability.gpus)} GPUs, {requirement.gpus_min} are required"


def _model(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    return "" if requirement.model in capability.models else "its evidence does not name the model"


def _price(host: HostRecord, _: Capability, requirement: JobRequirement) -> str:
    if host.hints.coefficient <= requirement.coefficient_max:
        return ""
    return f"its owner asks {host.hints.coefficient}/1000 of the tariff, at most {requirement.coefficient_max} is paid"


def _loaded(host: HostRecord, _: Capability, requirement: JobRequirement) -> str:
    if not requirement.loaded or (host.load.ready and requirement.model in host.load.models):
        return ""
    return "it has not loaded the model"


_RULES: tuple[tuple[str, Rule], ...] = (
    ("tier", _tier),
    ("tee", _tee),
    ("gpus", _gpus),
    ("model", _model),
    ("price", _price),
    ("loaded", _loaded),
)


def _spread(hosts: Iterable[HostRecord], count: int, salt: bytes) -> list[HostRecord]:
    left = sorted(hosts, key=lambda host: _rank(host, salt))
    chosen: list[HostRecord] = []
    while left and len(chosen) < count:
        owners = {_owner(host) for host in chosen}
        best = next((host for host in left if _owner(host) not in owners), left[0])
        chosen.append(best)
        left.remove(best)
    return chosen


def _rank(host: HostRecord, salt: bytes) -> tuple[int, int, bytes]:
    return host.load.depth, host.hints.coefficient, sha256(salt + (host.host_id or b"")).digest()


def _owner(host: HostRecord) -> bytes:
    return host.capability.payee if host.capability else b""


def _placement(host: HostRecord) -> Placement:
    if host.host_id is None:
        raise ValueError("a host without a verdict cannot be placed on")
    return Placement(
        host_id=host.host_id, node_id=host.node_id, address=host.address, coefficient=host.hints.coefficient
    )


def _loss(host: HostRecord, rule: str, detail: str) -> Loss:
    return Loss(host_id=host.host_id, name=host.label, rule=rule, detail=detail)
