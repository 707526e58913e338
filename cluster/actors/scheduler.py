"""The scheduler as an actor: answers from the registry's latest snapshot. All rules live in cluster.scheduler."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import ray

from cluster.actors.handles import REGISTRY, find
from cluster.fleet import FleetSnapshot
from cluster.model import Decision, JobRequirement
from cluster.scheduler import place

RETRY_S = 0.5
_log = logging.getLogger(__name__)


class SchedulerActor:
    """Places jobs by attested capability. Its only state is the snapshot, fetched anew after a restart."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Ray awaits it
        self._fleet: FleetSnapshot = await find(REGISTRY).snapshot.remote()
        self._following = asyncio.create_task(follow_fleet(self._take, version=self._fleet.version))

    async def ready(self) -> int:
        """Returns (the snapshot's version) once there is one."""
        return self._fleet.version

    async def place(self, requirement: JobRequirement, salt: bytes = b"") -> Decision:
        """Up to `requirement.hosts` placements, and for every other host the rule it lost."""
        return place(requirement, self._fleet, now=datetime.now(UTC), salt=salt)

    def _take(self, fleet: FleetSnapshot) -> None:
        self._fleet = fleet


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
