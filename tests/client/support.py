"""A small network on loopback: real enclaves with an echo engine, a gateway that signs real grants, a lying relay."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from attestation.collect import Attester
from attestation.sealed_state import UnsafeFileKeySource
from attestation.simulate import SimulatedHost, SimulatedVendors
from billing.grant import Grant, HostSlice, sign_grant
from billing.key_files import KeySource
from billing.lease_request import LeaseRequest, verify_lease_request
from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.client import ChainClient
from billing.ton.owner import Ownership
from billing.ton.registry import Measurement, ModelTerms, OperatorTerms, Policy, RegistryState
from billing.ton.registry import Operator as OperatorEntry
from client.config import ClientConfig, LiteServer
from client.running import make_server, open_client
from client.sidecar import Sidecar
from client.wallet import Wallet
from enclave.enclave import Enclave, Facts
from enclave.engine.echo import EchoEngine
from enclave.service import Limits

MODEL = b"m" * 32
TARIFF = Tariff(prompt_price=100_000_000, completion_price=300_000_000)
BUDGET = Nanotons(90_000_000)
CAP = Nanotons(20_000_000)
CHAT: dict[str, Any] = {
    "model": "echo",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "one two three four five"}],
}
SECRET = "one two three"


class Clock:
    """The real time, moved by the test."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class StaticRegistry:
    """A registry state that the test changes; the chain behind it is tested with billing.ton."""

    def __init__(self, state: RegistryState) -> None:
        self.state = state
        self.failure: Exception | None = None

    async def read(self) -> RegistryState:
        if self.failure is not None:
            raise self.failure
        return self.state

    async def close(self) -> None:
        pass


def operator_terms(key: bytes, *endpoints: str, **changes: Any) -> OperatorTerms:
    fields: dict[str, Any] = {"name": "operator", "wallet": Address((0, bytes(32))), "fee_permille": 50}
    return OperatorTerms(public_key=key, endpoints=endpoints, **(fields | changes))


def make_registry(
    hosts: list[SimulatedHost], operator: bytes, endpoint: str, *, wallet: Address | None = None, **changes: Any
) -> RegistryState:
    fields: dict[str, Any] = {
        "network_id": -777,
        "seqno": 1,
        "ownership": Ownership(owner=Address((0, bytes(32)))),
        "measurements": {host.measurement_id(): Measurement(kind=1, label="simulated") for host in hosts},
        "rims": frozenset().union(*(host.rim_digests() for host in hosts)),
        "models": {MODEL: ModelTerms(name="echo", tariff=TARIFF, context=32768)},
        "policy": Policy(),
        "operators": {
            1: OperatorEntry(id=1, terms=operator_terms(operator, endpoint, wallet=wallet or Address((0, bytes(32)))))
        },
    }
    return RegistryState(**(fields | changes))


async def start_enclave(folder: Path, attester: Attester, operator: bytes, payee: bytes, **changes: Any) -> Enclave:
    engine = changes.pop("engine", EchoEngine)

    async def load(_: Path) -> Any:
        return engine()

    facts: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "control": folder / "control.sock",
        "state": folder,
        "payee": payee,
        "operator_key": operator,
        "coefficient": 1000,
        "models": {MODEL: Path("model")},
        "engine_digest": bytes(32),
        "limits": Limits(),
    }
    folder.mkdir()
    enclave = await Enclave.start(
        Facts(**(facts | changes)),
        attester=attester,
        sealing=UnsafeFileKeySource(folder / "key"),
        load=load,
        clock=lambda: datetime.now(UTC),
        random=os.urandom,
    )
    await enclave.service.models.load(MODEL)
    return enclave


Fault = Callable[[web.Request, bytes], Awaitable[web.StreamResponse | None]]


@dataclass
class Operator:
    """Gateway and relay of one operator, honest until a test changes a field."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    enclaves: list[Enclave] = field(default_factory=list)
    faults: dict[bytes, Fault] = field(default_factory=dict)  # host id -> what the relay does instead
    grant_changes: dict[str, Any] = field(default_factory=dict)
    answer_changes: dict[str, Any] = field(default_factory=dict)
    coefficient: int = 1000
    budget_share: int | None = None
    refuse: tuple[int, dict[str, Any]] | None = None
    refusals: int = 0
    sign_with: Ed25519PrivateKey | None = None
    leases: list[Grant] = field(default_factory=list)
    orders: list[LeaseRequest] = field(default_factory=list)
    sealed: list[tuple[bytes, bytes]] = field(default_factory=list)  # host id, bytes
    payment: object = field(default_factory=lambda: {"treasury": "0:00", "channel": {"delay_min_s": 3600}})
    url: str = ""

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=2 << 20)
        app.router.add_post("/v1/leases", self._lease)
        app.router.add_get("/v1/payment", self._payment)
        app.router.add_post("/v1/verdicts", self._verdict)
        app.router.add_post("/h/{host}/{what}", self._relay)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(auto_decompress=False) as self._http:
            try:
                yield
            finally:
                await runner.cleanup()

    async def _lease(self, request: web.Request) -> web.Response:
        if self.refuse is not None:
            self.refusals += 1
            return web.json_response(self.refuse[1], status=self.refuse[0])
        order = verify_lease_request(await request.json(), operator=self.public_key)
        self.orders.append(order)
        chosen = self.enclaves[: order.hosts]
        share = Nanotons(self.budget_share or order.budget // len(chosen))
        grant = Grant(
            lease=os.urandom(16),
            account=order.account,
            operator=self.public_key,
            model_root=MODEL,
            tariff=TARIFF,
            hosts=tuple(HostSlice(host_id=e.host_id, slice=share, coefficient=self.coefficient) for e in chosen),
            not_after=int(datetime.now(UTC).timestamp()) + 600,
        )
        grant = self.hold(replace(grant, **self.grant_changes))
        self.leases.append(grant)
        signed = sign_grant(
            replace(grant, operator=(self.sign_with or self.key).public_key().public_bytes_raw()),
            self.sign_with or self.key,
        )
        answer: dict[str, Any] = {
            "lease": grant.lease.hex(),
            "expires_at": grant.not_after,
            "grant": base64.b64encode(signed).decode(),
            "relay": self.url,
            "candidates": [
                {"host_id": e.host_id.hex(), "ticket": "a.b.c", "direct": e.address, "tier": "confidential"}
                for e in chosen
            ],
        }
        return web.json_response(answer | self.answer_changes)

    def hold(self, grant: Grant) -> Grant:
        """Where an operator with books takes the lease's money."""
        return grant

    async def _verdict(self, _: web.Request) -> web.Response:
        return refusal(404, "not_found")

    async def _payment(self, _: web.Request) -> web.Response:
        return web.json_response(self.payment)

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        host, body = bytes.fromhex(request.match_info["host"]), await request.read()
        if request.match_info["what"] == "sealed":
            self.sealed.append((host, body))
        if host in self.faults:
            answer = await self.faults[host](request, body)
            if answer is not None:
                return answer
        return await self.forward(request, body)

    async def forward(
        self, request: web.Request, body: bytes, change: Callable[[bytes], bytes | None] = lambda part: part
    ) -> web.StreamResponse:
        """Pass on to the enclave; `change` edits each part of the answer, None cuts it off there."""
        enclave = self.enclave(bytes.fromhex(request.match_info["host"]))
        if enclave is None:
            return refusal(404, "host_gone")
        try:
            async with self._http.post(f"http://{enclave.address}{request.path}", data=body) as got:
                answer = web.StreamResponse(status=got.status, headers={"content-type": got.content_type})
                await answer.prepare(request)
                async for part in got.content.iter_any():
                    changed = change(part)
                    if changed is None:
                        assert request.transport is not None
                        request.transport.abort()
                        return answer
                    await answer.write(changed)
                return answer
        except aiohttp.ClientConnectorError:
            return refusal(503, "host_unreachable")
        except aiohttp.ClientError:
            assert request.transport is not None
            request.transport.abort()
            raise

    def enclave(self, host_id: bytes) -> Enclave | None:
        return next((enclave for enclave in self.enclaves if enclave.host_id == host_id), None)


def refusal(status: int, code: str) -> web.Response:
    error = {"message": "refused by the test", "type": "server_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


def always(status: int, code: str) -> Fault:
    async def fault(request: web.Request, _: bytes) -> web.StreamResponse | None:
        return refusal(status, code) if request.match_info["what"] == "sealed" else None

    return fault


@dataclass
class Network:
    """Everything a test talks to."""

    operator: Operator
    registry: StaticRegistry
    sidecar: Sidecar
    wallet: Wallet
    clock: Clock
    url: str
    config: ClientConfig

    @property
    def enclaves(self) -> list[Enclave]:
        return self.operator.enclaves

    def fault_everywhere(self, fault: Fault) -> None:
        for enclave in self.enclaves:
            self.operator.faults[enclave.host_id] = fault


POLICY = """\
roots: none
unsafe_simulated_roots:
  intel: ["{intel}"]
  amd: ["{amd}"]
  nvidia: ["{nvidia}"]
required_tier: confidential-cpu
snp_floor: {{milan: {{bootloader: 0, tee: 0, snp: 0, microcode: 0}}}}
"""


def write_policy(path: Path, vendors: SimulatedVendors) -> None:
    roots = vendors.roots()
    pins = {vendor: min(roots.of(vendor)).hex() for vendor in ("intel", "amd", "nvidia")}
    path.write_text(POLICY.format(**pins))


def make_config(folder: Path, **changes: Any) -> ClientConfig:
    fields: dict[str, Any] = {
        "wallet": KeySource(file=folder / "wallet.key"),
        "state": folder / "state",
        "policy": folder / "policy.yaml",
        "registry": "0:" + "00" * 32,
        "lite_server": LiteServer(host="127.0.0.1", port=1, public_key="", network_id=-777),
        "budget": BUDGET,
        "price_cap": CAP,
    }
    return ClientConfig(**(fields | changes))


@contextlib.asynccontextmanager
async def serve_sidecar(sidecar: Sidecar) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(sidecar.app)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task


@contextlib.asynccontextmanager
async def run_network(
    folder: Path,
    vendors: SimulatedVendors,
    hosts: list[SimulatedHost],
    *,
    engine: Callable[[], Any] = EchoEngine,
    allowed: list[SimulatedHost] | None = None,
    enclave_changes: dict[str, Any] | None = None,
    operated_by: Operator | None = None,
    operator_wallet: Address | None = None,
    chain: ChainClient | None = None,
    wallet_key: Ed25519PrivateKey | None = None,
    **changes: Any,
) -> AsyncIterator[Network]:
    async with contextlib.AsyncExitStack() as stack:
        operator = operated_by or Operator()
        for number, host in enumerate(hosts):
            payee = bytes([0]) + bytes([number + 1]) * 32
            enclave = await start_enclave(
                folder / f"host{number}", host, operator.public_key, payee, engine=engine, **(enclave_changes or {})
            )
            stack.push_async_callback(enclave.stop, 0.1)
            operator.enclaves.append(enclave)
        await stack.enter_async_context(operator.serve())
        write_policy(folder / "policy.yaml", vendors)
        state = make_registry(allowed or hosts, operator.public_key, operator.url, wallet=operator_wallet)
        registry = StaticRegistry(state)
        wallet = Wallet(wallet_key) if wallet_key else Wallet.create(folder / "wallet.key")
        config, clock = make_config(folder, **changes), Clock()
        sidecar = await stack.enter_async_context(open_client(config, wallet, registry, chain=chain, clock=clock))
        url = await stack.enter_async_context(serve_sidecar(sidecar))
        yield Network(
            operator=operator, registry=registry, sidecar=sidecar, wallet=wallet, clock=clock, url=url, config=config
        )


async def eventually(condition: Callable[[], bool], within_s: float = 2.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
