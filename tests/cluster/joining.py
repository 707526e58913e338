"""A head that hosts can join, without Ray: the real registry, desk and HTTPS server, on simulated TDX hosts."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from attestation.floor_store import FloorStore
from attestation.simulate import Fault, SimulatedVendors
from attestation.verdict import TeeKind, Tier
from cluster.address_book import AddressBook
from cluster.admission import Admission
from cluster.certificates import (
    JOINING_CERTIFICATE,
    JOINING_KEY,
    Authority,
    read_pin,
    write_certificates,
    write_joining,
)
from cluster.fleet import HostRecord, HostState, Window
from cluster.join_desk import FoundNode, Issuing, JoinDesk
from cluster.join_server import JoinServer
from cluster.joined_addresses import JoinedAddresses
from cluster.model import HostHints
from cluster.registry import Registry
from cluster.reputation import RatingFile
from tests.cluster.enclaves import POLICY, TERMS, Gate, RouteMap
from tests.cluster.tdx_enclaves import TdxEnclave

TOKEN = "a1" * 32
LOOPBACK = "127.0.0.1"
ADDRESS, ELSEWHERE = f"{LOOPBACK}:9443", f"{LOOPBACK}:9444"
LIFE = timedelta(hours=12)


@cache
def vendors() -> SimulatedVendors:
    """Of today: TLS asks the machine's clock, so everything else has to go by it too."""
    return SimulatedVendors.create(datetime.now(UTC) - timedelta(minutes=1))


class ShiftedClock:
    """The real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Enclave(TdxEnclave):
    """A TDX enclave with the two control requests that joining needs."""

    def __init__(self, name: str, *, faults: tuple[Fault, ...] = (), address: str = ADDRESS) -> None:
        super().__init__(name, vendors().make_host(TeeKind.TDX, faults=faults, quote_latency_s=0))
        self.address, self.prepared = address, False


class EnclaveSocket:
    """What `EnclaveControl` is to the client of joining, for an enclave in memory."""

    def __init__(self, enclave: Enclave) -> None:
        self.enclave = enclave

    async def prove(self, challenge: bytes) -> bytes:
        return self.enclave.prove(challenge)

    async def prepare(self) -> None:
        self.enclave.prepared = True

    async def status(self) -> Mapping[str, object]:
        return {**self.enclave.health(), "address": self.enclave.address}


class NodeTable:
    """Ray's nodes by name, as the head sees them, and which hosts are bound to one."""

    def __init__(self, registry: Registry) -> None:
        self.alive: dict[str, FoundNode] = {}
        self.enclaves: dict[bytes, Enclave] = {}
        self.bound: dict[bytes, str] = {}
        self._registry = registry

    async def find(self, name: str, ip: str) -> FoundNode | None:
        return self.alive.get(name)

    async def bind(self, host_id: bytes, node_id: str, control: str) -> None:
        """As the host's actor does."""
        challenge = self._registry.challenge_node(host_id, node_id)
        await self._registry.bind_node(host_id, node_id, self.enclaves[host_id].prove(challenge))
        self.bound[host_id] = node_id

    async def release(self, host_id: bytes) -> None:
        self.bound.pop(host_id, None)


class RegistryDirect:
    """The registry without its actor."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def examine(self, address: str, hints: HostHints) -> Admission:
        return await self._registry.examine(address, hints)

    async def take_in(self, host_id: bytes, address: str) -> Admission | None:
        return await self._registry.take_in(host_id, address)

    async def routed(self, host_id: bytes) -> HostRecord | None:
        return self._registry.routed(host_id)

    async def records(self, host_id: bytes) -> tuple[HostRecord, ...]:
        return self._registry.records(host_id)

    async def plan(self, host_id: bytes, window: Window | None) -> HostRecord:
        return await self._registry.plan(host_id, window)

    async def leave(self, host_id: bytes, reason: str) -> None:
        await self._registry.leave(host_id, reason)


class Head:
    """The head of a cluster; `start` makes it listen on loopback."""

    def __init__(self, folder: Path, **policy: object) -> None:
        self.clock, self.gate = ShiftedClock(), Gate()
        self.tls = folder / "tls"
        self.own = write_certificates(self.tls, "demo", [LOOPBACK], now=self.clock())[LOOPBACK]
        self.joining = write_joining(self.tls, now=self.clock())
        self.pin = bytes.fromhex(read_pin(self.tls))
        self.routes = RouteMap()
        self.registry = Registry(
            gate=self.gate,
            routes=self.routes,
            book=AddressBook(folder / "book"),
            floors=FloorStore(folder / "floors"),
            ratings=RatingFile(folder / "reputation"),
            policy=replace(POLICY, **(self._strict() | policy)),
            terms=self._terms(),
            clock=self.clock,
        )
        self.nodes = NodeTable(self.registry)
        self.joined = JoinedAddresses(folder / "joined")
        issuing = Issuing(
            authority=lambda: Authority.load(self.joining, JOINING_CERTIFICATE, JOINING_KEY),
            token=lambda: TOKEN,
            life=LIFE,
            ray_address="127.0.0.1:6379",
            settings={"RAY_SERVE_ENABLE_HA_PROXY": "1"},
            note=lambda ip, now, end: self.joined.note(ip, now=now, end=end),
        )
        self.desk = JoinDesk(
            RegistryDirect(self.registry), self.nodes, issuing, pin=self.pin, clock=self.clock, random=os.urandom
        )
        self.server: JoinServer | None = None
        self.address = ""

    async def start(self) -> None:
        files = (self.own / name for name in ("ca.crt", "node.crt", "node.key"))
        ca, certificate, key = files
        self.server = JoinServer(self.desk, ca=ca, certificate=certificate, key=key)
        _, _, port = self.address.rpartition(":")  # after a restart, the same
        host, port = await self.server.listen(LOOPBACK, int(port or 0))
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(0.1)
        await asyncio.sleep(0)

    def add(self, enclave: Enclave, *also_at: str) -> Enclave:
        """Make an enclave answer at its address, and at others."""
        for address in (enclave.address, *also_at):
            self.gate.enclaves[address] = enclave
        self.nodes.enclaves[enclave.host_id] = enclave
        return enclave

    def state(self, enclave: Enclave, address: str | None = None) -> HostState | None:
        at = address or enclave.address
        found = [host for host in self.registry.snapshot().hosts if host.address == at]
        return found[0].state if found else None

    @staticmethod
    def _terms():
        image = vendors().make_host(TeeKind.TDX).measurement_id()
        return replace(TERMS, reference=replace(TERMS.reference, measurements=frozenset({image})))

    @staticmethod
    def _strict() -> dict[str, object]:
        return {
            "unsafe_simulated_roots": vendors().roots(),
            "required_tier": Tier.CONFIDENTIAL_CPU,
            "unsafe_accept_open_hosts": False,
        }
