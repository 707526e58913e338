"""The next lease of each model, taken in the background while the present one goes on, and kept until that is used up.

So a gateway that is away for the rest of a lease is missed by nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from attestation.sealing import Random
from client.errors import ClientError
from client.lease import LeaseOffer

PAUSE_S, PAUSE_MAX_S = 2.0, 30.0  # after the first refusal, at most; twice as long after each further one
_JITTER_BYTES = 4
_log = logging.getLogger(__name__)

Take = Callable[[], Awaitable[LeaseOffer]]
Taken = tuple[LeaseOffer, datetime]  # and when


@dataclass(slots=True)
class _Next:
    """How far the next lease of a model is."""

    task: asyncio.Task[None] | None = None
    taken: Taken | None = None
    failures: int = 0  # in a row
    not_before: datetime | None = None


class LeasesAhead:
    """At most one lease a model; each holds its budget, as any other."""

    def __init__(self, *, clock: Callable[[], datetime], random: Random, background: set[asyncio.Task[None]]) -> None:
        """`background` gets the tasks: whoever closes the transport cancels them first."""
        self._clock, self._random, self._background = clock, random, background
        self._next: defaultdict[str, _Next] = defaultdict(_Next)

    def begin(self, model: str, take: Take, *, is_fresh: Callable[[LeaseOffer], bool]) -> None:
        """Have `take` called, unless a fresh lease is there, one is under way, or it was refused a moment ago."""
        ahead = self._next[model]
        if ahead.task is not None or (ahead.taken is not None and is_fresh(ahead.taken[0])):
            return
        if ahead.not_before is not None and self._clock() < ahead.not_before:
            return
        ahead.task = asyncio.create_task(self._take(ahead, take))
        self._background.add(ahead.task)
        ahead.task.add_done_callback(self._done)

    async def pop(self, model: str, *, is_fresh: Callable[[LeaseOffer], bool]) -> Taken | None:
        """Return the lease taken in advance, waited for if it is under way; None when there is no fresh one."""
        ahead = self._next[model]
        if ahead.task is not None:
            await asyncio.wait({ahead.task})
        taken, ahead.taken = ahead.taken, None
        return taken if taken is not None and is_fresh(taken[0]) else None

    async def _take(self, ahead: _Next, take: Take) -> None:
        try:
            ahead.taken = await take(), self._clock()
            ahead.failures, ahead.not_before = 0, None
        except ClientError as error:
            ahead.not_before = self._clock() + timedelta(seconds=self._pause_s(ahead.failures))
            ahead.failures += 1
            _log.warning("no lease is given in advance, the present one goes on: %s", error)
        finally:
            ahead.task = None

    def _pause_s(self, failures: int) -> float:
        """Full jitter: clients that were refused together do not come back together."""
        most = min(PAUSE_S * float(1 << min(failures, 16)), PAUSE_MAX_S)
        return most * int.from_bytes(self._random(_JITTER_BYTES)) / (1 << 8 * _JITTER_BYTES)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("taking a lease in advance failed: %s", type(error).__name__)
