"""The paths that are compared: how each is started, how a request for it is made, and which processes serve it."""

import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from relay_parts.load import http

from attestation.frames import FrameType, ResponseHash, parse_frame
from attestation.sealing import ResponseOpener
from attestation.session import SessionSender
from attestation.xwing import Recipient
from billing.grant import Grant, HostSlice, sign_grant
from billing.money import Nanotons
from billing.receipt import verify_receipt
from billing.tariff import Tariff
from cluster.processes import Program, Supervisor
from cluster.relay import RelayProcess
from cluster.relay_config import RelayLimits
from cluster.ticket import make_ticket

PARTS = Path(__file__).parent
ROOT = PARTS.parents[1]
ROUTER = ROOT / ".venv-router" / "bin" / "vllm-router"
ROUTER_INSTALL = "python3 -m venv .venv-router && .venv-router/bin/pip install vllm-router==0.1.17"
CHAT = "/v1/chat/completions"
PROMPT = " ".join(f"word{number}" for number in range(45))  # 0.3 KB
LEASE_S = 3600
START_S = 90.0


def body(*, stream: bool) -> bytes:
    """The question asked everywhere."""
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return json.dumps(
        {"model": "bench", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20} | more
    ).encode()


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One path: where to send, what to send, and who works for it."""

    name: str
    address: str
    requests: Callable[[bool, int], Iterator[bytes]]  # (stream, how many) -> requests to send
    servers: Callable[[], dict[str, list[psutil.Process]]]


def plain(stream: bool, count: int) -> Iterator[bytes]:
    """The same request over and over."""
    request = http(CHAT, body(stream=stream), "content-type: application/json")
    return (request for _ in range(count))


class SealedClient:
    """A client with a lease for one host, sealing in a session; it opens and checks its first answer."""

    def __init__(self, supervisor: Supervisor, folder: Path) -> None:
        operator, account = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        argv = [sys.executable, str(PARTS / "enclave_peer.py"), public(operator).hex(), str(folder)]
        self.program, line = supervisor.start_reporting("enclave", argv, timeout_s=START_S)
        self.address = str(line["address"])
        host, self._receipt_key = bytes.fromhex(line["host_id"]), bytes.fromhex(line["receipt"])
        lease, expires = os.urandom(16), int(time.time()) + LEASE_S
        grant = Grant(
            lease=lease,
            account=public(account),
            operator=public(operator),
            model_root=bytes(32),
            tariff=Tariff(prompt_price=1, completion_price=1),
            hosts=(HostSlice(host_id=host, slice=Nanotons(1 << 50), coefficient=1000),),
            not_after=expires,
        )
        self._sender = SessionSender(
            model=bytes(32),
            lease=lease,
            expires=expires,
            grant=sign_grant(grant, operator),
            account_key=account,
            recipients=[Recipient(host, bytes.fromhex(line["hpke"]))],
            random=os.urandom,
        )
        self._host, ticket_key = host, os.urandom(32)
        self.relay = RelayProcess("127.0.0.1:0", ticket_key, limits=RelayLimits(requests_per_account=1 << 30))
        self.relay.add_host(host, self.address)
        ticket = make_ticket(ticket_key, host_id=host, account=public(account), lease=lease, expires=expires)
        self._path, self._ticket = f"/h/{host.hex()}/sealed", f"authorization: Bearer {ticket}"

    def requests(self, stream: bool, count: int) -> Iterator[bytes]:
        """Sealed before the load starts, each with its own key and counter."""
        sealed = [self._sender.seal(self._body(stream=stream), price_cap=1 << 40).data for _ in range(count)]
        return (http(self._path, data, self._ticket) for data in sealed)

    def check(self, *, stream: bool) -> int:
        """One whole exchange through the relay, opened and verified; returns the number of data frames."""
        sealed = self._sender.seal(self._body(stream=stream), price_cap=1 << 40)
        url, headers = f"http://{self.relay.address}{self._path}", {"authorization": self._ticket.partition(" ")[2]}
        with urllib.request.urlopen(urllib.request.Request(url, sealed.data, headers)) as response:
            data = response.read()
        opener, digest, count = ResponseOpener(sealed.content_key, sealed.request_hash), ResponseHash(), 0
        for kind, payload in map(parse_frame, opener.feed(data)):
            if kind is FrameType.DATA:
                digest.add(payload)
                count += 1
            elif kind is FrameType.RECEIPT:
                assert verify_receipt(payload, self._receipt_key).response_hash == digest.digest()
            else:
                raise RuntimeError(f"the enclave refused: {payload!r}")
        assert opener.finished
        self._sender.confirm(self._host, sealed)
        return count

    def own_cost_us(self, *, stream: bool, times: int = 300) -> float:
        """CPU of the client's own work, sealing a request; the load below leaves it out."""
        started = time.process_time()
        for _ in range(times):
            self._sender.seal(self._body(stream=stream), price_cap=1 << 40)
        return (time.process_time() - started) / times * 1e6

    def _body(self, *, stream: bool) -> bytes:
        return b"\x01" + body(stream=stream)


def sealed_peers(client: SealedClient) -> list[Peer]:
    """Through the relay, and straight to the enclave."""
    enclave = [psutil.Process(client.program.pid)]
    relay = [psutil.Process(client.relay.pid)]
    return [
        Peer(
            name="sealed: relay > enclave",
            address=client.relay.address,
            requests=client.requests,
            servers=lambda: {"relay": relay, "enclave": enclave},
        ),
        Peer(
            name="sealed: direct to enclave",
            address=client.address,
            requests=client.requests,
            servers=lambda: {"enclave": enclave},
        ),
    ]


def uvicorn_peers(supervisor: Supervisor) -> list[Peer]:
    """A plain server bare, and behind vllm-router if that is installed."""
    port = free_port()
    backend = supervisor.start("backend", [sys.executable, str(PARTS / "backend.py"), str(port)])
    wait_for(backend, f"http://127.0.0.1:{port}/health")
    behind = [psutil.Process(backend.pid)]
    bare = Peer(name="plain: uvicorn", address=f"127.0.0.1:{port}", requests=plain, servers=lambda: {"backend": behind})
    if not ROUTER.exists():
        print(f"no row for vllm-router: it is not installed; {ROUTER_INSTALL}")
        return [bare]
    front, metrics = free_port(), free_port()
    argv = [str(ROUTER), "--policy", "round_robin", "--worker-urls", f"http://127.0.0.1:{port}", "--host", "127.0.0.1"]
    argv += ["--port", str(front), "--prometheus-port", str(metrics), "--prometheus-host", "127.0.0.1"]
    router = supervisor.start("router", [*argv, "--log-level", "error"])
    wait_for(router, f"http://127.0.0.1:{front}{CHAT}", body(stream=False))
    routing = [psutil.Process(router.pid), *psutil.Process(router.pid).children(recursive=True)]
    through = Peer(
        name="plain: vllm-router > uvicorn",
        address=f"127.0.0.1:{front}",
        requests=plain,
        servers=lambda: {"router": routing, "backend": behind},
    )
    return [through, bare]


def serve_peer(supervisor: Supervisor, folder: Path) -> Peer:
    """A plain Ray Serve application behind Serve's own HAProxy, tuned for throughput."""
    port, files = free_port(), folder / "haproxy"
    files.mkdir()
    env = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }
    argv = [sys.executable, str(PARTS / "serve_peer.py"), str(port), str(folder / "ray")]
    program, _ = supervisor.start_reporting("serve", argv, timeout_s=START_S, env=env)
    wait_for(program, f"http://127.0.0.1:{port}{CHAT}", body(stream=False))

    def servers() -> dict[str, list[psutil.Process]]:
        found: dict[str, list[psutil.Process]] = {"haproxy": [], "replica": []}
        for process in supervisor.processes("serve"):
            words = " ".join(process.cmdline())
            if words.startswith("ray::ServeReplica"):
                found["replica"].append(process)
            elif "haproxy" in Path(words.split(" ")[0]).name:
                found["haproxy"].append(process)
        return found

    return Peer(name="plain: Ray Serve, HAProxy", address=f"127.0.0.1:{port}", requests=plain, servers=servers)


def wait_for(program: Program, url: str, data: bytes | None = None) -> None:
    """Return once `url` answers 200."""

    def ready() -> bool:
        request = urllib.request.Request(url, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    program.wait_until(ready, timeout_s=START_S)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def public(key: Ed25519PrivateKey) -> bytes:
    """Its public half."""
    return key.public_key().public_bytes_raw()
