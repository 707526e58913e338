"""The chain's clock: the machine's, moved forward when a test asks for it."""

from __future__ import annotations

import time

ADVANCE_MAX_S = 10 * 365 * 86_400


class Clock:
    """Unix seconds, the machine's time plus an offset that only grows."""

    def __init__(self, offset_s: int = 0) -> None:
        self.offset_s = offset_s

    def now(self) -> int:
        """The chain's time, in unix seconds."""
        return int(time.time()) + self.offset_s

    def advance(self, seconds: int) -> int:
        """Move forward and return the new time.

        Raises:
            ValueError: backwards, which no chain does, or more than ten years.
        """
        if not 0 <= seconds <= ADVANCE_MAX_S:
            raise ValueError(f"advance by {seconds} s: give 0 to {ADVANCE_MAX_S}")
        self.offset_s += seconds
        return self.now()
