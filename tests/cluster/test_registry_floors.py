"""The registry remembers how new vendors' lists have been, also after a restart."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from attestation.errors import FloorFileError
from attestation.floor_store import FloorStore
from attestation.policy import ReferenceValues
from attestation.sim.collateral import CollateralFaults
from attestation.simulate import SimulatedHost
from cluster.address_book import AddressBook
from cluster.fleet import HostState
from cluster.model import HostHints
from cluster.registry import Registry
from cluster.reputation import RatingFile
from tests.attestation.hosts import TDX_CPU, host, vendors
from tests.attestation.vendors import NOW
from tests.cluster.enclaves import TERMS, Clock, Gate, RouteMap
from tests.cluster.tdx_enclaves import POLICY_TDX, TdxEnclave


def _fetched(evaluation: int) -> SimulatedHost:
    return vendors().refresh(host(TDX_CPU), now=NOW, faults=CollateralFaults(evaluation=evaluation))


def _registry(folder: Path, gate: Gate) -> Registry:
    clock = Clock()
    clock.now = NOW + timedelta(minutes=1)
    reference = ReferenceValues(
        measurements=frozenset({host(TDX_CPU).measurement_id()}), rims=frozenset(), models=TERMS.reference.models
    )
    return Registry(
        gate=gate,
        routes=RouteMap(),
        book=AddressBook(folder / "book"),
        floors=FloorStore(folder / "floors"),
        ratings=RatingFile(folder / "reputation"),
        policy=POLICY_TDX,
        terms=replace(TERMS, reference=reference),
        clock=clock,
    )


async def test_old_signed_collateral_is_refused_once_newer_was_seen_also_after_a_restart(tmp_path: Path) -> None:
    gate = Gate(old=TdxEnclave("old", _fetched(17)), new=TdxEnclave("new", _fetched(18)))
    registry = _registry(tmp_path, gate)
    assert (await registry.admit("old", HostHints())).accepted
    assert (await registry.admit("new", HostHints())).accepted
    for again in (registry, _registry(tmp_path, gate)):
        admission = await again.admit("old", HostHints())
        assert (admission.accepted, admission.error) == (False, "EndorsementRollbackError")
        assert (await again.admit("new", HostHints())).accepted


async def test_newer_collateral_has_hosts_with_older_one_challenged_anew_in_the_next_round(tmp_path: Path) -> None:
    gate = Gate(old=TdxEnclave("old", _fetched(17)))
    registry = _registry(tmp_path, gate)
    old = await registry.admit("old", HostHints())
    gate.enclaves["new"] = TdxEnclave("new", _fetched(18))
    assert (await registry.admit("new", HostHints())).accepted
    await registry.round()
    await registry.settled()
    host_record = registry.snapshot().host(old.host_id)
    assert (host_record.state, host_record.error) == (HostState.REFUSED, "EndorsementRollbackError")
    asked = len(gate.nonces)
    await registry.round()
    await registry.settled()
    assert len(gate.nonces) == asked, "once for each change"


async def test_evidence_that_is_refused_raises_no_floor(tmp_path: Path) -> None:
    stranger = TdxEnclave("new", replace(_fetched(18), image=b"x" * 32))
    registry = _registry(tmp_path, Gate(old=TdxEnclave("old", _fetched(17)), stranger=stranger))
    assert not (await registry.admit("stranger", HostHints())).accepted
    assert (await registry.admit("old", HostHints())).accepted


def test_a_registry_with_a_damaged_file_does_not_start_and_forgets_nothing(tmp_path: Path) -> None:
    (tmp_path / "floors").write_bytes(b"x" * 40)
    with pytest.raises(FloorFileError):
        _registry(tmp_path, Gate())
