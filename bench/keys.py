"""What it costs to open a key file: CPU and wall time at the default and at the least and dearest costs allowed."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import cryptography

from billing.keys import ITERATIONS_MAX, LANES_MAX, MEMORY_KIB_MAX, KdfCost, open_key, seal_key

COSTS = {
    "least": KdfCost(memory_kib=19_456, iterations=2, lanes=1),
    "default": KdfCost(),
    "dearest": KdfCost(memory_kib=MEMORY_KIB_MAX, iterations=ITERATIONS_MAX, lanes=LANES_MAX),
}


def measure(cost: KdfCost, runs: int) -> tuple[list[float], list[float]]:
    """CPU and wall seconds of `runs` openings."""
    sealed = seal_key(os.urandom(32), b"correct horse", cost=cost)
    cpu, wall = [], []
    for _ in range(runs):
        began, began_cpu = time.perf_counter(), time.process_time()
        open_key(sealed, b"correct horse")
        cpu.append(time.process_time() - began_cpu)
        wall.append(time.perf_counter() - began)
    return cpu, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", end=", ")
    print(f"cryptography {cryptography.__version__}")
    for name, cost in COSTS.items():
        cpu, wall = measure(cost, 1 if name == "dearest" else runs)
        words = f"{cost.memory_kib >> 10} MiB, {cost.iterations} passes, {cost.lanes} lanes"
        print(f"{name:8} {words:28} CPU {statistics.median(cpu):.3f} s ({min(cpu):.3f}-{max(cpu):.3f})", end="  ")
        print(f"wall {statistics.median(wall):.3f} s ({min(wall):.3f}-{max(wall):.3f})")


if __name__ == "__main__":
    main()
