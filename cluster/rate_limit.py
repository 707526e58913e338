"""Token buckets: how often somebody may ask, and how many may ask at all. Pure: the time is an argument."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`burst` requests at once, one more every `period_s` seconds."""

    burst: int
    period_s: float


class Buckets:
    """One bucket for each asker, for the `askers_max` that asked last; who is forgotten begins anew."""

    def __init__(self, rate: Rate, *, askers_max: int) -> None:
        self._rate, self._askers_max = rate, askers_max
        self._full_at: dict[str, float] = {}  # when the bucket will be full again, in seconds of a monotonic clock

    def take(self, asker: str, *, now_s: float) -> float:
        """Take one; returns 0.0, or how many seconds to wait when there is none."""
        full_at = max(self._full_at.pop(asker, now_s), now_s) + self._rate.period_s
        wait_s = full_at - now_s - self._rate.burst * self._rate.period_s
        if wait_s > 1e-9:  # sums of floats
            full_at -= self._rate.period_s
        self._full_at[asker] = full_at
        if len(self._full_at) > self._askers_max:
            del self._full_at[next(iter(self._full_at))]
        return max(0.0, wait_s) if wait_s > 1e-9 else 0.0
