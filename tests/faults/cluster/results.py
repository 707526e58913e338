"""What was measured, a JSON line each, so that a run that is interrupted keeps what it has."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.faults.cluster.audit import Audit
from tests.faults.cluster.figures import Effect

RESULTS = Path(__file__).parents[3] / "build" / "cluster-faults.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One fault that happened."""

    effect: Effect
    rate: float  # requests a second
    hosts: int
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwell:
    """A fault after which the network did not get well."""

    fault: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The money after all faults of one run."""

    audit: Audit
    imbalance: int
    faults: int  # that happened before
    released: int  # quarantines that the operator lifted


Result = Measured | Unwell | Books


def machine() -> str:
    """Processor, cores and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}, Ray {version('ray')}"


def append(path: Path, result: Result) -> None:
    """Add one line, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.write(json.dumps({"kind": type(result).__name__, **asdict(result)}) + "\n")
        out.flush()
        os.fsync(out.fileno())


def read(paths: Iterable[Path]) -> list[Result]:
    """All results in files, oldest first; a last line that was cut is left out."""
    lines = (line for path in paths if path.exists() for line in path.read_text().splitlines(keepends=True))
    return [_parse(json.loads(line)) for line in lines if line.endswith("\n")]


def _parse(fields: dict[str, Any]) -> Result:
    match fields.pop("kind"):
        case "Measured":
            return Measured(**fields | {"effect": Effect(**fields["effect"])})
        case "Unwell":
            return Unwell(**fields)
        case "Books":
            return Books(**fields | {"audit": Audit(**fields["audit"])})
        case kind:
            raise ValueError(f"{kind!r} is no kind of result")
