"""Health rounds: one look at every host each second, how its requests ended, and what time alone changes."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from cluster.challenges import Challenges
from cluster.enclave_client import EnclaveControlError, EnclaveGate
from cluster.errors import EnclaveSilentError, EnclaveUnreachableError, TroubleError
from cluster.fleet import ROUTED, WATCHED, HostRecord
from cluster.host_state import HealthMissed, HealthSeen, Rated, Tick, sole_models
from cluster.host_table import HostTable, Routes
from cluster.lateness import Lateness
from cluster.model import Load
from cluster.reputation import NO_COUNTS, RatingFile

PERIOD_S = 1.0
LATE_S = 0.3  # a third of a health check's time: who comes so late himself cannot tell who is silent
LATE_ROUNDS_MAX = 10  # in a row; afterwards silence counts whoever is late
_log = logging.getLogger(__name__)


class HealthRounds:
    """Watches every host that is not at an end."""

    def __init__(
        self,
        table: HostTable,
        challenges: Challenges,
        *,
        gate: EnclaveGate,
        routes: Routes,
        ratings: RatingFile,
        clock: Callable[[], datetime],
        lateness: Callable[[], float] | None,
    ) -> None:
        self._table, self._challenges, self._gate, self._routes = table, challenges, gate, routes
        self._clock = clock
        self._lateness = Lateness()
        self._take_lateness = lateness or self._lateness.take
        self._late_rounds = 0
        self._rating_file, self._ratings = ratings, ratings.load()

    async def run(self) -> None:
        """Rounds, one a second, until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lateness.run())
            while True:
                began = loop.time()
                await self.round()
                await asyncio.sleep(max(0.0, PERIOD_S - (loop.time() - began)))

    async def round(self) -> None:
        """One health check of every host that is not at an end, and what follows from it."""
        self._take_lateness()  # between the rounds it does not matter
        checked = self._table.current(*WATCHED)
        silences = await asyncio.gather(*(self._check(record) for record in checked))
        pairs = zip(checked, silences, strict=True)
        await self._note_silent([(record, missed) for record, missed in pairs if missed is not None])
        await self._rate()
        self._challenges.reappraise()
        await self._tick()
        await self._table.sync_routes()  # a relay that restarted has forgotten everything

    async def count_job(self, record: HostRecord, *, ok: bool) -> None:
        """Count how a job on this host ended for its reputation."""
        standing = self._ratings.count_job(record, ok=ok, now=self._clock())
        await self._table.apply(record.address, Rated(standing=standing))

    async def _check(self, record: HostRecord) -> HealthMissed | None:
        """Ask once and note the answer; returns a silence, which is not noted yet."""
        try:
            health = await self._gate.fetch_health(record.address)
            load, answering = Load.from_health(health), health.get("host_id")
        except EnclaveSilentError as error:
            return HealthMissed(reason=str(error), at=self._clock())
        except (EnclaveUnreachableError, EnclaveControlError, ValueError) as error:
            await self._table.note(record, HealthMissed(reason=str(error), at=self._clock()))
            return None
        if record.host_id is None or answering != record.host_id.hex():
            await self._table.note(record, HealthMissed(reason="another enclave answers", at=self._clock()))
            self._challenges.renew_soon(record.address)
            return None
        await self._table.note(record, HealthSeen(load=load, at=self._clock()))
        return None

    async def _note_silent(self, silent: Sequence[tuple[HostRecord, HealthMissed]]) -> None:
        """Count silences, unless this process was too late itself to hear."""
        late_s = self._take_lateness()
        self._late_rounds = self._late_rounds + 1 if late_s > LATE_S else 0
        if silent and 0 < self._late_rounds <= LATE_ROUNDS_MAX:
            _log.warning("%d hosts were not heard, and this process came %.1f s late: not counted", len(silent), late_s)
            return
        for record, missed in silent:
            await self._table.note(record, missed)

    async def _rate(self) -> None:
        """Measure what became of the requests; a relay that does not answer is asked again in the next round."""
        try:
            outcomes = await self._routes.outcomes()
        except TroubleError as error:
            _log.warning("the relay did not say what became of requests: %s", error)
            return
        now = self._clock()
        for record in self._table.current(*ROUTED):
            standing = self._ratings.observe(record, outcomes.get(record.host_id or b"", NO_COUNTS), now=now)
            if standing != record.standing:
                await self._table.apply(record.address, Rated(standing=standing))
        self._ratings.forget_others({record.host_id for record in self._table.present() if record.host_id})
        self._rating_file.save(self._ratings, now=now)

    async def _tick(self) -> None:
        for record in self._table.current(*WATCHED):
            if self._table.at(record.address) is None:  # it moved while the relay heard of the one before it
                continue
            now = self._clock()
            begins = record.window is not None and record.window.covers(now)
            sole = sole_models(record, self._table.present()) if begins else frozenset[bytes]()
            await self._table.apply(record.address, Tick(at=now, sole=sole))
