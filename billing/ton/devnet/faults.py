"""What can go wrong between a client and the chain, on request: each fault spoils the next query of its target."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

FAULTS_MAX = 10_000
DELAY_MAX_S = 3600.0


class FaultKind(StrEnum):
    """How a query is mistreated."""

    DROP = "drop"  # a sent message is acknowledged, never executed
    DELAY = "delay"  # acknowledged, executed later
    REORDER = "reorder"  # acknowledged, executed after the next message that is sent
    REJECT = "reject"  # answered with an error, not executed
    DUPLICATE = "duplicate"  # executed, then presented to the chain once more
    LOSE_ANSWER = "lose-answer"  # executed, but the connection ends before the answer
    STALL = "stall"  # any query: no answer while the connection stays open; with a delay, a late answer
    DISCONNECT = "disconnect"  # any query: the connection ends in place of an answer, and nothing is executed
    FORGE_STATE = "forge-state"  # an account's state is altered under its genuine proof
    WRONG_PROOF = "wrong-proof"  # an account's state comes with the proof of an older block
    OLD_BLOCK = "old-block"  # the oldest block whose state is kept is called the newest
    FOREIGN_NETWORK = "foreign-network"  # a block of another network is called the newest
    INVENTED_CHAIN = "invented-chain"  # a block with made-up accounts, which no validator signed, is called the newest

    @property
    def target(self) -> Target:
        """The queries that a fault of this kind waits for."""
        return _TARGETS.get(self, Target.SEND)


class Target(Enum):
    """Which queries a fault waits for."""

    SEND = auto()  # sendMessage
    QUERY = auto()  # any
    STATE = auto()  # getAccountState
    HEAD = auto()  # getMasterchainInfo


_TARGETS = {
    **dict.fromkeys((FaultKind.STALL, FaultKind.DISCONNECT), Target.QUERY),
    **dict.fromkeys((FaultKind.FORGE_STATE, FaultKind.WRONG_PROOF), Target.STATE),
    **dict.fromkeys((FaultKind.OLD_BLOCK, FaultKind.FOREIGN_NETWORK, FaultKind.INVENTED_CHAIN), Target.HEAD),
}
_TIMED = (FaultKind.DELAY, FaultKind.STALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault; `delay_s` is for DELAY and STALL only."""

    kind: FaultKind
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.delay_s <= DELAY_MAX_S:
            raise ValueError(f"delay of {self.delay_s} s: give 0 to {DELAY_MAX_S}")
        if self.delay_s and self.kind not in _TIMED:
            raise ValueError(f"{self.kind} takes no delay: only {' and '.join(_TIMED)} do")


class FaultPlan:
    """Faults waiting for their query, first in first out for each target."""

    def __init__(self) -> None:
        self._waiting: dict[Target, deque[Fault]] = {target: deque() for target in Target}

    def inject(self, fault: Fault, count: int = 1) -> None:
        """Let the next `count` queries of the fault's target suffer it."""
        if not 1 <= count <= FAULTS_MAX - self.waiting:
            raise ValueError(f"{count} faults: give 1 to {FAULTS_MAX - self.waiting}")
        self._waiting[fault.kind.target].extend([fault] * count)

    def clear(self) -> None:
        """Forget all faults not yet used."""
        for waiting in self._waiting.values():
            waiting.clear()

    @property
    def waiting(self) -> int:
        """Faults not yet used."""
        return sum(map(len, self._waiting.values()))

    def counts(self) -> dict[str, int]:
        """Faults not yet used, by kind."""
        return dict(Counter(str(fault.kind) for waiting in self._waiting.values() for fault in waiting))

    def take(self, target: Target) -> Fault | None:
        """Take the fault for this query, if one waits."""
        waiting = self._waiting[target]
        return waiting.popleft() if waiting else None
