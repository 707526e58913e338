"""Simulated vendors, made once for a test run, and the folder of genuine vectors."""

import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from attestation.sim.nvidia import SimulatedGpu, SimulatedNvidia
from attestation.sim.snp import SimulatedAmd

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
_ROOT = Path(__file__).parents[2]


def vector(name: str) -> Path:
    """A genuine file; the test is skipped where it was not downloaded."""
    path = _ROOT / os.environ.get("CHRYSALIS_VECTORS", "../shared/vectors") / name
    if not path.exists():
        pytest.skip(f"genuine vector {name} is not here; set CHRYSALIS_VECTORS to the folder that has it")
    return path


@cache
def amd() -> SimulatedAmd:
    return SimulatedAmd.create(NOW)


@cache
def nvidia() -> SimulatedNvidia:
    return SimulatedNvidia.create(NOW)


@cache
def gpu() -> SimulatedGpu:
    return nvidia().make_gpu("H100")


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit the other way, counted modulo their length."""
    altered = bytearray(data)
    altered[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(altered)
