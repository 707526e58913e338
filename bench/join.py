"""What hosts that join, and strangers that ask to, cost the head: CPU time of its part, without Ray.

Run: python -m bench.join [--rounds 7]. Registry, appraisal, certificates and TLS are real, the TDX host is simulated;
both ends are in this process, so a line holds the host's share too. How long a join takes from challenge to the first
replica offered is printed by `make test-rayup`.
"""

import argparse
import asyncio
import os
import platform
import ssl
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from cluster.errors import JoinLaterError, JoinRefusedError
from cluster.join_client import JoinClient, parse_head
from cluster.join_messages import ChallengeRequest
from tests.cluster.joining import ADDRESS, LOOPBACK, Enclave, EnclaveSocket, Head

CALLS = 20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {ssl.OPENSSL_VERSION}")
    print(f"{'CPU ms for each, both ends':60} {'median':>8} {'lowest':>8} {'highest':>8}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder), parser.parse_args().rounds))


async def _measure(folder: Path, rounds: int) -> None:
    head = Head(folder)
    enclave = head.add(Enclave("host"))
    await head.start()

    async def join() -> None:
        head.clock.ahead += timedelta(seconds=20)  # past the rate
        async with JoinClient(parse_head(head.address), head.pin, EnclaveSocket(enclave), clock=head.clock) as host:
            await host.certify(ADDRESS, *await host.challenge(ADDRESS, "host", {}))

    async def connect() -> None:
        async with JoinClient(parse_head(head.address), head.pin, EnclaveSocket(enclave), clock=head.clock) as host:
            await host._open()

    async def ask(peer: str) -> None:
        body = ChallengeRequest(address=ADDRESS, time=head.clock(), name="host", labels={}).encode()
        try:
            await head.desk.challenge(peer, body)
        except (JoinRefusedError, JoinLaterError):
            return
        raise AssertionError("it was let in")

    async def strange() -> None:
        head.clock.ahead += timedelta(seconds=20)
        await ask("10.0.0.9")

    async def flooding() -> None:
        await ask("10.0.0.8")

    lines: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
        ("a join up to token and certificate, with 3 TLS handshakes", join),
        ("a stranger's handshake and GET /v1/join/ca", connect),
        ("a challenge refused by its address, behind the handshake", strange),
        ("a challenge refused by the rate, behind the handshake", flooding),
    )
    for name, call in lines:
        for _ in range(10):
            await flooding()  # until its bucket is empty
        _print(name, [await _round(call) for _ in range(rounds)])
    print(f"listening on {LOOPBACK}; {CALLS} calls a round, {rounds} rounds")
    await head.stop()


async def _round(call: Callable[[], Awaitable[None]]) -> float:
    began = time.process_time()
    for _ in range(CALLS):
        await call()
    return (time.process_time() - began) / CALLS * 1e3


def _print(name: str, values: list[float]) -> None:
    print(f"{name:60} {statistics.median(values):8.3f} {min(values):8.3f} {max(values):8.3f}")


if __name__ == "__main__":
    main()
