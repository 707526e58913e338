"""What can go wrong between a client and the chain, on request: each fault spoils the next sent messages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

FAULTS_MAX = 10_000
DELAY_MAX_S = 3600.0


class FaultKind(StrEnum):
    """How a sent message is mistreated."""

    DROP = "drop"  # acknowledged, never executed
    DELAY = "delay"  # acknowledged, executed later
    REJECT = "reject"  # answered with an error, not executed
    DUPLICATE = "duplicate"  # executed, then presented to the chain once more
    LOSE_ANSWER = "lose-answer"  # executed, but the connection ends before the answer
    FORGE_STATE = "forge-state"  # the next account states are altered under their genuine proofs


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault; `delay_s` is for DELAY only."""

    kind: FaultKind
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.delay_s <= DELAY_MAX_S:
            raise ValueError(f"delay of {self.delay_s} s: give 0 to {DELAY_MAX_S}")
        if self.delay_s and self.kind is not FaultKind.DELAY:
            raise ValueError(f"{self.kind} takes no delay")


class FaultPlan:
    """Faults waiting for their message, first in first out; forged states wait apart from sends."""

    def __init__(self) -> None:
        self._sends: deque[Fault] = deque()
        self._forgeries = 0

    def inject(self, fault: Fault, count: int = 1) -> None:
        """Let the next `count` sends (or account states) suffer this fault."""
        if not 1 <= count <= FAULTS_MAX - len(self._sends):
            raise ValueError(f"{count} faults: give 1 to {FAULTS_MAX - len(self._sends)}")
        if fault.kind is FaultKind.FORGE_STATE:
            self._forgeries += count
        else:
            self._sends.extend([fault] * count)

    def clear(self) -> None:
        """Forget all faults not yet used."""
        self._sends.clear()
        self._forgeries = 0

    @property
    def waiting(self) -> int:
        """Faults not yet used."""
        return len(self._sends) + self._forgeries

    def next_send(self) -> Fault | None:
        """Take the fault for this send, if one waits."""
        return self._sends.popleft() if self._sends else None

    def next_forgery(self) -> bool:
        """Say whether this account state is to be forged."""
        if not self._forgeries:
            return False
        self._forgeries -= 1
        return True
