"""CPU of one enclave process for a sealed request in a session: the echo engine, the real everything else.

    python bench/front.py [--rounds 5] [--requests 1500] [--connections 1 16 64]

Answers are one JSON object or a stream of 21 events. Each figure is user and system time of the enclave process divided
by the requests; the client runs in this process and is not counted. Requests are sealed before the clock starts. With
few connections every receipt costs a disk write of its own; TMPDIR=/dev/shm shows the rest without the disk.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httptools
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealing import machine

from attestation.frames import Endpoint, FrameType, encode_plain_request, parse_frame
from attestation.sealing import ResponseOpener, SealedRequest
from attestation.session import SessionSender
from attestation.xwing import Recipient
from billing.grant import Grant, HostSlice, sign_grant
from billing.money import NANOTONS_MAX, Nanotons
from billing.receipt import verify_receipt
from billing.tariff import Tariff

EVENTS = 21
WORDS = " ".join(f"word{n:02}" for n in range(EVENTS))
OPERATOR, ACCOUNT = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    options = parser.parse_args()
    print(machine())
    print(f"{options.rounds} rounds of {options.requests} requests, engine without latency, receipts synced to disk\n")
    print(f"{'answer':10} {'connections':>11} {'CPU us':>8} {'min':>7} {'max':>7} {'requests/s':>11} {'p50 ms':>7}")
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(bench(Path(folder), options))


async def bench(folder: Path, options: argparse.Namespace) -> None:
    key = OPERATOR.public_key().public_bytes_raw().hex()
    script = Path(__file__).with_name("echo_enclave.py")
    command = [sys.executable, script, "--state", folder / "state", "--operator-key", key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = json.loads(process.stdout.readline())
            sender = open_session(line)
            await run(line, [await confirm(line, sender)], 1)
            for stream in (False, True):
                for connections in options.connections:
                    await row(line, sender, options, stream=stream, connections=connections)
        finally:
            process.terminate()


async def row(line: dict[str, Any], sender: SessionSender, options: argparse.Namespace, **kind: Any) -> None:
    cpu, rate, p50 = [], [], []
    for _ in range(options.rounds):
        sealed = [sender.seal(plain(stream=kind["stream"]), price_cap=10**12) for _ in range(options.requests)]
        before, begin = cpu_seconds(line["pid"]), time.perf_counter()
        times = await run(line, sealed, kind["connections"])
        rate.append(options.requests / (time.perf_counter() - begin))
        cpu.append((cpu_seconds(line["pid"]) - before) / options.requests * 1e6)
        p50.append(statistics.median(times) * 1e3)
    name = f"{EVENTS} events" if kind["stream"] else "JSON"
    print(
        f"{name:10} {kind['connections']:11} {statistics.median(cpu):8.0f} {min(cpu):7.0f} {max(cpu):7.0f} "
        f"{statistics.median(rate):11.0f} {statistics.median(p50):7.2f}"
    )


def open_session(line: dict[str, Any]) -> SessionSender:
    host, model, lease = bytes.fromhex(line["host_id"]), bytes.fromhex(line["model_root"]), os.urandom(16)
    expires = int(time.time()) + 3600
    grant = Grant(
        lease=lease,
        account=ACCOUNT.public_key().public_bytes_raw(),
        operator=OPERATOR.public_key().public_bytes_raw(),
        model_root=model,
        tariff=Tariff(prompt_price=100_000, completion_price=300_000),
        hosts=(HostSlice(host_id=host, slice=Nanotons(NANOTONS_MAX), coefficient=1000),),
        not_after=expires,
    )
    return SessionSender(
        model=model,
        lease=lease,
        expires=expires,
        grant=sign_grant(grant, OPERATOR),
        account_key=ACCOUNT,
        recipients=[Recipient(host, bytes.fromhex(line["hpke"]))],
        random=os.urandom,
    )


async def confirm(line: dict[str, Any], sender: SessionSender) -> SealedRequest:
    """Send the request that opens the session, check its answer, and return another one."""
    first = sender.seal(plain(stream=True), price_cap=10**12)
    connection = await connect(line["address"])
    body = await connection.ask(first.data)
    opener = ResponseOpener(first.content_key, first.request_hash)
    frames = [parse_frame(frame) for frame in opener.feed(body)]
    assert opener.finished and [kind for kind, _ in frames] == [FrameType.DATA] * EVENTS + [FrameType.RECEIPT]
    verify_receipt(frames[-1][1], bytes.fromhex(line["receipt_key"]))
    sender.confirm(bytes.fromhex(line["host_id"]), first)
    connection.close()
    return sender.seal(plain(stream=False), price_cap=10**12)


def plain(*, stream: bool) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": WORDS}], "max_tokens": 64, "stream": stream}
    return encode_plain_request(Endpoint.CHAT_COMPLETIONS, json.dumps(body).encode())


async def run(line: dict[str, Any], sealed: list[SealedRequest], connections: int) -> list[float]:
    """Send all requests over so many connections; seconds that each took."""
    rest, times = iter(sealed), []

    async def one() -> None:
        connection = await connect(line["address"])
        for request in rest:
            begin = time.perf_counter()
            await connection.ask(request.data)
            times.append(time.perf_counter() - begin)
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return times


class Connection(asyncio.Protocol):
    """A keep-alive client connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._answer is not None and self._parser.get_status_code() == 200, b"".join(self._body)[:200]
        self._answer.set_result(b"".join(self._body))
        self._body = []

    async def ask(self, body: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        head = b"POST /sealed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


async def connect(address: str) -> Connection:
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
    return connection


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
