import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import pytest

from cluster.errors import ConfigError
from cluster.relay import RelayError, RelayProcess, RelaySilentError, parse_address
from cluster.relay_config import RelayLimits
from cluster.relay_note import RelayNote, born_at, write_note
from cluster.ticket import make_ticket, relay_secret

KEY = bytes(range(32))
HOST, OTHER = bytes.fromhex("a1b2c3d4e5f60718"), bytes.fromhex("0000000000000001")
ACCOUNT, LEASE = b"a" * 32, b"l" * 16


def ticket(host: bytes = HOST, *, key: bytes = KEY, account: bytes = ACCOUNT, expires_in: int = 60) -> str:
    return make_ticket(key, host_id=host, account=account, lease=LEASE, expires=int(time.time()) + expires_in)


def forged(header: dict[str, str], claims: dict[str, object], *, signed: bool = True) -> str:
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    digest = hmac.new(relay_secret(KEY).encode(), b".".join(parts), hashlib.sha256).digest()
    signature = urlsafe_b64encode(digest).rstrip(b"=") if signed else b""
    return b".".join([*parts, signature]).decode()


def claims(**changed: object) -> dict[str, object]:
    whole = {"host": HOST.hex(), "account": ACCOUNT.hex(), "lease": LEASE.hex(), "exp": int(time.time()) + 60}
    return {name: value for name, value in (whole | changed).items() if value is not None}


@dataclass
class Host:
    """An enclave's place on the network: answers with its name, or with what a test tells it to."""

    name: str
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    steps: asyncio.Queue = field(default_factory=asyncio.Queue)  # for /evidence: chunks to send; None breaks off

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
                self.bodies.append(await reader.readexactly(int(fields.get(b"content-length", b"0"))))
                if b"/evidence " in head:
                    await self._stream(writer)
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while (chunk := await self.steps.get()) is not None:
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
        writer.transport.abort()
        raise ConnectionError


@contextlib.asynccontextmanager
async def running(name: str) -> AsyncIterator[Host]:
    host = Host(name)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    yield host
    server.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[RelayProcess]:
    relay = RelayProcess("127.0.0.1:0", KEY)
    yield relay
    relay.stop()


@pytest.fixture
async def host(relay: RelayProcess) -> AsyncIterator[Host]:
    async with running("first") as host:
        relay.add_host(HOST, host.address)
        yield host


@pytest.fixture
def relay(shared: RelayProcess) -> Iterator[RelayProcess]:
    yield shared
    shared.set_hosts({})


async def send(
    relay: RelayProcess,
    *,
    host: bytes = HOST,
    path: str | None = None,
    bearer: str | None = "",
    method: str = "POST",
    body: bytes = b"sealed bytes",
    **headers: str,
) -> tuple[int, str]:
    """Status and body, or the error code for a refusal; `bearer` "" is a good ticket, None is none."""
    path = f"/h/{host.hex()}/sealed" if path is None else path
    if bearer is not None:
        headers["authorization"] = f"Bearer {bearer or ticket(host)}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{relay.address}{path}", data=body, headers=named) as response,
    ):
        text = await response.text()
        if response.status == 200:
            return 200, text
        assert response.headers["content-type"] == "application/json"
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return response.status, error["code"]


def raw(relay: RelayProcess, data: bytes, *, wait_s: float = 3.0) -> bytes:
    ip, port = relay.address.split(":")
    with socket.create_connection((ip, int(port)), timeout=wait_s) as connection:
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while part := connection.recv(65536):
                answer += part
        return answer


async def test_a_request_with_a_ticket_reaches_its_host(relay: RelayProcess, host: Host) -> None:
    assert await send(relay) == (200, "first")
    assert host.bodies == [b"sealed bytes"]
    assert host.heads[0].startswith(f"POST /h/{HOST.hex()}/sealed HTTP/1.1".encode())


async def test_the_host_never_sees_the_ticket(relay: RelayProcess, host: Host) -> None:
    await send(relay, x_forwarded_for="10.0.0.1")
    assert b"authorization" not in host.heads[0].lower()
    assert b"forwarded" not in host.heads[0].lower()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/", 404, id="root"),
        pytest.param("/metrics", 404, id="metrics"),
        pytest.param("/stats", 404, id="stats"),
        pytest.param("/haproxy?stats", 404, id="haproxy-stats"),
        pytest.param(f"/h/{HOST.hex()}", 404, id="no-verb"),
        pytest.param(f"/h/{HOST.hex()}/status", 404, id="the-control-socket's-path"),
        pytest.param(f"/h/{HOST.hex()}/health", 404, id="health-is-not-public"),
        pytest.param(f"/h/{HOST.hex()}/sealed/../../x", 404, id="dots"),
        pytest.param(f"/h/{HOST.hex().upper()}/sealed", 404, id="other-spelling-of-the-id"),
        pytest.param(f"//h/{HOST.hex()}/sealed", 404, id="double-slash"),
    ],
)
async def test_other_paths_are_not_found(relay: RelayProcess, host: Host, path: str, status: int) -> None:
    assert await send(relay, path=path) == (status, "not_found")
    assert not host.heads


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(relay: RelayProcess, host: Host, method: str) -> None:
    assert await send(relay, method=method) == (405, "method_not_allowed")
    assert not host.heads


BAD_TICKETS = [
    pytest.param(lambda: None, 401, "ticket_missing", id="no-ticket"),
    pytest.param(lambda: "nonsense", 401, "ticket_invalid", id="nonsense"),
    pytest.param(lambda: ticket(key=bytes(32)), 401, "ticket_invalid", id="signed-by-somebody-else"),
    pytest.param(lambda: ticket()[:-4] + "AAAA", 401, "ticket_invalid", id="altered-signature"),
    pytest.param(
        lambda: ".".join([ticket().split(".")[0], ticket(OTHER).split(".")[1], ticket().split(".")[2]]),
        401,
        "ticket_invalid",
        id="altered-claims",
    ),
    pytest.param(lambda: ticket(expires_in=0), 401, "ticket_expired", id="expired-now"),
    pytest.param(lambda: ticket(expires_in=-3600), 401, "ticket_expired", id="expired-an-hour-ago"),
    pytest.param(lambda: ticket(OTHER), 403, "ticket_for_another_host", id="for-another-host"),
    pytest.param(lambda: forged({"alg": "none"}, claims(), signed=False), 401, "ticket_invalid", id="alg-none"),
    pytest.param(lambda: forged({"alg": "none"}, claims()), 401, "ticket_invalid", id="alg-none-but-signed"),
    pytest.param(lambda: forged({"alg": "HS384"}, claims()), 401, "ticket_invalid", id="another-hash"),
    pytest.param(lambda: forged({"alg": "HS256"}, claims(exp=None)), 401, "ticket_expired", id="no-expiry"),
    pytest.param(lambda: forged({"alg": "HS256"}, claims(account=None)), 401, "ticket_invalid", id="no-account"),
    pytest.param(lambda: forged({"alg": "HS256"}, claims(host=None)), 403, "ticket_for_another_host", id="no-host"),
]


@pytest.mark.parametrize(("bad", "status", "code"), BAD_TICKETS)
@pytest.mark.parametrize("verb", ["sealed", "evidence"])
async def test_without_a_good_ticket_nothing_passes(
    relay: RelayProcess, host: Host, bad: object, status: int, code: str, verb: str
) -> None:
    assert await send(relay, path=f"/h/{HOST.hex()}/{verb}", bearer=bad()) == (status, code)
    assert not host.heads


async def test_two_tickets_are_as_bad_as_none(relay: RelayProcess, host: Host) -> None:
    head = f"POST /h/{HOST.hex()}/sealed HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n"
    answer = raw(relay, (head + f"authorization: Bearer {ticket()}\r\n" * 2 + "\r\n").encode())
    assert b" 401 " in answer.splitlines()[0]
    assert not host.heads


async def test_an_unknown_host_is_not_found_and_the_relay_stays_idle(relay: RelayProcess) -> None:
    for _ in range(5):
        assert await send(relay, host=OTHER) == (404, "host_gone")
    process = psutil.Process(relay.pid)
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(0.5)
    assert sum(process.cpu_times()[:2]) - before < 0.1  # forwarding to itself would take a whole core
    assert relay.counters().running <= 1


async def test_requests_never_land_on_another_host(relay: RelayProcess, host: Host) -> None:
    async with running("second") as second:
        relay.add_host(OTHER, second.address)
        wanted = [(HOST, "first"), (OTHER, "second")] * 20
        answers = await asyncio.gather(*(send(relay, host=to) for to, _ in wanted))
        assert answers == [(200, name) for _, name in wanted]


async def test_a_removed_host_is_gone_at_once_and_its_running_stream_goes_on(relay: RelayProcess, host: Host) -> None:
    async with streaming(relay) as response:
        host.steps.put_nowait(b"before")
        assert await response.content.readany() == b"before"
        relay.remove_host(HOST)
        assert await send(relay) == (404, "host_gone")
        host.steps.put_nowait(b"after")
        assert await response.content.readany() == b"after"
    assert relay.hosts() == {}
    relay.remove_host(HOST)  # twice is once


async def test_a_host_that_moved_is_found_at_its_new_address(relay: RelayProcess, host: Host) -> None:
    async with running("moved") as moved:
        assert await send(relay) == (200, "first")
        relay.add_host(HOST, moved.address)
        assert await send(relay) == (200, "moved")
        assert relay.hosts() == {HOST.hex(): moved.address}


def test_set_hosts_makes_exactly_those_hosts_known(relay: RelayProcess) -> None:
    relay.set_hosts({HOST: "127.0.0.1:7001", OTHER: "[::1]:7002"})
    relay.set_hosts({OTHER: "[::1]:7003"})
    assert relay.hosts() == {OTHER.hex(): "[::1]:7003"}


@contextlib.asynccontextmanager
async def streaming(relay: RelayProcess) -> AsyncIterator[aiohttp.ClientResponse]:
    url, headers = f"http://{relay.address}/h/{HOST.hex()}/evidence", {"authorization": f"Bearer {ticket()}"}
    async with aiohttp.ClientSession() as session, session.post(url, data=b"x", headers=headers) as response:
        assert response.status == 200
        yield response


async def test_each_chunk_of_a_stream_arrives_before_the_next_is_sent(relay: RelayProcess, host: Host) -> None:
    async with streaming(relay) as response:
        for number in range(21):
            host.steps.put_nowait(b"chunk %d" % number)
            assert await asyncio.wait_for(response.content.readany(), 2) == b"chunk %d" % number


async def test_a_host_that_breaks_off_ends_the_stream_with_an_error(relay: RelayProcess, host: Host) -> None:
    async with streaming(relay) as response:
        host.steps.put_nowait(b"half an ans")
        assert await response.content.readany() == b"half an ans"
        host.steps.put_nowait(None)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


async def test_a_host_that_does_not_listen_is_reported_as_unreachable(relay: RelayProcess) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        relay.add_host(HOST, f"127.0.0.1:{closed.getsockname()[1]}")
        assert await send(relay) == (503, "host_unreachable")


async def test_an_account_that_sends_too_fast_is_slowed_and_others_are_not() -> None:
    relay = RelayProcess("127.0.0.1:0", KEY, limits=RelayLimits(requests_per_account=3))
    try:
        async with running("first") as host:
            relay.add_host(HOST, host.address)
            statuses = [await send(relay) for _ in range(5)]
            assert statuses == [(200, "first")] * 3 + [(429, "rate_limited")] * 2
            assert await send(relay, bearer=ticket(account=b"b" * 32)) == (200, "first")
            counters = relay.counters()
            assert (counters.requests, counters.refused) == (6, 2)
            assert counters.accounts == {ACCOUNT.hex(): 3, (b"b" * 32).hex(): 1}, "refusals do not count"
    finally:
        relay.stop()


async def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(relay: RelayProcess, host: Host) -> None:
    head = f"POST /h/{HOST.hex()}/sealed HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\nconnection: close\r\n\r\n"
    assert b" 413 " in raw(relay, head.encode()).splitlines()[0]
    assert not host.heads


def smuggled(relay: RelayProcess, headers: str, body: str) -> bytes:
    head = f"POST /h/{HOST.hex()}/sealed HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ticket()}\r\n"
    return raw(relay, f"{head}{headers}\r\n{body}".encode(), wait_s=0.5)


SECOND = f"POST /h/{HOST.hex()}/sealed HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param(
            "content-length: 4\r\ntransfer-encoding: chunked\r\n", f"0\r\n\r\n{SECOND}", id="length-and-chunks"
        ),
        pytest.param("transfer-encoding: chunked\r\n", f"0\r\n\r\n{SECOND}", id="chunks-only"),
        pytest.param("transfer-encoding: xchunked\r\ncontent-length: 0\r\n", SECOND, id="unknown-encoding"),
        pytest.param("content-length: 0\r\ncontent-length: 44\r\n", SECOND, id="two-lengths"),
        pytest.param("content-length: +5\r\n", f"hello{SECOND}", id="signed-length"),
        pytest.param("content-length : 0\r\n", SECOND, id="space-before-the-colon"),
        pytest.param("content-length: 0\r\n x: y\r\n", SECOND, id="folded-header"),
    ],
)
async def test_a_request_hidden_in_another_never_passes(
    relay: RelayProcess, host: Host, headers: str, body: str
) -> None:
    """The hidden one has no ticket, so it must never arrive, however the outer one is answered."""
    await asyncio.to_thread(smuggled, relay, headers, body)
    assert len(host.heads) <= 1
    assert all(b"transfer-encoding" not in head.lower() for head in host.heads)
    assert all(SECOND.encode() not in body for body in host.bodies)


async def test_http2_is_not_spoken(relay: RelayProcess, host: Host) -> None:
    answer = await asyncio.to_thread(raw, relay, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", wait_s=0.5)
    assert not answer or b"HTTP/1.1 4" in answer
    assert not host.heads


def test_the_relay_binds_loopback_and_nothing_else(shared: RelayProcess) -> None:
    listening = [item for item in psutil.Process(shared.pid).net_connections("inet") if item.status == "LISTEN"]
    assert [f"{item.laddr.ip}:{item.laddr.port}" for item in listening] == [shared.address]


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_an_address_others_can_reach_must_be_asked_for(address: str) -> None:
    with pytest.raises(ConfigError, match="reached from other machines"):
        RelayProcess(address, KEY)


@pytest.mark.parametrize(
    "address",
    ["", "localhost:80", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "1|2:3", "[fe80::1%x; show info]:1"],
)
def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"write IP:PORT|ports end|interface"):
        parse_address(address)


def test_a_port_that_is_taken_is_named(shared: RelayProcess) -> None:
    with pytest.raises(RelayError, match=f"cannot listen on {shared.address}: Address already in use"):
        RelayProcess(shared.address, KEY)


def test_the_relay_is_not_a_host_of_its_own(relay: RelayProcess) -> None:
    with pytest.raises(ConfigError, match="the relay itself"):
        relay.add_host(HOST, relay.address)


def test_the_secret_and_the_admin_socket_are_private(shared: RelayProcess) -> None:
    files = shared._files
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert files.admin.stat().st_mode & 0o777 == 0o600
    assert relay_secret(KEY) not in files.config.read_text()


def test_stopping_ends_haproxy_and_removes_its_files() -> None:
    relay = RelayProcess("127.0.0.1:0", KEY)
    pid, folder = relay.pid, relay._files.folder
    relay.stop()
    relay.stop()
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


async def test_a_new_relay_takes_the_place_of_one_that_died_with_connections_open() -> None:
    first = RelayProcess("127.0.0.1:0", KEY)
    async with running("first") as host:
        first.add_host(HOST, host.address)
        async with streaming(first) as response:
            host.steps.put_nowait(b"half")
            assert await response.content.readany() == b"half"
            psutil.Process(first.pid).kill()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        first._process.wait(5)  # its connections close a moment before it can be waited for
        assert not first.alive()
        first.stop()
        second = RelayProcess(first.address, KEY)
        try:
            assert await send(second) == (404, "host_gone")  # until it is told
            second.set_hosts({HOST: host.address})
            assert await send(second) == (200, "first")
        finally:
            second.stop()


def test_a_relay_that_hangs_is_told_from_one_that_refuses_and_can_be_replaced_at_its_port() -> None:
    first = RelayProcess("127.0.0.1:0", KEY)
    try:
        os.kill(first.pid, signal.SIGSTOP)
        while psutil.Process(first.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        with pytest.raises(RelaySilentError, match="does not answer"):
            first.set_hosts({})
        assert first.alive()
    finally:
        first.kill()
    second = RelayProcess(first.address, KEY)
    try:
        second.set_hosts({HOST: "127.0.0.1:9"})
        assert second.address == first.address
    finally:
        second.stop()


def test_haproxy_dies_with_its_parent() -> None:
    code = (
        "import time; from cluster.relay import RelayProcess; "
        "relay = RelayProcess('127.0.0.1:0', bytes(32)); print(relay.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        relay = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        relay.wait(5)
    assert not relay.is_running() or relay.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def note(tmp_path) -> Iterator[Path]:
    path = tmp_path / "relay.json"
    yield path
    if found := RelayProcess.take_over(path, "127.0.0.1:1", KEY):  # another address: it is ended
        found.stop()


async def test_a_relay_with_a_note_outlives_its_parent_and_is_taken_over_with_its_hosts(note: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.relay import RelayProcess; "
        f"relay = RelayProcess('127.0.0.1:0', bytes(range(32)), note=Path({str(note)!r})); "
        "relay.add_host(bytes.fromhex(sys.argv[1]), sys.argv[2]); print(relay.address, relay.pid)"
    )
    async with running("host") as host:
        argv = [sys.executable, "-c", code, HOST.hex(), host.address]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True)
        address, pid = done.stdout.split()
        relay = RelayProcess.take_over(note, address, KEY)
        assert relay is not None
        assert (relay.address, str(relay.pid)) == (address, pid)
        assert await send(relay) == (200, "host")
        folder = relay._files.folder
        relay.stop()
    assert not relay.alive()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("key", "limits"),
    [
        pytest.param(bytes(32), None, id="another-secret"),
        pytest.param(KEY, RelayLimits(requests_per_account=1), id="other-limits"),
    ],
)
def test_a_relay_of_other_settings_is_ended_and_not_taken_over(note: Path, key: bytes, limits: RelayLimits) -> None:
    old = RelayProcess("127.0.0.1:0", KEY, note=note)
    assert RelayProcess.take_over(note, old.address, key, limits=limits) is None
    assert not old.alive()
    new = RelayProcess(old.address, key, limits=limits, note=note)
    assert new.pid != old.pid


def test_a_relay_that_hangs_is_ended_and_not_taken_over(note: Path) -> None:
    old = RelayProcess("127.0.0.1:0", KEY, note=note)
    os.kill(old.pid, signal.SIGSTOP)
    while psutil.Process(old.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    assert RelayProcess.take_over(note, old.address, KEY) is None
    assert not old.alive()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "x", "born": 0, "folder": 1, "address": 2, "settings": 3}'])
def test_a_note_that_cannot_be_read_names_nobody(note: Path, text: str) -> None:
    note.write_text(text)
    assert RelayProcess.take_over(note, "127.0.0.1:8443", KEY) is None


def test_a_note_whose_process_id_is_used_by_another_program_now_names_nobody(note: Path) -> None:
    mine = os.getpid()
    stranger = RelayNote(pid=mine, born=born_at(mine) - 1, folder="/", address="127.0.0.1:1", settings="")
    write_note(note, stranger)
    assert RelayProcess.take_over(note, "127.0.0.1:1", KEY) is None


def test_a_relay_that_died_under_a_parent_that_does_not_collect_it_is_replaced_at_once(note: Path) -> None:
    code = (
        "import ctypes, sys, time; from pathlib import Path; from cluster.relay import RelayProcess; "
        "ctypes.CDLL(None).prctl(36, 1); "  # as cluster.ray_start is: what is left behind becomes its child
        f"relay = RelayProcess('127.0.0.1:0', bytes(range(32)), note=Path({str(note)!r})); "
        "print(relay.address, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        relay = RelayProcess.take_over(note, parent.stdout.readline().strip(), KEY)
        assert relay is not None
        os.kill(relay.pid, signal.SIGKILL)
        while relay.alive():
            time.sleep(0.01)
        assert psutil.Process(relay.pid).status() == psutil.STATUS_ZOMBIE
        relay.kill()
        assert not relay._files.folder.exists()
        parent.kill()


async def test_a_relay_knows_its_hosts_from_the_first_request_on() -> None:
    async with running("host") as host:
        relay = RelayProcess("127.0.0.1:0", KEY, hosts={HOST: host.address})
        assert await send(relay) == (200, "host")
        assert relay.set_hosts({OTHER: host.address}, only=False) == {HOST: host.address, OTHER: host.address}
        assert relay.set_hosts({OTHER: host.address}) == {OTHER: host.address}
        assert relay.hosts() == {OTHER.hex(): host.address}
        relay.stop()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "example.org:80", "127.0.0.1:8080\n0000000000000001 127.0.0.1|22"])
def test_a_relay_does_not_start_with_a_host_that_has_no_address(address: str) -> None:
    with pytest.raises(ConfigError):
        RelayProcess("127.0.0.1:0", KEY, hosts={HOST: address})
