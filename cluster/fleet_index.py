"""A fleet arranged for quick choices: active hosts in groups that win or lose the same rules.

A requirement is compared with each group once, and the answer is kept; a choice then looks at a few hosts only. Made
once for each snapshot, in a time that grows with the fleet; a choice takes about as long with 10,000 hosts as with 100.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from random import Random

from cluster.fleet import FleetSnapshot, HostRecord, HostState
from cluster.model import LOCATION, JobRequirement
from cluster.rules import Profile, first_own_loss, first_shared_loss, profile_of, proved_facts

POOLS_MAX = 512  # kinds of requirement remembered for one snapshot
DRAWS = 8  # draws for each host wanted before the whole pool is looked at
_MEMO = "index"


@dataclass(slots=True)
class _Group:
    """Hosts of one profile; `arrange` puts the cheapest first."""

    hosts: list[HostRecord]
    prices: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)  # running sum

    def arrange(self) -> "_Group":
        """Sort the hosts, at the first use: most groups of a snapshot are never asked for."""
        if not self.prices:
            self.hosts.sort(key=lambda host: (host.hints.coefficient, host.host_id or b""))
            self.prices = [host.hints.coefficient for host in self.hosts]
            self.weights = list(accumulate(host.standing.weight for host in self.hosts))
        return self

    @property
    def name(self) -> bytes:
        """What groups are ordered by, so that the order of hosts in a snapshot does not matter."""
        return self.hosts[0].host_id or b""


@dataclass(frozen=True, slots=True)
class Pool:
    """Hosts that win every shared rule of a requirement and its price ceiling, drawn by their reputation."""

    parts: tuple[tuple[_Group, int], ...]  # a group, and how many of its hosts are cheap enough
    weights: tuple[int, ...]  # running sum over the parts
    size: int

    @classmethod
    def of(cls, groups: Iterator[_Group], coefficient_max: int) -> "Pool":
        """The pool of these groups below a price."""
        counted = ((group, bisect_right(group.prices, coefficient_max)) for group in groups)
        parts = tuple((group, count) for group, count in counted if count)
        weights = tuple(accumulate(group.weights[count - 1] for group, count in parts))
        return cls(parts, weights, sum(count for _, count in parts))

    def __iter__(self) -> Iterator[HostRecord]:
        for group, count in self.parts:
            yield from group.hosts[:count]

    def draw(self, random: Random) -> HostRecord:
        """One host; its chance is its share of the pool's weight."""
        at = random.randrange(self.weights[-1])
        number = bisect_right(self.weights, at)
        group, _ = self.parts[number]
        return group.hosts[bisect_right(group.weights, at - (self.weights[number - 1] if number else 0))]


class FactsCache:
    """What the evidence of each host boils down to, kept over snapshots: evidence changes every few minutes only."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, Hashable]] = {}

    def forget_others(self, fleet: FleetSnapshot) -> None:
        """Keep what hosts of this fleet need."""
        if len(self._known) > 2 * len(fleet.hosts):
            present = {host.host_id for host in fleet.hosts}
            self._known = {host_id: known for host_id, known in self._known.items() if host_id in present}

    def facts(self, host: HostRecord) -> Hashable:
        """`proved_facts` of a host with a capability."""
        if host.capability is None:
            raise ValueError("a host without a verdict has proved nothing")
        key, transcript = host.capability.host_id, host.capability.transcript
        known = self._known.get(key)
        if known is None or known[0] != transcript:
            known = self._known[key] = (transcript, proved_facts(host.capability))
        return known[1]


class FleetIndex:
    """One snapshot, arranged. Immutable but for what it remembers."""

    def __init__(self, fleet: FleetSnapshot, cache: FactsCache | None = None) -> None:
        self.fleet = fleet
        cache = cache or FactsCache()
        groups: dict[Profile, list[HostRecord]] = {}
        self._by_id: dict[bytes, HostRecord] = {}
        for host in fleet.hosts:
            if host.capability is None:
                continue
            self._by_id.setdefault(host.capability.host_id, host)
            if host.state is HostState.ACTIVE:
                groups.setdefault(profile_of(host, host.capability, cache.facts(host)), []).append(host)
        cache.forget_others(fleet)
        self._groups = [_Group(hosts) for hosts in groups.values()]
        self._pools: dict[JobRequirement, tuple[Pool, ...]] = {}

    @classmethod
    def of(cls, fleet: FleetSnapshot, cache: FactsCache | None = None) -> "FleetIndex":
        """The index of a snapshot, made at the first use and kept with it."""
        made = fleet.memo.get(_MEMO)
        if not isinstance(made, FleetIndex):
            made = fleet.memo[_MEMO] = cls(fleet, cache)
        return made

    def host(self, host_id: bytes) -> HostRecord | None:
        """The host with this id, None when there is none."""
        return self._by_id.get(host_id)

    def pools(self, requirement: JobRequirement) -> tuple[Pool, ...]:
        """The pools to choose from, in order: those in the location that is preferred, then the others."""
        pools = self._pools.get(requirement)
        if pools is None:
            if len(self._pools) >= POOLS_MAX:
                self._pools.clear()
            pools = self._pools[requirement] = self._make_pools(requirement)
        return pools

    def _make_pools(self, requirement: JobRequirement) -> tuple[Pool, ...]:
        fitting = [group.arrange() for group in self._groups if _wins(group, requirement)]
        fitting.sort(key=lambda group: group.name)
        near = [group for group in fitting if _is_near(group, requirement)]
        far = [group for group in fitting if not _is_near(group, requirement)]
        pools = (Pool.of(iter(groups), requirement.coefficient_max) for groups in (near, far))
        return tuple(pool for pool in pools if pool.size)


def fits(host: HostRecord, requirement: JobRequirement, *, now: datetime) -> bool:
    """Whether a host from a requirement's pool wins its own rules too."""
    return host.capability is not None and first_own_loss(host, host.capability, requirement, now=now) is None


def _wins(group: _Group, requirement: JobRequirement) -> bool:
    first = group.hosts[0]
    return first.capability is not None and first_shared_loss(first, first.capability, requirement) is None


def _is_near(group: _Group, requirement: JobRequirement) -> bool:
    return not requirement.location or group.hosts[0].hints.label(LOCATION) == requirement.location
