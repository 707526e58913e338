"""A GPU that left confidential computing while its host serves: the host is out until its measurements are good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from attestation.floor_store import FloorStore
from attestation.policy import ReferenceValues
from attestation.simulate import Fault
from attestation.verdict import Tier
from cluster.address_book import AddressBook
from cluster.fleet import HostState
from cluster.model import HostHints
from cluster.registry import Registry
from cluster.reputation import RatingFile
from tests.attestation.hosts import TDX_CPU, host
from tests.attestation.vendors import NOW
from tests.cluster.enclaves import TERMS, Clock, Gate, RouteMap
from tests.cluster.tdx_enclaves import POLICY_TDX, TdxEnclave

STATES = [
    pytest.param(Fault.CC_OFF, "GpuStateError", id="switched-off"),
    pytest.param(Fault.ALTERED_GPU_FIRMWARE, "RimMismatchError", id="measurements-stale-after-switching"),
]


@pytest.mark.parametrize(("fault", "error"), STATES)
async def test_a_gpu_that_was_switched_is_out_until_it_measures_as_the_vendor_says_again(
    tmp_path: Path, fault: Fault, error: str
) -> None:
    honest, clock, routes = host(TDX_CPU, 1), Clock(), RouteMap()
    clock.now = NOW + timedelta(minutes=1)
    enclave = TdxEnclave("a", honest)
    clean = enclave.hardware
    reference = ReferenceValues(
        measurements=frozenset({honest.measurement_id()}),
        rims=honest.rim_digests(),
        models=TERMS.reference.models,
    )
    registry = Registry(
        gate=Gate(a=enclave),
        routes=routes,
        book=AddressBook(tmp_path / "book"),
        floors=FloorStore(tmp_path / "floors"),
        ratings=RatingFile(tmp_path / "reputation"),
        policy=replace(POLICY_TDX, required_tier=Tier.CONFIDENTIAL),
        terms=replace(TERMS, reference=reference),
        clock=clock,
    )
    assert (await registry.admit("a", HostHints())).accepted

    enclave.hardware = clean.with_faults(fault)
    clock.forward(400)  # past half of the verdict's life
    await registry.round()
    await registry.settled()
    for _ in range(3):  # asking again, answering health checks and waiting do not help
        record = registry.snapshot().hosts[0]
        assert (record.state, record.error, routes.hosts) == (HostState.REFUSED, error, {})
        await registry.round()
        clock.forward(10)
        assert not (await registry.admit("a", HostHints())).accepted

    enclave.hardware = clean  # the owner restarted machine and GPU
    assert (await registry.admit("a", HostHints())).accepted
    assert list(routes.hosts.values()) == ["a"]
