"""What a fault did to the requests of that time. Pure: times are seconds of one monotonic clock."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

SILENCE_S = 2.0  # no answer at all for this long counts as an outage


class Outcome(StrEnum):
    """How a request ended for the application that made it."""

    ANSWERED = "answered"
    CUT = "cut"  # it had reached a host, and its answer did not end: not asked again
    LOST = "lost"  # refused for a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    number: int  # counts up from 0 in the order of `sent`
    sent: float
    ended: float
    outcome: Outcome
    failures: tuple[float, ...]  # when an attempt failed
    code: str = ""  # of the last failure

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One fault: when it happened, when the part was whole again, when the next one may come."""

    fault: str
    began: float
    whole: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one fault did."""

    fault: str
    recovery_s: float  # until the first answer after the last failure or silence; 0: nobody noticed
    silence_s: float  # longest time without any answer
    whole_s: float  # until the part did its work again
    answered: int
    again: int  # answered, but not at the first attempt
    cut: int
    lost: int
    codes: dict[str, int]
    load: float = 0.0  # of the machine when the part was whole again, average of one minute


def read_asked(path: Path) -> list[Asked]:
    """The lines of a load; the last one may still be half written."""
    found = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            fields = json.loads(line)
            fields["outcome"], fields["failures"] = Outcome(fields["outcome"]), tuple(fields["failures"])
            found.append(Asked(**fields))
    return found


def all_ended(asked: Sequence[Asked], until: float) -> bool:
    """Whether every request that was sent before `until` has its end among these."""
    later = [one.number for one in asked if one.sent >= until]
    return bool(later) and sum(one.number < min(later) for one in asked) == min(later)


def effect_of(window: Window, asked: Iterable[Asked], *, load: float = 0.0) -> Effect:
    """What happened to the requests that were under way or began in this window."""
    mine = [one for one in asked if one.ended >= window.began and one.sent < window.ended]
    ends = sorted(one.ended for one in mine if one.outcome is Outcome.ANSWERED and one.ended < window.ended)
    silences = list(pairwise((window.began, *ends, window.ended)))
    troubles = [at for one in mine for at in one.failures if window.began <= at < window.ended]
    troubles += [after for before, after in silences if after - before > SILENCE_S]
    last = max(troubles, default=None)
    back = window.began if last is None else min((end for end in ends if end >= last), default=window.ended)
    return Effect(
        fault=window.fault,
        recovery_s=back - window.began,
        silence_s=max(after - before for before, after in silences),
        whole_s=window.whole - window.began,
        answered=sum(one.outcome is Outcome.ANSWERED for one in mine),
        again=sum(one.outcome is Outcome.ANSWERED and bool(one.failures) for one in mine),
        cut=sum(one.outcome is Outcome.CUT for one in mine),
        lost=sum(one.outcome is Outcome.LOST for one in mine),
        codes=dict(Counter(one.code for one in mine if one.code)),
        load=load,
    )


COLUMNS = (
    "fault",
    "times",
    "answers again after",
    "longest silence",
    "part whole after",
    "answered",
    "of these asked again",
    "cut",
    "lost",
    "machine's load",
)


def rows(effects: Sequence[Effect]) -> list[tuple[str, ...]]:
    """One row a fault: medians (and the worst) of the times, sums of the counts."""
    found = []
    for fault in dict.fromkeys(effect.fault for effect in effects):
        some = [effect for effect in effects if effect.fault == fault]
        loads = [round(effect.load) for effect in some]
        found.append(
            (
                fault,
                str(len(some)),
                _seconds([effect.recovery_s for effect in some]),
                _seconds([effect.silence_s for effect in some]),
                _seconds([effect.whole_s for effect in some]),
                *(str(sum(getattr(effect, name) for effect in some)) for name in ("answered", "again", "cut", "lost")),
                "-".join(f"{load:.0f}" for load in sorted({min(loads), max(loads)})),
            )
        )
    return found


def table(effects: Sequence[Effect]) -> str:
    """A Markdown table."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows(effects)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _seconds(values: Sequence[float]) -> str:
    worst = f" (most {max(values):.1f})" if len(values) > 1 else ""
    return f"{median(values):.1f} s{worst}"
