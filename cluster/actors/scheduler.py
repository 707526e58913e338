"""The scheduler as an actor: decides from the registry's latest snapshot. All rules live in the pure modules."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import ray

from cluster.actors.handles import REGISTRY, find
from cluster.errors import JobCancelledError
from cluster.explain import DecisionLog, describe_row, explain_host
from cluster.fleet import FleetSnapshot
from cluster.job_queue import Job, JobQueue
from cluster.model import Decision, JobRequirement, Placement
from cluster.placement import ModelDemand, ModelPlan, Replica, plan_models, replicas_seen
from cluster.scheduler import place

RETRY_S = 0.5
EXPIRE_PERIOD_S = 1.0
_log = logging.getLogger(__name__)


class SchedulerActor:
    """Places models and jobs by attested capability. No request waits for it: gateways decide from snapshots.

    A restart loses the queue and the plan, not the truth: callers of `place_job` ask again (Ray repeats the call), what
    runs is told by `adopt`, and the models that are loaded stand in the snapshot.
    """

    async def __init__(self) -> None:  # type: ignore[misc]  # Ray awaits it
        self._fleet: FleetSnapshot = await find(REGISTRY).snapshot.remote()
        self._queue = JobQueue()
        self._decisions = DecisionLog()
        self._replicas: tuple[Replica, ...] | None = None  # None until the first plan after a start
        self._callers: dict[bytes, asyncio.Future[Placement]] = {}
        self._loops = [
            asyncio.create_task(follow_fleet(self._take, version=self._fleet.version)),
            asyncio.create_task(self._expire_for_ever()),
        ]

    async def ready(self) -> int:
        """Returns (the snapshot's version) once there is one."""
        self._check_loops()
        return self._fleet.version

    async def place(self, requirement: JobRequirement, salt: bytes = b"") -> Decision:
        """Up to `requirement.hosts` placements, and for every other host the rule it lost."""
        now = datetime.now(UTC)
        decision = place(requirement, self._fleet, now=now, salt=salt)
        self._decisions.add("placed by requirement", requirement, _ids(decision.placements), now=now)
        return decision

    async def plan_models(
        self, demands: Sequence[ModelDemand], retired: frozenset[bytes] = frozenset(), dry: bool = False
    ) -> ModelPlan:
        """Where models should be, see cluster.placement; the plan counts as carried out, unless it is `dry`."""
        now = datetime.now(UTC)
        present = self._replicas if self._replicas is not None else replicas_seen(demands, self._fleet, now=now)
        old = {replica.claim for replica in present}
        jobs = [claim for name, claim in self._queue.slots.claims.items() if name not in old]
        plan = plan_models(demands, present, self._fleet, now=now, jobs=jobs, retired=retired)
        if dry:
            return plan
        changed = plan.load or plan.unload
        self._replicas = plan.replicas
        self._queue.hold_replicas(old, plan.replicas)
        for demand in demands if changed else ():
            chosen = {replica.host_id for replica in plan.replicas if replica.model == demand.model}
            self._decisions.add(f"planned model {demand.model.hex()[:16]}", demand.requirement, chosen, now=now)
        self._dispatch()
        return plan

    async def place_job(self, job: Job) -> Placement:
        """Wait until a job has its place, which it keeps until `finish_job`; asked again, the same place.

        Raises:
            NoEligibleHostError: no host can take it; it says which rule each lost.
            QueueTimeoutError: it waited as long as it wanted.
            QueueFullError: too many jobs wait.
            JobCancelledError: it was taken back.
        """
        placed = self._queue.placement(job.job_id, self._fleet)
        if placed is not None:
            return placed
        caller = self._callers.get(job.job_id)
        if caller is None:
            self._queue.submit(job, now=datetime.now(UTC))
            caller = self._callers[job.job_id] = asyncio.get_running_loop().create_future()
            self._dispatch()
        return await asyncio.shield(caller)

    async def finish_job(self, job_id: bytes, ok: bool = True) -> bool:
        """Free a job's slots, and count for its host's reputation how it ended; False when none ran."""
        claim = self._queue.slots.claims.get(job_id)
        ended = self._queue.finish(job_id)
        if claim is not None:
            await find(REGISTRY).count_job.remote(claim.host_id, ok)
        self._dispatch()
        return ended

    async def cancel_job(self, job_id: bytes) -> bool:
        """Forget a job that waits, or free the slots of one that runs; False when there is none."""
        caller = self._callers.pop(job_id, None)
        if caller is not None:
            caller.set_exception(JobCancelledError(f"job {job_id.hex()} was cancelled while it waited"))
        cancelled = self._queue.cancel(job_id)
        self._dispatch()
        return cancelled

    async def adopt(self, job: Job, host_id: bytes) -> bool:
        """Note, after a restart, that a job runs on a host; False when there is no room for it there."""
        return self._queue.adopt(job, host_id, fleet=self._fleet)

    async def hosts(self) -> list[dict[str, Any]]:
        """Every host with its state and share of traffic, as JSON."""
        return [describe_row(host) for host in self._fleet.hosts]

    async def explain(self, name: str) -> dict[str, Any] | None:
        """Why a host (id in hex, name or address) gets what it gets, or where a job (id in hex) is; None: unknown."""
        now = datetime.now(UTC)
        told = explain_host(self._fleet, name, self._decisions, now=now)
        if told is not None:
            return told
        try:
            words = self._queue.explain(bytes.fromhex(name), now=now)
        except ValueError:
            return None
        return {"job_id": name, "explanation": words} if words else None

    def _take(self, fleet: FleetSnapshot) -> None:
        self._fleet = fleet
        self._dispatch()

    def _dispatch(self) -> None:
        now = datetime.now(UTC)
        for started in self._queue.dispatch(self._fleet, now=now):
            job = started.job
            self._decisions.add(f"started job {job.job_id.hex()}", job.requirement, _ids([started.placement]), now=now)
            caller = self._callers.pop(job.job_id, None)
            if caller is not None and not caller.done():
                caller.set_result(started.placement)

    async def _expire_for_ever(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_PERIOD_S)
            for failed in self._queue.expire(self._fleet, now=datetime.now(UTC)):
                caller = self._callers.pop(failed.job.job_id, None)
                if caller is not None and not caller.done():
                    caller.set_exception(failed.error)
            self._dispatch()

    def _check_loops(self) -> None:
        """A loop that died must not look like a scheduler without work."""
        for loop in self._loops:
            if loop.done():
                loop.result()
                raise RuntimeError("a loop of the scheduler ended")


def _ids(placements: Sequence[Placement]) -> list[bytes]:
    return [placement.host_id for placement in placements]


async def follow_fleet(take: Callable[[FleetSnapshot], None], *, version: int = -1) -> None:
    """Call `take` with every new snapshot, for ever; a registry that restarts is waited for."""
    while True:
        try:
            fleet: FleetSnapshot = await find(REGISTRY).wait_snapshot.remote(version)
        except (ValueError, ray.exceptions.RayError) as error:
            _log.warning("no snapshot of the fleet (%s); the last one stays", type(error).__name__)
            await asyncio.sleep(RETRY_S)
            continue
        if fleet.version != version:
            version = fleet.version
            take(fleet)
