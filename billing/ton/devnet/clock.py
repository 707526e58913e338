"""The chain's clock: the machine's, moved forward or held still when a test asks for it. It never goes back."""

from __future__ import annotations

import json
import time

ADVANCE_MAX_S = 10 * 365 * 86_400


class Clock:
    """Unix seconds: the machine's time plus an offset, or one moment that stands still."""

    def __init__(self, offset_s: int = 0, frozen_at: int | None = None) -> None:
        self.offset_s = offset_s
        self.frozen_at = frozen_at

    @classmethod
    def from_json(cls, text: bytes | None) -> Clock:
        """The clock that `to_json` described; the machine's own when there is none yet."""
        return cls(**json.loads(text)) if text else cls()

    def to_json(self) -> bytes:
        """Describe the clock, to be stored."""
        return json.dumps({"offset_s": self.offset_s, "frozen_at": self.frozen_at}).encode()

    def now(self) -> int:
        """The chain's time, in unix seconds."""
        return int(time.time()) + self.offset_s if self.frozen_at is None else self.frozen_at

    def advance(self, seconds: int) -> int:
        """Move forward and return the new time; a frozen clock stands still again there.

        Raises:
            ValueError: backwards, which no chain does, or more than ten years.
        """
        if not 0 <= seconds <= ADVANCE_MAX_S:
            raise ValueError(f"advance by {seconds} s: give 0 to {ADVANCE_MAX_S}, for a chain's time never goes back")
        if self.frozen_at is not None:
            self.frozen_at += seconds
        else:
            self.offset_s += seconds
        return self.now()

    def set(self, moment: int) -> int:
        """Move forward to a unix time and return it; raises as `advance`."""
        return self.advance(moment - self.now())

    def freeze(self) -> int:
        """Stand still from now on; returns the time."""
        self.frozen_at = self.now()
        return self.frozen_at

    def thaw(self) -> int:
        """Run on from where the clock stood; returns the time."""
        if self.frozen_at is not None:
            self.offset_s = self.frozen_at - int(time.time())
            self.frozen_at = None
        return self.now()
