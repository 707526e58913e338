"""How many replicas a model should have: from the enclaves' own counters, with hysteresis. Pure.

    need = max(ceil(requests / depth_target), ceil(tokens a second / tokens_per_s))

More are wanted once the need was higher for `up_after_s`, at most twice as many at once; one fewer once the need with
30 % to spare was lower for `down_after_s`. Always within the operator's limits and what the fleet offers.

The counters are unsigned: a host that lies about them can cost the operator replicas up to `replicas_max` and nothing
else, and what one host says counts for four replicas at most.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cluster.fleet import FleetSnapshot, HostRecord, HostState

SPARE_PERCENT = 70  # fewer replicas must be this busy at most before one goes
CLAIM_MAX = 4  # replicas' worth of work that one host may report
REPLICAS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleLimits:
    """The operator's limits for one model."""

    replicas_min: int = 1
    replicas_max: int = REPLICAS_MAX
    depth_target: int = 8  # requests in each replica, running or waiting, that are fine
    tokens_per_s: int = 0  # output tokens a second that one replica gives; 0: not looked at
    up_after_s: int = 5
    down_after_s: int = 300

    def __post_init__(self) -> None:
        if not 1 <= self.replicas_min <= self.replicas_max <= REPLICAS_MAX:
            raise ValueError(
                f"replicas: 1 <= min <= max <= {REPLICAS_MAX}, not {self.replicas_min}, {self.replicas_max}"
            )
        if self.depth_target < 1 or min(self.tokens_per_s, self.up_after_s, self.down_after_s) < 0:
            raise ValueError("depth_target must be at least 1; tokens_per_s, up_after_s, down_after_s not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The work of one model at one moment."""

    depth: int  # requests taken and not answered
    tokens_per_s: int  # output tokens
    offered: int  # hosts that may serve it


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What is wanted now, and since when it should be something else."""

    wanted: int
    above_since: datetime | None = None
    below_since: datetime | None = None


def step(scale: Scale, sample: Sample, limits: ScaleLimits, *, now: datetime) -> Scale:
    """The scale after one more sample."""
    ceiling = max(0, min(limits.replicas_max, sample.offered))
    floor = min(limits.replicas_min, ceiling)
    wanted = min(max(scale.wanted, floor), ceiling)  # limits and the fleet count at once
    more = min(max(_need(sample, limits, 100), floor), ceiling)
    if more > wanted:
        since = scale.above_since or now
        if now - since < timedelta(seconds=limits.up_after_s):
            return Scale(wanted=wanted, above_since=since)
        return Scale(wanted=min(more, 2 * max(1, wanted)))
    less = min(max(_need(sample, limits, SPARE_PERCENT), floor), ceiling)
    if less < wanted:
        since = scale.below_since or now
        if now - since < timedelta(seconds=limits.down_after_s):
            return Scale(wanted=wanted, below_since=since)
        return Scale(wanted=wanted - 1, below_since=now)  # the next one has to wait as long again
    return Scale(wanted=wanted)


def needed(sample: Sample, limits: ScaleLimits) -> int:
    """Replicas that this work needs now, within the operator's limits and whatever the fleet offers."""
    return min(max(_need(sample, limits, 100), limits.replicas_min), limits.replicas_max)


def sample_of(
    roots: Collection[bytes], fleet: FleetSnapshot, rates: Mapping[bytes, int], limits: ScaleLimits, *, offered: int
) -> Sample:
    """The work of the model with these manifest roots, by what the hosts that serve it report.

    Args:
        roots: all roots of its name.
        fleet: the hosts as last seen.
        rates: output tokens a second of each host, see `token_rates`.
        limits: they say how much one host may claim.
        offered: hosts that may serve it.
    """
    depth = tokens = 0
    for host in _serving(roots, fleet):
        others = len(host.load.models)  # a host that serves several models reports their sum
        depth += min(-(-host.load.depth // others), CLAIM_MAX * limits.depth_target)
        rate = -(-rates.get(host.host_id or b"", 0) // others)
        tokens += min(rate, CLAIM_MAX * limits.tokens_per_s) if limits.tokens_per_s else 0
    return Sample(depth=depth, tokens_per_s=tokens, offered=offered)


def token_rates(before: FleetSnapshot, after: FleetSnapshot) -> dict[bytes, int]:
    """Output tokens a second of each host between two pictures; a host whose counter fell has none."""
    seconds = (after.at - before.at).total_seconds()
    if seconds <= 0:
        return {}
    old = {host.host_id: host.load.output_tokens for host in before.hosts if host.host_id}
    return {
        host.host_id: max(0, int((host.load.output_tokens - old[host.host_id]) / seconds))
        for host in after.hosts
        if host.host_id in old and host.host_id
    }


def _need(sample: Sample, limits: ScaleLimits, percent: int) -> int:
    """Replicas for the sample when each is `percent` busy."""
    need = -(-sample.depth * 100 // (limits.depth_target * percent))
    if limits.tokens_per_s:
        need = max(need, -(-sample.tokens_per_s * 100 // (limits.tokens_per_s * percent)))
    return need


def _serving(roots: Collection[bytes], fleet: FleetSnapshot) -> list[HostRecord]:
    active = (HostState.ACTIVE, HostState.DRAINING)
    return [
        host for host in fleet.hosts if host.state in active and host.load.ready and host.load.models & frozenset(roots)
    ]
