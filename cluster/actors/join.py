"""The join service as an actor on the head: an HTTPS server for hosts, in front of cluster.join_desk."""

import asyncio
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from cluster.actors.handles import REGISTRY, end_host, find, start_host
from cluster.admission import Admission
from cluster.certificates import JOINING_CERTIFICATE, JOINING_KEY, Authority, read_pin
from cluster.config import NetworkConfig
from cluster.errors import ConfigError, RefusedError, TroubleError
from cluster.fleet import HostRecord, Window
from cluster.join_desk import FoundNode, Issuing, JoinDesk
from cluster.join_messages import SHARED_SETTINGS
from cluster.join_server import JoinServer
from cluster.model import HostHints
from cluster.ray_nodes import alive_nodes

CALL_TIMEOUT_S = 60.0


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

    async def plan(self, host_id: bytes, window: Window | None) -> HostRecord:
        """See cluster.join_desk.Members."""
        record: HostRecord = await _ask("plan", host_id, window)
        return record

    async def leave(self, host_id: bytes, reason: str) -> None:
        """See cluster.join_desk.Members."""
        await _ask("leave", host_id, reason)


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


class JoinActor:
    """Serves hosts that join. Keeps nothing: a host whose join was cut off begins anew."""

    async def __init__(self, config_path: str) -> None:  # type: ignore[misc]  # Ray awaits it
        settings = NetworkConfig.load(Path(config_path)).joining
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
        )
        issuing.authority()  # a mistake in the folder is for the operator to see, now
        desk = JoinDesk(
            RegistryMembers(),
            RayNodes(),
            issuing,
            pin=bytes.fromhex(pin),
            clock=lambda: datetime.now(UTC),
            random=secrets.token_bytes,
        )
        self._pin = pin
        self._server = JoinServer(desk, ca=ca, certificate=certificate, key=key)
        self._address = await self._server.listen(str(settings.listen.ip), settings.listen.port)

    async def ready(self) -> tuple[str, str]:
        """Returns (IP:PORT, the pin) once it listens."""
        return f"{self._address[0]}:{self._address[1]}", self._pin


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
