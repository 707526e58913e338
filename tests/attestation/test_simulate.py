"""Simulated vendors and hosts: one file per host, no vendor key in it, and the clock of a real machine."""

from __future__ import annotations

import stat
import threading
import time
from pathlib import Path

import pytest

from attestation import TeeKind
from attestation.sim.collateral import CollateralFaults
from attestation.sim.der import key_bytes
from attestation.simulate import QUOTE_LATENCY_S, Fault, SimulatedHost, SimulatedVendors
from tests.attestation.hosts import SNP_CPU, TDX_CPU, appraise, base_transcript, evidence_of, host, policy_for, vendors
from tests.attestation.vendors import NOW


@pytest.mark.parametrize("kind", list(TeeKind))
def test_a_host_is_one_file_and_comes_back_the_same(kind: TeeKind, tmp_path: Path) -> None:
    before = vendors().make_host(kind, gpus=2, faults=[Fault.CC_OFF], quote_latency_s=0.001, image=b"i" * 32)
    before.save(tmp_path / "host")
    after = SimulatedHost.load(tmp_path / "host")
    assert after.measurement_id() == before.measurement_id()
    assert after.rim_digests() == before.rim_digests()
    assert (after.image, after.faults, after.quote_latency_s) == (before.image, before.faults, before.quote_latency_s)
    assert appraise(evidence_of(after.with_faults()), policy_for(before)).tee is kind


def test_a_host_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "host"
    path.write_bytes(b"someone else's, readable by all")
    host(TDX_CPU).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", list(TeeKind))
def test_a_host_file_holds_no_vendor_key(kind: TeeKind, tmp_path: Path) -> None:
    host(kind, 1).save(tmp_path / "host")
    data = (tmp_path / "host").read_bytes()
    vendor = vendors()
    keys = (
        vendor.intel.root_key,
        vendor.intel.platform_key,
        vendor.intel.tcb_key,
        vendor.amd.ark_key,
        vendor.amd.ask_key,
        vendor.nvidia.provisioner_key,
    )
    for key in keys:
        assert key_bytes(key) not in data
        numbers = key.private_numbers()
        secret = getattr(numbers, "private_value", None) or numbers.d
        assert secret.to_bytes((secret.bit_length() + 7) // 8, "big") not in data


def test_vendors_come_back_with_the_same_roots_and_can_endorse(tmp_path: Path) -> None:
    vendors().save(tmp_path / "vendors")
    again = SimulatedVendors.load(tmp_path / "vendors")
    assert again.roots() == vendors().roots()
    assert again.created == NOW
    for kind in TeeKind:
        new = again.make_host(kind, gpus=1, quote_latency_s=0)
        assert appraise(evidence_of(new), policy_for(new)).gpus


@pytest.mark.parametrize("load", [SimulatedHost.load, lambda path: SimulatedVendors.load(path.parent)])
def test_another_file_is_not_taken_for_a_saved_one(load: object, tmp_path: Path) -> None:
    path = tmp_path / "vendors.cbor"
    path.write_bytes(b"\xa1\x61v\x01")
    with pytest.raises(ValueError, match="make"):
        load(path)


def test_two_vendors_have_nothing_in_common() -> None:
    other = SimulatedVendors(
        created=NOW,
        intel=type(vendors().intel).create(NOW),
        amd=vendors().amd,
        nvidia=type(vendors().nvidia).create(NOW),
    )
    assert other.roots().intel.isdisjoint(vendors().roots().intel)
    assert other.roots().nvidia.isdisjoint(vendors().roots().nvidia)


def test_one_image_measures_the_same_on_every_host_of_a_kind_and_differently_on_another() -> None:
    one, two = (vendors().make_host(TDX_CPU, quote_latency_s=0) for _ in range(2))
    assert one.measurement_id() == two.measurement_id()
    assert one.measurement_id() != vendors().make_host(TDX_CPU, image=b"x" * 32).measurement_id()
    assert one.measurement_id() != host(SNP_CPU).measurement_id()


def test_a_tdx_host_cannot_be_given_a_lie_of_snp() -> None:
    with pytest.raises(ValueError, match="needs an SEV-SNP host"):
        host(TDX_CPU, 0, Fault.MEMORY_ALIASES)


@pytest.mark.parametrize(("fault", "gpus"), [(Fault.CC_OFF, 0), (Fault.DOUBLED_GPU, 1), (Fault.REORDERED_GPUS, 1)])
def test_a_gpu_fault_needs_gpus(fault: Fault, gpus: int) -> None:
    with pytest.raises(ValueError, match="GPUs"):
        vendors().make_host(TDX_CPU, gpus=gpus, faults=[fault])
    with pytest.raises(ValueError, match="GPUs"):
        host(TDX_CPU, gpus).with_faults(fault)


def test_reports_of_one_host_wait_for_each_other() -> None:
    slow = vendors().make_host(TDX_CPU, quote_latency_s=0.02)
    threads = [threading.Thread(target=slow.attest, args=(base_transcript(),)) for _ in range(4)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 4 * 0.02


def test_a_report_takes_as_long_as_a_real_one_by_default() -> None:
    assert vendors().make_host(TDX_CPU).quote_latency_s == QUOTE_LATENCY_S == 0.039


@pytest.mark.parametrize("kind", list(TeeKind))
def test_fresh_endorsements_replace_stale_ones(kind: TeeKind) -> None:
    stale = host(kind, 0, Fault.STALE_COLLATERAL)
    fresh = vendors().refresh(stale, now=NOW)
    assert appraise(evidence_of(fresh), policy_for(fresh)).tee is kind
    assert vendors().refresh(fresh, now=NOW, faults=CollateralFaults()).measurement_id() == fresh.measurement_id()
