"""When refused callers should come back: spread out, so that their retries do not keep an account at its rate.

An OpenAI SDK waits exactly as long as `retry-after-ms` says; told the same time, all would come back together.
"""

from __future__ import annotations

from collections.abc import Callable

from attestation.sealing import Random

PER_S = 50  # come back in a second, beside new requests
PAUSE_MAX_S = 8.0  # as the SDK's own
_JITTER_BYTES = 4


class Comebacks:
    """Gives each refused caller a time of its own, 1 / PER_S after the one before, at most PAUSE_MAX_S from now."""

    def __init__(self, *, clock_s: Callable[[], float], random: Random) -> None:
        """`clock_s` gives seconds that never go back."""
        self._clock_s, self._random = clock_s, random
        self._last_s = 0.0

    def pause_ms(self, least_ms: int) -> int:
        """How long this caller should wait, milliseconds: `least_ms` or more, more the more are waiting."""
        now = self._clock_s()
        at = max(now + least_ms / 1000, self._last_s + 1 / PER_S)
        if at <= now + PAUSE_MAX_S:
            self._last_s = at
            return round((at - now) * 1000)
        jitter = int.from_bytes(self._random(_JITTER_BYTES)) / (1 << 8 * _JITTER_BYTES)
        return round(PAUSE_MAX_S * (1 + jitter) / 2 * 1000)  # the line is full: somewhere in the later half of it
