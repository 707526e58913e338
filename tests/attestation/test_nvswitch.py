"""NVSwitches: genuine reports and chains hold, one down to its manifest; every way of cheating has its refusal."""

import base64
import json
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestation.chain_cache import ChainCache
from attestation.errors import (
    AttestationError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    GpuBindingError,
    GpuStateError,
    MalformedEvidenceError,
    RimMismatchError,
    UntrustedRootError,
)
from attestation.evidence import SwitchEvidence
from attestation.nvswitch import NvSwitchClaims, check_switch, read_switch_facts
from attestation.roots import NVIDIA_DEVICE_ROOT
from attestation.sim.firmware import SWITCH_FIRMWARE, SwitchFirmware
from attestation.sim.switch import SimulatedSwitch, SwitchFaults
from attestation.spdm import parse_spdm
from tests.attestation.vendors import NOW, flipped, gpu, nvidia, vector

NONCE = b"n" * 32
GPUS = tuple(bytes([number]) * 8 for number in range(1, 9))
RIMS = {sha256(SWITCH_FIRMWARE.manifest()).digest(): SWITCH_FIRMWARE.manifest()}
GENUINE_RIM = "nvidia-gpu/NV_SWITCH_BIOS_5612_0002_890_9610550001.xml"


@cache
def switch() -> SimulatedSwitch:
    return nvidia().make_switch()


@pytest.fixture(scope="module")
def evidence() -> SwitchEvidence:
    return switch().attest(NONCE, GPUS)


def _check(evidence: SwitchEvidence, **changes: object) -> NvSwitchClaims:
    usual = {"nonce": NONCE, "roots": frozenset({nvidia().root}), "rims": RIMS, "now": NOW}
    return check_switch(evidence, **{**usual, **changes})


@cache
def _genuine(name: str) -> tuple[SwitchEvidence, ...]:
    entries = json.loads(vector(f"nvidia-gpu/{name}.json").read_text())
    chains = [x509.load_pem_x509_certificates(base64.b64decode(entry["certificate"])) for entry in entries]
    return tuple(
        SwitchEvidence(
            report=base64.b64decode(entry["evidence"]),
            chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
        )
        for entry, chain in zip(entries, chains, strict=True)
    )


def _check_genuine(evidence: SwitchEvidence, *rims: bytes) -> NvSwitchClaims:
    return _check(
        evidence,
        nonce=parse_spdm(evidence.report).nonce,
        roots=frozenset({NVIDIA_DEVICE_ROOT}),
        rims={sha256(rim).digest(): rim for rim in rims},
    )


def test_a_genuine_switch_is_accepted_with_its_genuine_manifest() -> None:
    rim = vector(GENUINE_RIM).read_bytes()
    (evidence,) = _genuine("switch_evidence_ls10")
    claims = _check_genuine(evidence, rim)
    assert (claims.model, claims.bios, claims.rim) == ("LS10", "96.10.55.00.01", sha256(rim).digest())
    assert claims.pdi.hex() == "203eb31ad9ed0008"
    assert len(claims.gpus) == 7
    told = {check.name for check in claims.checks if check.outcome != "held"}
    assert told == {"switch firmware identity"}


@given(bit=st.integers(0, 2168 * 8 - 1))
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_in_a_genuine_report_is_refused(bit: int) -> None:
    rim = vector(GENUINE_RIM).read_bytes()
    (evidence,) = _genuine("switch_evidence_ls10")
    with pytest.raises(AttestationError):
        _check(
            replace(evidence, report=flipped(evidence.report, bit)),
            nonce=evidence.report[4:36],
            roots=frozenset({NVIDIA_DEVICE_ROOT}),
            rims={sha256(rim).digest(): rim},
        )


@pytest.mark.parametrize("index", range(4))
def test_the_genuine_switches_of_an_hgx_hold_up_to_their_manifest_which_is_not_here(index: int) -> None:
    with pytest.raises(RimMismatchError, match=r"manifest 96\.10\.73\.00\.01") as caught:
        _check_genuine(_genuine("hgx4_ppcie_switch_evidence")[index], vector(GENUINE_RIM).read_bytes())
    held = [check.name for check in caught.value.checks if check.outcome == "held"]
    assert held[-2:] == ["switch identifier", "switch routes"]


def test_a_genuine_manifest_of_another_device_under_the_right_version_is_refused() -> None:
    name = "nvidia-gpu/NV_SWITCH_BIOS_5612_0002_890_9610550001_measurement_mismatch.xml"
    with pytest.raises(RimMismatchError, match="0 found"):
        _check_genuine(_genuine("switch_evidence_ls10")[0], vector(name).read_bytes())


def test_a_simulated_report_has_the_fields_of_a_genuine_one_in_its_order() -> None:
    genuine = parse_spdm(_genuine("hgx4_ppcie_switch_evidence")[0].report)
    simulated = parse_spdm(switch().attest(NONCE, GPUS).report)
    assert {number: len(value) for number, value in simulated.opaque.items()} == {
        number: len(value) for number, value in genuine.opaque.items()
    }
    assert list(simulated.opaque) == list(genuine.opaque)
    assert len(simulated.measurements) == len(genuine.measurements) == 31


def test_an_honest_switch_is_accepted(evidence: SwitchEvidence) -> None:
    claims = _check(evidence)
    assert (claims.model, claims.bios, claims.pdi) == ("LS10", SWITCH_FIRMWARE.bios, switch().pdi)
    assert claims.gpus == frozenset(GPUS)


def test_a_switch_with_fewer_gpus_names_each_once(evidence: SwitchEvidence) -> None:
    assert _check(switch().attest(NONCE, GPUS[:3])).gpus == frozenset(GPUS[:3])


@pytest.mark.parametrize(
    ("faults", "refusal"),
    [
        pytest.param({"nonce": b"x" * 32}, GpuBindingError, id="replayed-report"),
        pytest.param({"altered_blocks": (0,)}, RimMismatchError, id="altered-first-block"),
        pytest.param({"altered_blocks": (30,)}, RimMismatchError, id="altered-last-block"),
        pytest.param({"bios": "96.10.55.00.01"}, RimMismatchError, id="bios-without-an-allowed-manifest"),
        pytest.param({"pdi": b"x" * 8}, EndorsementMismatchError, id="identifier-of-another-switch"),
        pytest.param({"locked": False}, GpuStateError, id="routes-that-can-be-changed"),
        pytest.param({"foreign_key": True}, EvidenceSignatureError, id="signed-by-a-key-of-the-attackers-own"),
        pytest.param({"opaque": {20: b"x" * 48}}, EndorsementMismatchError, id="certificate-of-other-firmware"),
        pytest.param({"opaque": {22: b"short"}}, MalformedEvidenceError, id="short-identifier"),
        pytest.param({"opaque": {25: b"\1"}}, MalformedEvidenceError, id="short-lock"),
        pytest.param({"opaque": {25: b"\1\1"}}, GpuStateError, id="lock-of-unknown-value"),
        pytest.param({"opaque": {26: b"\1" * 127}}, MalformedEvidenceError, id="gpus-cut-short"),
        pytest.param({"opaque": {6: b"../../x"}}, MalformedEvidenceError, id="bios-version-that-is-a-path"),
    ],
)
def test_refused(faults: dict[str, object], refusal: type[AttestationError]) -> None:
    with pytest.raises(refusal):
        _check(switch().attest(NONCE, GPUS, SwitchFaults(**faults)))


def test_refused_under_nvidias_genuine_root(evidence: SwitchEvidence) -> None:
    with pytest.raises(UntrustedRootError):
        _check(evidence, roots=frozenset({NVIDIA_DEVICE_ROOT}))


def test_refused_gpu_in_the_place_of_a_switch() -> None:
    with pytest.raises(EndorsementMismatchError, match="switch chip: GH100"):
        _check(gpu().attest(NONCE))


def test_refused_leaf_of_another_switch(evidence: SwitchEvidence) -> None:
    other = nvidia().make_switch()
    with pytest.raises(EvidenceSignatureError):
        _check(replace(evidence, chain=(other.chain[0], *evidence.chain[1:])))


def test_refused_even_after_the_authorities_above_it_held() -> None:
    cache = ChainCache()
    honest = switch().attest(NONCE, GPUS)
    _check(honest, cache=cache)
    other = nvidia().make_switch()
    for chain in ((other.chain[0], *honest.chain[1:]), (honest.chain[0], *other.chain[1:])):
        with pytest.raises(EvidenceSignatureError):
            _check(replace(honest, chain=chain), cache=cache)


def test_refused_manifest_of_a_gpu_with_the_same_version(evidence: SwitchEvidence) -> None:
    rim = SWITCH_FIRMWARE.manifest().replace(b'product="LS10"', b'product="GH100"')
    assert rim != SWITCH_FIRMWARE.manifest()
    with pytest.raises(RimMismatchError, match="0 found"):
        _check(evidence, rims={sha256(rim).digest(): rim})


def test_among_manifests_of_one_version_the_one_that_agrees_is_found() -> None:
    other = SwitchFirmware(bios="96.10.FF.00.02").manifest().replace(b"96.10.FF.00.02", b"96.10.FF.00.01")
    both = {sha256(other).digest(): other, **RIMS}
    assert _check(switch().attest(NONCE, GPUS), rims=both).rim == next(iter(RIMS))


def test_a_saved_switch_works_and_holds_no_vendor_key() -> None:
    saved = switch().to_bytes()
    again = SimulatedSwitch.from_bytes(saved)
    assert _check(again.attest(NONCE, GPUS)).pdi == switch().pdi
    assert nvidia().provisioner_key.private_numbers().private_value.to_bytes(48, "big") not in saved


@pytest.mark.parametrize("count", [0, 9])
def test_a_simulated_switch_has_one_to_eight_gpus(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        switch().attest(NONCE, [b"g" * 8] * count)


@given(number=st.sampled_from((6, 22, 25, 26)), value=st.binary(max_size=140))
@example(number=26, value=b"\xff" * 128)
@settings(max_examples=60, deadline=None)
def test_reading_facts_raises_only_its_own_error(number: int, value: bytes) -> None:
    report = parse_spdm(switch().attest(NONCE, GPUS).report)
    with suppress(MalformedEvidenceError):
        read_switch_facts(replace(report, opaque={**report.opaque, number: value}))
