"""A host in a cluster, from its evidence to its leave: joins, keeps its Ray node up, renews, and leaves nothing behind.

    challenge -> certificate and token -> Ray node -> bound --+-- certificate two thirds over: drain, the same again
                                                              +-- Ray node or enclave ended: the same again
                                                              +-- stop: drain, end the node, leave

Ray's servers read their certificate when they start (its clients read it for each connection), so a new certificate
needs a new node. Prompts do not pass through that node: the enclave goes on answering meanwhile.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from cluster.errors import (
    ClusterError,
    EnclaveUnreachableError,
    JoinRefusedError,
    NodeStartError,
    TroubleError,
)
from cluster.fleet import HostState
from cluster.join_client import Grant
from cluster.join_messages import Order

START_TIMEOUT_S = 180.0
BIND_POLL_S = 0.25
WATCH_S = 2.0
STANDING_MAX_S = 5.0  # for the answer: the node has to be watched meanwhile
STANDING_S = 60.0  # how often the owner is told what the registry makes of this host; a thousand hosts ask one head
ENCLAVE_MISSES_MAX = 5
RENEW_AFTER = 2 / 3  # of a certificate's life
RETRY_FIRST_S, RETRY_MAX_S = 2.0, 60.0
START_AGAIN_S = 10.0  # after a start of the Ray node that failed in a cluster where it had run
DRAIN_S = 60.0  # how long answers that run may take when the node is restarted, or the host leaves


class Head(Protocol):
    """The join service, see cluster.join_client.JoinClient."""

    async def challenge(self, address: str, name: str, labels: Mapping[str, str]) -> tuple[bytes, bytes]:
        """Be challenged."""
        ...

    async def certify(self, address: str, host_id: bytes, nonce: bytes) -> Grant:
        """Get certificate and token."""
        ...

    async def order(self, order: Order, host_id: bytes, *, node_name: str = "", control: str = "") -> str:
        """Bind, drain or leave."""
        ...

    async def standing(self, host_id: bytes) -> tuple[str, str]:
        """State and reason that the registry has for this host."""
        ...


class Enclave(Protocol):
    """The enclave's control socket, see cluster.enclave_client.EnclaveControl."""

    async def status(self) -> Mapping[str, Any]:
        """What it says about itself."""
        ...

    async def prepare(self) -> None:
        """Make it ready to load a model; returns at once."""
        ...


class Node(Protocol):
    """The Ray node, see cluster.join_node.JoinedNode."""

    def start(self, grant: Grant, node_name: str) -> None:
        """Start it."""
        ...

    def running(self) -> bool:
        """Whether it runs."""
        ...

    def tail(self) -> str:
        """The end of its log."""
        ...

    def stop(self) -> None:
        """End it and remove its credentials."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What this host says about itself; only the evidence behind `address` decides."""

    address: str  # IP:PORT of the enclave
    control: str  # absolute path of its control socket
    name: str
    labels: Mapping[str, str]


class Membership:
    """One host's time in the cluster."""

    def __init__(
        self,
        facts: HostFacts,
        head: Head,
        enclave: Enclave,
        node: Node,
        *,
        say: Callable[[str, Mapping[str, Any]], None],
        clock: Callable[[], datetime],
        drain_s: float = DRAIN_S,
    ) -> None:
        self._facts, self._head, self._enclave, self._node = facts, head, enclave, node
        self._say, self._clock, self._drain_s = say, clock, drain_s
        self._state = HostState.ACTIVE.value  # that the owner was told

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Join, and stay until `stop`, or until it is refused; nothing of it is left when this returns or raises.

        Args:
            stop: leave.
            hurry: do not wait for answers that run.

        Raises:
            JoinRefusedError: this host may not join, or may not stay.
            TroubleError: the first time: no answer, or the Ray node did not come up, which is tried again later on.
                Later: the enclave is gone.
        """
        grant: Grant | None = await self._ask()
        host_id, been_in = b"", False
        try:
            while grant is not None and not stop.is_set():
                host_id = grant.host_id
                grant, been_in = await self._run_node(grant, stop, hurry, patient=been_in), True
        except asyncio.CancelledError:
            hurry.set()
            raise
        finally:
            await self._leave(host_id, hurry)

    async def _run_node(
        self, grant: Grant, stop: asyncio.Event, hurry: asyncio.Event, *, patient: bool
    ) -> Grant | None:
        """One Ray node from its start to its end; returns the grant for the next one, None means stop."""
        renewed = None
        try:
            await self._start(grant, stop)
            renewed = await self._stay(grant, stop)
        except NodeStartError as error:
            if not patient:
                raise
            self._say("waiting", {"reason": str(error)})
            await asyncio.to_thread(self._node.stop)
            await _happens(stop, START_AGAIN_S)
        if stop.is_set():
            return None
        if renewed is not None:
            await self._drain(grant.host_id, hurry)
        await asyncio.to_thread(self._node.stop)
        return renewed or await self._ask_again(stop)

    async def _ask(self) -> Grant:
        facts = self._facts
        self._say("challenge", {"enclave": facts.address})
        host_id, nonce = await self._head.challenge(facts.address, facts.name, facts.labels)
        self._say("evidence holds", {"host_id": host_id.hex()})
        grant = await self._head.certify(facts.address, host_id, nonce)
        self._say("certificate", {"not_after": grant.credentials.not_after.isoformat()})
        return grant

    async def _ask_again(self, stop: asyncio.Event) -> Grant | None:
        """Join once more, and wait for a head that is away; a refusal is final, None means stop."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                return await self._ask()
            except TroubleError as error:
                self._say("waiting", {"reason": str(error)})
                if await _happens(stop, wait_s):
                    return None
                wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def _start(self, grant: Grant, stop: asyncio.Event) -> None:
        """Start the Ray node and return when the head has bound it."""
        node_name = f"{self._facts.name[:40]}-{secrets.token_hex(4)}"
        await self._prepare()  # takes as long as the node does, and waits for nothing of it
        self._node.start(grant, node_name)  # not in a thread: programs end with the thread that started them
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while not stop.is_set():
            try:
                node_id = await self._head.order(
                    Order.BIND, grant.host_id, node_name=node_name, control=self._facts.control
                )
            except TroubleError as error:
                if not self._node.running():
                    raise NodeStartError(f"the Ray node ended: {self._node.tail()[-500:]}") from None
                if loop.time() > deadline:
                    raise NodeStartError(f"no Ray node after {START_TIMEOUT_S:.0f} s ({error}): try again") from None
                await _happens(stop, BIND_POLL_S)
            else:
                self._say("joined", {"node_id": node_id, "host_id": grant.host_id.hex()})
                return

    async def _prepare(self) -> None:
        try:
            await self._enclave.prepare()
        except ClusterError as error:  # then its first model takes some seconds longer
            self._say("enclave is not prepared", {"reason": str(error)})

    async def _stay(self, grant: Grant, stop: asyncio.Event) -> Grant | None:
        """Return when `stop` is set or the node has to be started anew: with a new grant when this one runs out."""
        misses, end, loop = 0, grant.credentials.not_after, asyncio.get_running_loop()
        tell_at = loop.time() + STANDING_S
        renew_at = retry_at = self._clock() + (end - self._clock()) * RENEW_AFTER
        pause = (end - renew_at) / 20
        while not await _happens(stop, WATCH_S):
            if not self._node.running():
                self._say("node ended", {"log": self._node.tail()[-500:]})
                return None
            try:
                status = await self._enclave.status()
            except EnclaveUnreachableError:
                misses += 1
                if misses >= ENCLAVE_MISSES_MAX:
                    raise
            else:
                misses = 0
                if status.get("host_id") != grant.host_id.hex():
                    self._say("enclave is another one", {})
                    return None
            if loop.time() >= tell_at:
                await self._tell_standing(grant.host_id)
                tell_at = loop.time() + STANDING_S
            if self._clock() >= end:
                self._say("certificate ended", {})
                return None
            if self._clock() >= retry_at:
                try:
                    return await self._ask()
                except TroubleError as error:  # there is time until `end`
                    self._say("renewal waits", {"reason": str(error)})
                    retry_at = self._clock() + pause
        return None

    async def _tell_standing(self, host_id: bytes) -> None:
        """Say a change of what the registry makes of this host. It ends nothing: a quarantine may be lifted."""
        try:
            async with asyncio.timeout(STANDING_MAX_S):
                state, reason = await self._head.standing(host_id)
        except JoinRefusedError as error:
            state, reason = error.code, str(error)
        except (ClusterError, TimeoutError):  # a head that is away says nothing new
            return
        if state != self._state:
            self._state = state
            self._say("standing", {"state": state, "reason": reason})

    async def _drain(self, host_id: bytes, hurry: asyncio.Event) -> None:
        """Ask for no more work, and wait until the answers that run have ended, for `drain_s` at most."""
        if not await self._tell(Order.DRAIN, host_id):
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain_s
        while loop.time() < deadline and not hurry.is_set():
            try:
                status = await self._enclave.status()
            except ClusterError:
                return
            if not status.get("running") and not status.get("waiting"):
                return
            await _happens(hurry, 0.2)

    async def _leave(self, host_id: bytes, hurry: asyncio.Event) -> None:
        try:
            await self._drain(host_id, hurry)
        finally:
            await asyncio.to_thread(self._node.stop)
            await self._tell(Order.LEAVE, host_id)
            self._say("left", {"host_id": host_id.hex()})

    async def _tell(self, order: Order, host_id: bytes) -> bool:
        """Whether the head took the order; a host that leaves does so in any case."""
        try:
            await self._head.order(order, host_id)
        except ClusterError as error:
            self._say(f"{order} was not taken", {"reason": str(error)})
            return False
        return True


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), within_s)
    except TimeoutError:
        return False
    return True
