"""Room on hosts: how many GPUs are free, and who has the others. Pure.

A host has as many slots as GPUs it proved, one without GPUs has one slot. A job takes as many slots as it needs GPUs,
and at least one; a model replica takes as many as it needs GPUs.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from cluster.fleet import HostRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Slots of one host that are taken."""

    host_id: bytes
    slots: int


def slots_of(host: HostRecord) -> int:
    """How many slots a host has."""
    return max(1, len(host.capability.gpus)) if host.capability else 0


class Slots:
    """Free slots of every host in the fleet, arranged by their number."""

    def __init__(self) -> None:
        self._total: dict[bytes, int] = {}
        self._taken: dict[bytes, int] = {}
        self._claims: dict[bytes, Claim] = {}
        self._by_free: dict[int, dict[bytes, None]] = {}

    @property
    def claims(self) -> Mapping[bytes, Claim]:
        """Who has taken what."""
        return self._claims

    def follow(self, totals: Mapping[bytes, int]) -> set[bytes]:
        """Take over which hosts there are, with their slots; returns those with more room than before.

        Claims on hosts that left stay until they are released.
        """
        before, self._total = self._total, dict(totals)
        if before != self._total:
            self._by_free = {}
            for host_id in sorted(self._total):
                self._by_free.setdefault(self.free(host_id), {})[host_id] = None
        return {host_id for host_id, total in self._total.items() if total > before.get(host_id, 0)}

    def free(self, host_id: bytes) -> int:
        """Slots nobody has; never below 0, even when a host came back with fewer GPUs."""
        return max(0, self._total.get(host_id, 0) - self._taken.get(host_id, 0))

    def with_room(self, slots: int) -> Iterator[Collection[bytes]]:
        """Hosts with at least that many free slots, those that it fits best first, in groups of equal room."""
        for free in sorted(self._by_free):
            if free >= slots and self._by_free[free]:
                yield self._by_free[free]

    def take(self, claim_id: bytes, host_id: bytes, slots: int) -> None:
        """Claim slots. ValueError when there are not so many, or the claim exists."""
        if claim_id in self._claims or not 0 <= slots <= self.free(host_id):
            raise ValueError(f"{slots} slots of host {host_id.hex()}: {self.free(host_id)} are free")
        self._claims[claim_id] = Claim(host_id=host_id, slots=slots)
        self._move(host_id, slots)

    def release(self, claim_id: bytes) -> Claim | None:
        """Give slots back; returns the claim, None when there was none."""
        claim = self._claims.pop(claim_id, None)
        if claim is not None:
            self._move(claim.host_id, -claim.slots)
        return claim

    def _move(self, host_id: bytes, slots: int) -> None:
        before = self.free(host_id)
        self._taken[host_id] = self._taken.get(host_id, 0) + slots
        if not self._taken[host_id]:
            del self._taken[host_id]
        if host_id in self._total:
            self._by_free.get(before, {}).pop(host_id, None)
            self._by_free.setdefault(self.free(host_id), {})[host_id] = None
