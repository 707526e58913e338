"""Which attested host does what? Pure: a requirement, a fleet and a time in; a choice with its reasons out."""

from collections.abc import Sequence
from datetime import datetime
from random import Random

from cluster.fleet import FleetSnapshot, HostRecord
from cluster.fleet_index import DRAWS, FleetIndex, Pool, fits
from cluster.model import Decision, JobRequirement, Loss, Placement
from cluster.rules import first_loss, lost

SMALL = 16  # hosts that are all looked at
SAMPLE = 4  # candidates looked at for each host wanted, in a larger pool


def choose(
    requirement: JobRequirement, fleet: FleetSnapshot, *, now: datetime, salt: bytes = b""
) -> tuple[Placement, ...]:
    """Choose up to `requirement.hosts` hosts, best first.

    Hosts are drawn by reputation, so that one that fails gets its small share only. Of those drawn, the ones in the
    preferred location come first, then the least loaded, then the cheapest; different owners before the same one twice.
    From a pool of more than SMALL hosts a few are drawn for each one wanted: by a picture that is a second old, all
    work would otherwise go to the same host. The draw depends on `salt` and the hosts alone.

    Args:
        requirement: what the job asks.
        fleet: the hosts as last seen.
        now: hosts whose verdict does not hold at this time lose.
        salt: decision id, for example the lease.
    """
    random = Random(salt)
    chosen: list[HostRecord] = []
    for pool in FleetIndex.of(fleet).pools(requirement):
        left = requirement.hosts - len(chosen)
        if left:
            chosen = _spread(chosen, _ranked(pool, requirement, left, now=now, random=random), requirement)
    return tuple(map(placement_of, chosen))


def place(requirement: JobRequirement, fleet: FleetSnapshot, *, now: datetime, salt: bytes = b"") -> Decision:
    """`choose`, and for every other host the first rule that it lost. Its time grows with the fleet."""
    placements = choose(requirement, fleet, now=now, salt=salt)
    return Decision(placements=placements, losses=explain(requirement, fleet, placements, now=now))


def explain(
    requirement: JobRequirement, fleet: FleetSnapshot, placements: Sequence[Placement] = (), *, now: datetime
) -> tuple[Loss, ...]:
    """For every host that was not chosen the first rule that it lost."""
    chosen = {placement.host_id for placement in placements}
    surplus = f"{requirement.hosts} better hosts were enough"
    owner = "another host of its owner was chosen"
    full = len(chosen) >= requirement.hosts
    return tuple(
        first_loss(host, requirement, now=now) or lost(host, "rank" if full else "owner", surplus if full else owner)
        for host in fleet.hosts
        if host.host_id is None or host.host_id not in chosen
    )


def placement_of(host: HostRecord) -> Placement:
    """A host as the place of a job."""
    if host.host_id is None:
        raise ValueError("a host without a verdict cannot be placed on")
    return Placement(
        host_id=host.host_id, node_id=host.node_id, address=host.address, coefficient=host.hints.coefficient
    )


def _ranked(pool: Pool, requirement: JobRequirement, wanted: int, *, now: datetime, random: Random) -> list[HostRecord]:
    """Hosts of the pool that fit, best first: all of them, or of a large pool enough to choose from."""
    if pool.size > max(SMALL, SAMPLE * wanted) and not requirement.owners_distinct:
        drawn = _drawn(pool, requirement, SAMPLE * wanted, now=now, random=random)
        if len(drawn) >= wanted:
            return sorted(drawn, key=_rank)
    fitting = [host for host in pool if fits(host, requirement, now=now)]
    random.shuffle(fitting)
    heaviest = max((host.standing.weight for host in fitting), default=0)
    passed_over = {host.host_id for host in fitting if random.random() * heaviest >= host.standing.weight}
    return sorted(fitting, key=lambda host: (host.host_id in passed_over, *_rank(host)))


def _drawn(pool: Pool, requirement: JobRequirement, count: int, *, now: datetime, random: Random) -> list[HostRecord]:
    """Up to `count` different hosts that fit, in the order they were drawn."""
    drawn: dict[bytes | None, HostRecord] = {}
    for _ in range(DRAWS * count):
        host = pool.draw(random)
        if host.host_id not in drawn and fits(host, requirement, now=now):
            drawn[host.host_id] = host
            if len(drawn) == count:
                break
    return list(drawn.values())


def _rank(host: HostRecord) -> tuple[float, int]:
    gpus = len(host.capability.gpus) if host.capability else 0
    return host.load.depth / max(1, gpus), host.hints.coefficient


def _spread(
    chosen: Sequence[HostRecord], ranked: Sequence[HostRecord], requirement: JobRequirement
) -> list[HostRecord]:
    """`chosen` and the best of `ranked`: owners that were not chosen yet first."""
    first, again = list(chosen), []
    owners = {host.owner for host in first}
    for host in ranked:
        if host.owner in owners:
            again.append(host)
        elif len(first) < requirement.hosts:
            owners.add(host.owner)
            first.append(host)
    if requirement.owners_distinct:
        return first
    return first + again[: requirement.hosts - len(first)]
