"""How well each host does what it is given, measured by the relay and weighed into its share of traffic. Pure.

An outcome is counted when the relay saw it: an answer with status 200, a failure (5xx or no answer), or an answer that
the enclave itself knows nothing of. A client's word counts nowhere; neither do refusals (4xx), nor answers that broke
off after they began, which a client can bring about.

share = max(WEIGHT_MIN, p ** SHARPNESS), p = (PRIOR + good) / (PRIOR + good + bad)

over the last some MEMORY outcomes, which fade with a half-life of HALF_LIFE_S. A host that fails always is down to
WEIGHT_MIN (0.1 %) after 20 failures; that trickle is the probe by which a host that was repaired comes back.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from billing.durable_file import replace_file
from cluster.capability import Capability
from cluster.errors import ConfigError
from cluster.fleet import WEIGHT_ONE, HostRecord, Standing
from cluster.model import Load

PRIOR = 2.0  # good outcomes that everybody begins with
MEMORY = 100.0
HALF_LIFE_S = 1800.0
SHARPNESS = 3
WEIGHT_MIN = WEIGHT_ONE // 1000
TALLIES_MAX = 4096
SAVE_PERIOD_S = 10.0  # the most that a crash forgets


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCounts:
    """Sealed requests to one host since the relay started."""

    answered: int  # with status 200, to the end or not yet
    failed: int  # 5xx, or no answer


NO_COUNTS = HostCounts(answered=0, failed=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Faded counts of one platform, as of `at`, and its whole numbers since it is known."""

    at: datetime
    good: float = 0.0
    bad: float = 0.0
    attempts: int = 0
    failures: int = 0

    def count(self, good: int, bad: int, *, now: datetime) -> "Tally":
        """The tally after these outcomes."""
        fade = 0.5 ** (max(0.0, (now - self.at).total_seconds()) / HALF_LIFE_S)
        more_good, more_bad = self.good * fade + good, self.bad * fade + bad
        shrink = min(1.0, MEMORY / max(MEMORY, more_good + more_bad))
        return Tally(
            at=now,
            good=more_good * shrink,
            bad=more_bad * shrink,
            attempts=self.attempts + good + bad,
            failures=self.failures + bad,
        )

    @property
    def standing(self) -> Standing:
        """What travels to whoever decides."""
        chance = (PRIOR + self.good) / (PRIOR + self.good + self.bad)
        weight = max(WEIGHT_MIN, round(WEIGHT_ONE * chance**SHARPNESS))
        return Standing(weight=weight, attempts=self.attempts, failures=self.failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Counters of one enclave instance: as first seen, as last seen, and what was made of them since."""

    first: HostCounts
    first_ended: int
    last: HostCounts
    last_ended: int
    confirmed: int = 0  # relayed answers that the enclave knows of
    vanished: int = 0  # relayed answers that it knows nothing of

    def began_anew(self, counts: HostCounts, ended: int) -> bool:
        """Whether relay or enclave restarted in between."""
        return counts.answered < self.last.answered or counts.failed < self.last.failed or ended < self.last_ended

    def after(self, counts: HostCounts, load: Load) -> "_Seen":
        """What is known after another round.

        What was relayed by the last round has ended by now, or is being answered. Requests that do not come through the
        relay only add to what ended.
        """
        relayed = self.last.answered - self.first.answered
        known = load.ended + load.depth - self.first_ended
        vanished = max(self.vanished, relayed - known)
        confirmed = max(self.confirmed, relayed - vanished)
        return replace(self, last=counts, last_ended=load.ended, confirmed=confirmed, vanished=vanished)


def key_of(host: HostRecord) -> str:
    """Whose reputation a host has: its CPU's, which a restart does not change; without one, the instance's."""
    if host.capability is None:
        raise ValueError("a host without a verdict has no reputation")
    return machine_of(host.capability)


def machine_of(capability: Capability) -> str:
    """What stays the same when an enclave restarts: its CPU. An open host has proved none, so its instance counts."""
    return (capability.platform_id or capability.host_id).hex()


class Ratings:
    """Tallies of all platforms, fed with counters once a round."""

    def __init__(self, tallies: Mapping[str, Tally] | None = None) -> None:
        self._tallies = dict(tallies or {})
        self._seen: dict[bytes, _Seen] = {}
        self.dirty = False

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """By platform; the longest unheard of first."""
        return self._tallies

    def standing(self, host: HostRecord, *, now: datetime) -> Standing:
        """A host's present reputation."""
        return self._tallies.get(key_of(host), Tally(at=now)).count(0, 0, now=now).standing

    def observe(self, host: HostRecord, counts: HostCounts, *, now: datetime) -> Standing:
        """Take in the relay's counters of a host, read after its `load`, and return its reputation."""
        host_id = host.host_id or b""
        seen = self._seen.get(host_id)
        if seen is None or seen.began_anew(counts, host.load.ended):
            ended = host.load.ended
            self._seen[host_id] = _Seen(first=counts, first_ended=ended, last=counts, last_ended=ended)
            return self.standing(host, now=now)
        after = self._seen[host_id] = seen.after(counts, host.load)
        bad = counts.failed - seen.last.failed + after.vanished - seen.vanished
        self._count(key_of(host), good=after.confirmed - seen.confirmed, bad=bad, now=now)
        return self.standing(host, now=now)

    def count_job(self, host: HostRecord, *, ok: bool, now: datetime) -> Standing:
        """Take in how a job on a host ended, and return its reputation."""
        self._count(key_of(host), good=int(ok), bad=int(not ok), now=now)
        return self.standing(host, now=now)

    def _count(self, key: str, *, good: int, bad: int, now: datetime) -> None:
        if not good and not bad:
            return
        before = self._tallies.pop(key, Tally(at=now))
        self._tallies[key] = before.count(good, bad, now=now)
        self.dirty = True
        while len(self._tallies) > TALLIES_MAX:
            del self._tallies[next(iter(self._tallies))]

    def forget_others(self, present: Collection[bytes]) -> None:
        """Drop the counters of instances that are gone; their platforms' tallies stay."""
        self._seen = {host_id: seen for host_id, seen in self._seen.items() if host_id in present}


class RatingFile:
    """The tallies on disk: one JSON object, mode 0600, replaced whole at most every SAVE_PERIOD_S."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved_at: datetime | None = None

    def load(self) -> Ratings:
        """The ratings of an earlier run, empty ones before the first. ConfigError when the file is damaged."""
        if not self._path.exists():
            return Ratings()
        try:
            return Ratings(dict(_parse(json.loads(self._path.read_text()))))
        except (ValueError, AttributeError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"{self._path} is damaged ({error}): remove it; every host then begins with a full share again"
            ) from error

    def save(self, ratings: Ratings, *, now: datetime) -> None:
        """Write them if they changed and the last time is long enough ago."""
        waited = self._saved_at is None or (now - self._saved_at).total_seconds() >= SAVE_PERIOD_S
        if not ratings.dirty or not waited:
            return
        values = {
            key: [tally.at.timestamp(), tally.good, tally.bad, tally.attempts, tally.failures]
            for key, tally in ratings.tallies.items()
        }
        replace_file(self._path, json.dumps(values).encode())
        ratings.dirty, self._saved_at = False, now


def _parse(values: Mapping[str, list[float]]) -> Iterator[tuple[str, Tally]]:
    for key, (at, good, bad, attempts, failures) in values.items():
        if not all(math.isfinite(value) and value >= 0 for value in (at, good, bad, attempts, failures)):
            raise ValueError(f"the numbers of {key}")
        yield (
            bytes.fromhex(key).hex(),
            Tally(
                at=datetime.fromtimestamp(at, UTC), good=good, bad=bad, attempts=int(attempts), failures=int(failures)
            ),
        )
