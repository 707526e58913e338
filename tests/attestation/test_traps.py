"""What libraries let through and other verifiers overlooked: shown to be so where it can be, and refused here."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import dcap_qvl
import pytest

from attestation import errors as refusals
from attestation.collateral import encode_collateral
from attestation.evidence import Evidence, TdxEvidence
from attestation.intel import STRICT
from attestation.policy import TCB_STATUSES
from attestation.sim.collateral import LIFE, CollateralFaults
from attestation.sim.tdx import SimulatedTdxPlatform, image_of
from attestation.tdx import TdxClaims, check_quote
from attestation.tdx_quote import parse_quote
from tests.attestation.hosts import NONCES, SNP_CPU, TDX_CPU, appraise, evidence_of, host, policy_for, vendors
from tests.attestation.vendors import NOW

ROOT = Path(__file__).parents[2]
PACKAGES = ("attestation", "billing", "chrysalis", "client", "cluster", "enclave", "serve_apps")
REPORT_DATA = bytes(range(64))
P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
QUOTE_SIGNATURE = 48 + 584 + 4  # of version 4: behind header, report and length
REPORT_SIGNATURE = 0x2A0  # of SEV-SNP: r, then s, little-endian, 72 bytes each


@pytest.fixture(scope="module")
def platform() -> SimulatedTdxPlatform:
    return vendors().intel.make_platform(NOW)


def _quote(platform: SimulatedTdxPlatform) -> bytes:
    return platform.quote(REPORT_DATA, image=image_of(b"i" * 32))


def _check(evidence: TdxEvidence, *, now: datetime = NOW) -> TdxClaims:
    return check_quote(evidence, roots=vendors().roots().intel, now=now)


def _library_alone(evidence: TdxEvidence) -> str:
    """The TCB status that the library returns when it is called as its introduction says."""
    bundle = dcap_qvl.QuoteCollateralV3.from_json(evidence.collateral)
    root = parse_quote(_quote_only(evidence.quote)).chain[-1]
    status: str = dcap_qvl.verify_with_root_ca(evidence.quote, bundle, root, int(NOW.timestamp())).status
    return status


def _quote_only(quote: bytes) -> bytes:
    return quote[: QUOTE_SIGNATURE + int.from_bytes(quote[QUOTE_SIGNATURE - 4 : QUOTE_SIGNATURE], "little")]


@pytest.mark.parametrize("status", [status for status in TCB_STATUSES[1:] if not status.startswith("TDRelaunch")])
def test_a_status_the_library_returns_without_complaint_is_refused(platform: SimulatedTdxPlatform, status: str) -> None:
    collateral = vendors().intel.collateral(platform, NOW, CollateralFaults(tcb_status=status))
    evidence = platform.with_collateral(collateral).evidence(_quote(platform))
    assert _library_alone(evidence) == status
    with pytest.raises(refusals.TcbStatusError):
        _check(evidence)


def test_bytes_behind_a_quote_that_the_library_ignores_are_refused(platform: SimulatedTdxPlatform) -> None:
    padded = platform.evidence(_quote(platform) + b"another name for the same quote")
    assert _library_alone(padded) == "UpToDate"
    with pytest.raises(refusals.MalformedEvidenceError):
        _check(padded)


def test_another_provisioning_enclave_that_the_library_does_not_compare_is_refused(
    platform: SimulatedTdxPlatform,
) -> None:
    collateral = vendors().intel.collateral(platform, NOW, CollateralFaults(pce_id=b"\0\1"))
    evidence = platform.with_collateral(collateral).evidence(_quote(platform))
    assert _library_alone(evidence) == "UpToDate"
    with pytest.raises(refusals.TcbStatusError, match="pceId"):
        _check(evidence)


def test_the_librarys_strict_policy_alone_refuses_every_server_and_ours_does_not(
    platform: SimulatedTdxPlatform,
) -> None:
    evidence, now = platform.evidence(_quote(platform)), int(NOW.timestamp())
    bundle = dcap_qvl.QuoteCollateralV3.from_json(evidence.collateral)
    verifier = dcap_qvl.QuoteVerifier(platform.chain[-1])
    with pytest.raises(ValueError, match="Dynamic platform"):
        verifier.verify_with_policy(evidence.quote, bundle, now, dcap_qvl.QuotePolicy.strict(now))
    assert verifier.verify_with_policy(evidence.quote, bundle, now, STRICT.for_library(NOW))
    assert _check(evidence).platform.tcb_status == "UpToDate"


def test_the_quote_library_is_asked_under_a_policy_only_and_fetches_nothing() -> None:
    nodes = [
        node
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dcap_qvl"
    }
    assert used == {"QuoteClaims", "QuoteCollateralV3", "QuotePolicy", "QuoteVerifier", "parse_quote"}
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "dcap_qvl"]


# Each list has a window of its own; a verifier that checks some of them takes old data for new.
PIECES = {
    "tcb-info": ("tcb_info", "tcb_info_signature"),
    "enclave-identity": ("qe_identity", "qe_identity_signature"),
    "revocation-list-of-the-platform-ca": ("pck_crl",),
    "revocation-list-of-the-root": ("root_ca_crl",),
}


@pytest.mark.parametrize("fields", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("age", [LIFE + timedelta(days=1), timedelta(days=-2)], ids=["stale", "from-the-future"])
def test_one_list_outside_its_own_time_is_refused_although_all_others_are_current(
    platform: SimulatedTdxPlatform, fields: tuple[str, ...], age: timedelta
) -> None:
    current = json.loads(platform.collateral)
    other = json.loads(vendors().intel.collateral(platform, NOW, CollateralFaults(age=age)))
    mixed = encode_collateral({**current, **{field: other[field] for field in fields}})
    evidence = platform.with_collateral(mixed).evidence(_quote(platform))
    with pytest.raises(refusals.EndorsementExpiredError):
        _check(evidence)
    assert _check(platform.evidence(evidence.quote)), "with the current one it holds"


def _mirrored(evidence: Evidence) -> Evidence:
    """The same evidence with the other valid form of the CPU's signature: (r, n - s)."""
    cpu = evidence.cpu
    if isinstance(cpu, TdxEvidence):
        at = QUOTE_SIGNATURE + 32
        mirrored = P256 - int.from_bytes(cpu.quote[at : at + 32], "big")
        return replace(
            evidence, cpu=replace(cpu, quote=cpu.quote[:at] + mirrored.to_bytes(32, "big") + cpu.quote[at + 32 :])
        )
    assert cpu is not None
    at = REPORT_SIGNATURE + 72
    mirrored = P384 - int.from_bytes(cpu.report[at : at + 72], "little")
    report = cpu.report[:at] + mirrored.to_bytes(72, "little") + cpu.report[at + 72 :]
    return replace(evidence, cpu=replace(cpu, report=report))


@pytest.mark.parametrize("kind", [TDX_CPU, SNP_CPU])
def test_a_second_spelling_of_a_signature_is_no_second_evidence(kind: object) -> None:
    evidence, policy = evidence_of(host(kind)), policy_for(host(kind))
    mirrored = _mirrored(evidence)
    assert mirrored != evidence
    first, second = appraise(evidence, policy), appraise(mirrored, policy)
    assert (second.transcript_digest, second.host_id, second.platform_id) == (
        first.transcript_digest,
        first.host_id,
        first.platform_id,
    ), "it is known again by what was signed, never by a hash of the evidence"
    assert second == first


def test_a_second_spelling_of_a_gpus_signature_is_refused() -> None:
    evidence, policy = evidence_of(host(TDX_CPU, 1)), policy_for(host(TDX_CPU, 1))
    gpu = evidence.gpus[0]
    s = P384 - int.from_bytes(gpu.report[-48:], "big")
    mirrored = replace(gpu, report=gpu.report[:-48] + s.to_bytes(48, "big"))
    with pytest.raises(refusals.GpuBindingError):
        appraise(replace(evidence, gpus=(mirrored,)), policy)


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_vendor_without_a_status_list_is_not_said_to_be_up_to_date(gpus: int) -> None:
    verdict = appraise(evidence_of(host(SNP_CPU, gpus)), policy_for(host(SNP_CPU, gpus)))
    assert verdict.tcb_status == "AtOrAboveFloor"
    assert verdict.tcb_status not in TCB_STATUSES
    assert all("UpToDate" not in check.seen + check.required for check in verdict.checks)


def test_a_document_read_on_its_way_is_worth_nothing_to_who_read_it() -> None:
    """Evidence is public and travels over plain HTTP; it answers one nonce and names keys the reader does not have."""
    evidence, policy = evidence_of(host(TDX_CPU)), policy_for(host(TDX_CPU))
    thief = replace(evidence, transcript=replace(evidence.transcript, hpke=b"x" * 1216, receipt=b"y" * 32))
    with pytest.raises(refusals.BindingMismatchError):
        appraise(thief, policy)
    later = replace(evidence, transcript=replace(evidence.transcript, nonce_root=NONCES[0]))
    with pytest.raises(refusals.FreshnessError):
        appraise(later, policy)
