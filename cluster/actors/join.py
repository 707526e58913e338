"""The join service as an actor on the head: an HTTPS server for hosts, in front of cluster.join_desk.

It also ends the Ray nodes of those that joined and are out again, see cluster.node_watch.
"""

import asyncio
import logging
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import common_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from cluster.actors.handles import REGISTRY, end_host, find, start_host
from cluster.admission import Admission
from cluster.certificates import JOINING_CERTIFICATE, JOINING_KEY, Authority, read_pin
from cluster.config import NetworkConfig
from cluster.errors import ClusterError, ConfigError, RefusedError, TroubleError
from cluster.fleet import FleetSnapshot, HostRecord, Window
from cluster.join_desk import FoundNode, Issuing, JoinDesk
from cluster.join_messages import SHARED_SETTINGS
from cluster.join_server import JoinServer
from cluster.joined_addresses import FILE, JoinedAddresses
from cluster.model import HostHints
from cluster.node_watch import AliveNode, NodeWatch, Unwanted
from cluster.ray_nodes import alive_nodes

CALL_TIMEOUT_S = 60.0
WATCH_S = 2.0
_log = logging.getLogger(__name__)


class RegistryMembers:
    """The registry actor, found by name at each call."""

    async def examine(self, address: str, hints: HostHints) -> Admission:
        """See cluster.join_desk.Members."""
        admission: Admission = await _ask("examine", address, hints)
        return admission

    async def take_in(self, host_id: bytes, address: str) -> Admission | None:
        """See cluster.join_desk.Members."""
        admission: Admission | None = await _ask("take_in", host_id, address)
        return admission

    async def routed(self, host_id: bytes) -> HostRecord | None:
        """See cluster.join_desk.Members."""
        record: HostRecord | None = await _ask("routed", host_id)
        return record

    async def records(self, host_id: bytes) -> tuple[HostRecord, ...]:
        """See cluster.join_desk.Members."""
        records: tuple[HostRecord, ...] = await _ask("records", host_id)
        return records

    async def plan(self, host_id: bytes, window: Window | None) -> HostRecord:
        """See cluster.join_desk.Members."""
        record: HostRecord = await _ask("plan", host_id, window)
        return record

    async def leave(self, host_id: bytes, reason: str) -> None:
        """See cluster.join_desk.Members."""
        await _ask("leave", host_id, reason)

    async def hosts(self) -> tuple[HostRecord, ...]:
        """Every record of the registry."""
        snapshot: FleetSnapshot = await _ask("snapshot")
        return snapshot.hosts


class RayNodes:
    """Ray, as this actor sees it."""

    async def find(self, name: str, ip: str) -> FoundNode | None:
        """See cluster.join_desk.Nodes."""
        for node in await asyncio.to_thread(alive_nodes):
            if (node["NodeName"], node["NodeManagerAddress"]) == (name, ip):
                return FoundNode(node_id=node["NodeID"], labels=node["Labels"])
        return None

    async def bind(self, host_id: bytes, node_id: str, control: str) -> None:
        """See cluster.join_desk.Nodes."""
        try:
            await asyncio.to_thread(start_host, host_id, node_id=node_id, control=Path(control))
        except ray.exceptions.RayError as error:
            raise TroubleError(f"the host's actor did not start: {type(error).__name__}") from error

    async def release(self, host_id: bytes) -> None:
        """See cluster.join_desk.Nodes."""
        await asyncio.to_thread(end_host, host_id)

    async def alive(self) -> tuple[AliveNode, ...]:
        """All nodes that are alive."""
        nodes = await asyncio.to_thread(alive_nodes)
        return tuple(AliveNode(node_id=node["NodeID"], ip=node["NodeManagerAddress"]) for node in nodes)

    async def end(self, node: Unwanted) -> None:
        """Take a node out of Ray's table at once: its actors are dead, its raylet ends when it hears of it."""
        await asyncio.to_thread(_unregister, node.node_id, node.reason)
        if node.host_id is not None:
            await self.release(node.host_id)


class JoinActor:
    """Serves hosts that join. Keeps nothing: a host whose join was cut off begins anew."""

    async def __init__(self, config_path: str) -> None:  # type: ignore[misc]  # Ray awaits it
        config = NetworkConfig.load(Path(config_path))
        settings, joined = config.joining, JoinedAddresses(config.state / FILE)
        if settings is None:
            raise ConfigError("the settings have no `joining`")
        ca, certificate, key, token = _own_files()
        folder = settings.authority
        pin = read_pin(folder)
        if pin != read_pin(ca.parent):
            raise ConfigError(f"{folder} is of another CA than {ca}: run `chrysalis cluster certs`")
        issuing = Issuing(
            authority=lambda: Authority.load(folder, JOINING_CERTIFICATE, JOINING_KEY),
            token=lambda: token.read_text().strip(),
            life=settings.life,
            ray_address=ray.get_runtime_context().gcs_address,
            settings={name: value for name in sorted(SHARED_SETTINGS) if (value := os.environ.get(name))},
            note=lambda ip, now, end: joined.note(ip, now=now, end=end),
        )
        issuing.authority()  # a mistake in the folder is for the operator to see, now
        members, nodes = RegistryMembers(), RayNodes()
        desk = JoinDesk(
            members,
            nodes,
            issuing,
            pin=bytes.fromhex(pin),
            clock=lambda: datetime.now(UTC),
            random=secrets.token_bytes,
        )
        self._pin = pin
        self._server = JoinServer(desk, ca=ca, certificate=certificate, key=key)
        self._address = await self._server.listen(str(settings.listen.ip), settings.listen.port)
        self._watching = asyncio.create_task(_watch(members, nodes, joined))

    async def ready(self) -> tuple[str, str]:
        """Returns (IP:PORT, the pin) once it listens."""
        if self._watching.done():
            self._watching.result()
        return f"{self._address[0]}:{self._address[1]}", self._pin


async def _watch(members: RegistryMembers, nodes: RayNodes, joined: JoinedAddresses) -> None:
    """End nodes of hosts that are out, for ever; while registry or Ray do not answer, nothing is ended."""
    watch = NodeWatch(began=datetime.now(UTC))
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            now = datetime.now(UTC)
            for node in watch.judge(await nodes.alive(), await members.hosts(), joined.current(now), now=now):
                _log.warning("the Ray node %s at %s is ended: %s", node.node_id, node.ip, node.reason)
                await nodes.end(node)
        except (ClusterError, ray.exceptions.RayError, grpc.RpcError) as error:
            _log.warning("Ray nodes were not looked at: %s", error)


def _unregister(node_id: str, reason: str) -> None:
    """What a raylet that ends says to the control store; its own `drain_node` waits until the node's actors ended."""
    death = common_pb2.NodeDeathInfo(
        reason=common_pb2.NodeDeathInfo.Reason.EXPECTED_TERMINATION, reason_message=reason[:500]
    )
    request = gcs_service_pb2.UnregisterNodeRequest(node_id=bytes.fromhex(node_id), node_death_info=death)
    with init_grpc_channel(ray.get_runtime_context().gcs_address) as channel:
        gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).UnregisterNode(request, timeout=CALL_TIMEOUT_S)


def _own_files() -> tuple[Path, Path, Path, Path]:
    """The head's CA, certificate, key and token, as its Ray has them."""
    names = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_AUTH_TOKEN_PATH")
    if missing := [name for name in names if not os.environ.get(name)]:
        raise ConfigError(f"hosts join over TLS and with a token: this head's Ray was started without {missing[0]}")
    ca, certificate, key, token = (Path(os.environ[name]) for name in names)
    return ca, certificate, key, token


async def _ask(method: str, *arguments: object) -> Any:  # noqa: ANN401  as the actor's method
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await getattr(find(REGISTRY), method).remote(*arguments)
    except RefusedError:
        raise
    except (ValueError, TimeoutError, ray.exceptions.RayError) as error:  # no such actor, or it has just died
        raise TroubleError(f"the registry does not answer ({type(error).__name__})") from error
