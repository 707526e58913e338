"""Writes docs/FAULTS.md."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.faults.cluster.audit import Audit
from tests.faults.cluster.faults import FAULTS
from tests.faults.cluster.figures import Effect, table

_PAGE = """# What happens when parts die

Written by `python -m tests.faults.cluster --write`; do not edit. Each fault {runs} time(s), at {rate:g} sealed requests
a second, on {machine}.

A network on one machine: {hosts} simulated hosts, devnet, Ray, relay, gateway, and a real sidecar. Parts are killed
with SIGKILL or stopped with SIGSTOP. The suite plays the service manager: it starts a dead enclave, Ray node or head
again at once, and releases hosts that were quarantined for coming and going ({released} here). Actors and replicas come
back by Ray. One in twenty requests is a stream; a refusal that says so is asked again, as the OpenAI SDK does it.

{table}
{broken}
- *answers again after*: the first answer after the last failed attempt, or after the last two seconds without any
  answer; 0: nobody noticed. Times are medians when there are several.
- *part whole after*: the part does its work again; starting it is included.
- *cut*: the request had reached a host and its answer did not end. The client is told so, and nobody asks again.
- *lost*: refused for a minute.

## Targets

{targets}

## Money

After all faults: {money}; ledger imbalance {imbalance}.

A cut answer may be charged for the tokens that the connection had taken ([LIMITS.md](LIMITS.md)). A killed enclave
keeps its receipts on disk; they are paid when it starts again within 120 s after their leases ended.
"""
PAGE = Path(__file__).parents[3] / "docs" / "FAULTS.md"


def machine() -> str:
    """Processor, cores, versions and load."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    python = platform.python_version()
    return f"{name}, {os.cpu_count()} cores, load {load}; Python {python}, Ray {version('ray')}"


def targets(effects: Sequence[Effect]) -> str:
    """Each target, and whether it held every time."""
    lines = []
    for fault in FAULTS.values():
        times = [effect.recovery_s for effect in effects if effect.fault == fault.name]
        if fault.target_s is not None and times:
            word = "held" if max(times) <= fault.target_s else "**not held**"
            lines.append(
                f"- {fault.name}: answers after {fault.target_s:.0f} s at most: {word} (most {max(times):.1f} s)"
            )
    return "\n".join(lines)


def page_text(
    effects: Sequence[Effect],
    audit: Audit,
    imbalance: int,
    *,
    hosts: int,
    released: int,
    runs: int,
    rate: float,
    failures: Sequence[str],
) -> str:
    """The whole page."""
    return _PAGE.format(
        hosts=hosts,
        released=released,
        runs=runs,
        rate=rate,
        machine=machine(),
        table=table(effects),
        broken="".join(f"\nNot measured, as it did not get well: {failure}.\n" for failure in failures),
        targets=targets(effects),
        money=audit.text(),
        imbalance=imbalance,
    )


def write_page(
    effects: Sequence[Effect],
    audit: Audit,
    imbalance: int,
    *,
    hosts: int,
    released: int,
    runs: int,
    rate: float,
    failures: Sequence[str],
) -> None:
    """Write the page into docs/."""
    PAGE.write_text(
        page_text(effects, audit, imbalance, hosts=hosts, released=released, runs=runs, rate=rate, failures=failures)
    )
    print(f"{PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE} written", file=sys.stderr)
