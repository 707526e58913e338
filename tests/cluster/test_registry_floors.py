"""The registry remembers how new vendors' lists have been, also after a restart."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from attestation.collect import extend_named
from attestation.errors import FloorFileError
from attestation.evidence import encode_evidence
from attestation.floor_store import FloorStore
from attestation.merkle import inclusion_proof, nonce_root
from attestation.policy import ReferenceValues
from attestation.sim.collateral import CollateralFaults
from attestation.simulate import SimulatedHost
from attestation.transcript import Transcript
from attestation.verdict import Tier
from cluster.address_book import AddressBook
from cluster.model import HostHints
from cluster.registry import Registry
from tests.attestation.hosts import TDX_CPU, host, vendors
from tests.attestation.vendors import NOW
from tests.cluster.enclaves import POLICY, TERMS, Clock, Gate, OpenEnclave, RouteMap

POLICY_TDX = replace(
    POLICY,
    unsafe_simulated_roots=vendors().roots(),
    required_tier=Tier.CONFIDENTIAL_CPU,
    unsafe_accept_open_hosts=False,
)


class TdxEnclave(OpenEnclave):
    """An enclave on a simulated TDX host, with what that host fetched from its vendor."""

    def __init__(self, name: str, hardware: SimulatedHost) -> None:
        super().__init__(name)
        self.hardware = hardware.restarted()
        self.logged = False

    def evidence(self, nonce: bytes) -> bytes:
        base = Transcript(
            nonce_root=nonce_root([nonce]),
            hpke=self.hpke,
            receipt=self.receipt,
            payee=self.payee,
            models=self.models,
            engine=bytes(32),
        )
        if not self.logged:
            extend_named(self.hardware, base)
            self.logged = True
        return encode_evidence(self.hardware.attest(base).evidence(inclusion_proof([nonce], 0)))


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


async def test_evidence_that_is_refused_raises_no_floor(tmp_path: Path) -> None:
    stranger = TdxEnclave("new", replace(_fetched(18), image=b"x" * 32))
    registry = _registry(tmp_path, Gate(old=TdxEnclave("old", _fetched(17)), stranger=stranger))
    assert not (await registry.admit("stranger", HostHints())).accepted
    assert (await registry.admit("old", HostHints())).accepted


def test_a_registry_with_a_damaged_file_does_not_start_and_forgets_nothing(tmp_path: Path) -> None:
    (tmp_path / "floors").write_bytes(b"x" * 40)
    with pytest.raises(FloorFileError):
        _registry(tmp_path, Gate())
