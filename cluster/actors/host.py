"""One actor for each host, on the Ray node beside its enclave: binds the two, and carries receipts to billing."""

import asyncio
import logging
from pathlib import Path

import ray

from cluster.actors.handles import BILLING, REGISTRY, find
from cluster.cashier import POST_MAX, Posted
from cluster.enclave_client import EnclaveControl
from cluster.errors import ClusterError

PERIOD_S = 0.5
TROUBLE_S = 2.0
_log = logging.getLogger(__name__)


class HostActor:
    """Carries signed bytes and reads none. Stateless: the enclave keeps each receipt until it is acknowledged."""

    async def __init__(self, host_id: bytes, control: str) -> None:  # type: ignore[misc]  # Ray awaits it
        self._host_id = host_id
        self._node_id: str = ray.get_runtime_context().get_node_id()
        self._control = EnclaveControl(Path(control))
        self._posted = self._refused = 0
        self._collecting_now = asyncio.Lock()
        await self._keep_bound()
        self._collecting = asyncio.create_task(self._collect_for_ever())

    async def ready(self) -> str:
        """Returns (this node's id) once the host is bound to it."""
        return self._node_id

    async def unload(self, model_root: bytes, notice_s: int = 0) -> None:
        """Have the enclave end a model; returns once the answers that ran have ended, with a notice at once."""
        await self._control.unload(model_root, notice_s=notice_s)

    async def collect(self) -> int:
        """Carry over every receipt there is now; returns how many."""
        async with self._collecting_now:
            count = 0
            while batch := await self._collect_batch():
                count += batch
            return count

    async def counts(self) -> tuple[int, int]:
        """Receipts that billing took and refused since this actor started."""
        return self._posted, self._refused

    async def _keep_bound(self) -> None:
        """Bind this node to the enclave instance that runs beside it, unless the registry knows."""
        status = await self._control.status()
        self._host_id = bytes.fromhex(status["host_id"])  # a restarted enclave is another host
        registry = find(REGISTRY)
        if await registry.node_of.remote(self._host_id) == self._node_id:
            return
        challenge = await registry.challenge_node.remote(self._host_id, self._node_id)
        proof = await self._control.prove(challenge)
        await registry.bind_node.remote(self._host_id, self._node_id, proof)

    async def _collect_for_ever(self) -> None:
        while True:
            try:
                await self.collect()
                await self._keep_bound()
                await asyncio.sleep(PERIOD_S)
            except (ClusterError, ValueError, KeyError, ray.exceptions.RayError) as error:
                _log.warning("host %s waits: %s", self._host_id.hex(), error)
                await asyncio.sleep(TROUBLE_S)

    async def _collect_batch(self) -> int:
        """One batch: fetch, post, acknowledge. Killed in between, it is posted again, which changes nothing."""
        pending = await self._control.receipts(after=0, limit=POST_MAX)
        if not pending:
            return 0
        results: tuple[Posted, ...] = await find(BILLING).post.remote([receipt.signed for receipt in pending])
        refused = [result.reason for result in results if not result.accepted]
        self._posted += len(results) - len(refused)
        self._refused += len(refused)
        for reason in refused:
            _log.warning("billing refused a receipt of host %s: %s", self._host_id.hex(), reason)
        await self._control.acknowledge(max(receipt.seq for receipt in pending))
        return len(pending)
