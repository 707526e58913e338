"""NVIDIA GPUs: check an SPDM report down to NVIDIA's device root, and its measurements against manifests.

A good signature proves which GPU and firmware spoke. That confidential computing is on follows only together with
measurements equal to the manifests here, and with the state the measured guest read (`Transcript.cc`).

Source: NVIDIA's published verifiers for what the opaque fields and manifest indices mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.chain_cache import ChainCache
from attestation.errors import (
    AttestationError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    GpuBindingError,
    GpuStateError,
    RimMismatchError,
)
from attestation.evidence import GpuEvidence
from attestation.nvidia_chain import GpuEndorsement, check_chain
from attestation.nvidia_facts import GpuFacts, GpuFeature, read_facts
from attestation.rim import Rim, parse_rim
from attestation.spdm import SpdmReport, parse_spdm
from attestation.verdict import Check, CheckLog

__all__ = [
    "ChainCache",
    "GpuFacts",
    "GpuFeature",
    "NvidiaClaims",
    "check_measurements",
    "check_report",
    "check_signed",
    "load_rims",
    "read_facts",
]

NVDEC0_BLOCK = 35  # manifest index of the video decoder's measurement; it counts only where that unit is on
# Protected PCIe trusts the switches in between; their evidence is not part of ours, so it is refused by default.
ACCEPTED_FEATURES = frozenset({GpuFeature.SPT, GpuFeature.MPT})


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaClaims:
    """What an accepted GPU report says.

    Attributes:
        model: chip ("GH100"), as certificate and manifests name it.
        board: project, project SKU and chip SKU.
        driver: driver version.
        vbios: VBIOS version.
        feature: pass-through mode.
        device_id: SHA-256 of the GPU's own key, 32 bytes.
        rims: SHA-256 of the driver's and the VBIOS's manifest.
        root: SHA-256 of the root key's SubjectPublicKeyInfo.
        not_after: when the first certificate runs out.
        checks: everything that was checked, all held.
    """

    model: str
    board: str
    driver: str
    vbios: str
    feature: GpuFeature
    device_id: bytes
    rims: tuple[bytes, bytes]
    root: bytes
    not_after: datetime
    checks: tuple[Check, ...]


def load_rims(files: Mapping[bytes, bytes]) -> tuple[Rim, ...]:
    """Read manifests once for all GPUs of a host.

    Args:
        files: SHA-256 pinned by the policy -> the file.

    Raises:
        MalformedEvidenceError: a file is no manifest.
        RimMismatchError: a file is not the one its digest names.
    """
    for digest, data in files.items():
        if not compare_digest(sha256(data).digest(), digest):
            raise RimMismatchError(f"manifest {digest.hex()} is another file; fetch it again")
    return tuple(parse_rim(data) for data in files.values())


def check_report(
    evidence: GpuEvidence,
    *,
    nonce: bytes,
    roots: frozenset[bytes],
    rims: Mapping[bytes, bytes] | Sequence[Rim],
    now: datetime,
    features: frozenset[GpuFeature] = ACCEPTED_FEATURES,
    cache: ChainCache | None = None,
) -> NvidiaClaims:
    """Check a GPU report down to a pinned NVIDIA root key and against pinned manifests.

    1. Certificates: `nvidia_chain.check_chain`.
    2. Signature, nonce and firmware identity: `check_signed`.
    3. Pass-through mode is one of `features`.
    4. Measurements: `check_measurements`.

    Args:
        evidence: SPDM request and response, and certificates.
        nonce: the 32 bytes this GPU had to sign.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        rims: allowed manifests: pinned SHA-256 -> file, or what `load_rims` returned.
        now: the verifier's time.
        features: modes accepted.
        cache: chains that held before, if the caller keeps them.

    Raises:
        AttestationError: a subclass that names the refusal, carrying the checks that ran.
    """
    log = CheckLog()
    try:
        endorsement = check_chain(evidence.chain, roots=roots, now=now, log=log, cache=cache)
        report = parse_spdm(evidence.report)
        facts = read_facts(report)
        check_signed(report, facts, endorsement, nonce=nonce, log=log)
        log.require(
            "GPU mode",
            facts.feature in features,
            seen=str(facts.feature),
            required=" or ".join(sorted(map(str, features))),
            error=GpuStateError,
        )
        manifests = load_rims(rims) if isinstance(rims, Mapping) else rims
        driver, vbios = check_measurements(report, facts, endorsement.model, manifests, log=log)
    except AttestationError as error:
        raise error.with_checks(log.checks) from None
    return NvidiaClaims(
        model=endorsement.model,
        board=facts.board,
        driver=facts.driver,
        vbios=facts.vbios,
        feature=facts.feature,
        device_id=endorsement.device_id,
        rims=(driver.digest, vbios.digest),
        root=endorsement.root,
        not_after=endorsement.not_after,
        checks=log.checks,
    )


def check_signed(
    report: SpdmReport, facts: GpuFacts, endorsement: GpuEndorsement, *, nonce: bytes, log: CheckLog
) -> None:
    """Check a report against the key NVIDIA endorsed.

    The firmware identity (FWID) must stand in both report and leaf certificate, and be the same. All genuine leaves
    carry it; drivers before 550 leave it out of the report, and are refused: nothing else ties such a report to the
    firmware the certificate was made for.

    Raises:
        EvidenceSignatureError, GpuBindingError, EndorsementMismatchError.
    """
    try:
        endorsement.public_key.verify(encode_dss_signature(*report.signature), report.signed, ECDSA(SHA384()))
        seen = "valid"
    except InvalidSignature:
        seen = "invalid"
    log.require("GPU report signature", seen == "valid", seen=seen, required="valid", error=EvidenceSignatureError)
    log.require(
        "GPU nonce",
        compare_digest(report.nonce, nonce),
        seen=report.nonce.hex(),
        required=nonce.hex(),
        error=GpuBindingError,
    )
    log.require(
        "GPU firmware identity",
        facts.fwid is not None and endorsement.fwid is not None and compare_digest(facts.fwid, endorsement.fwid),
        seen=facts.fwid.hex() if facts.fwid else "none in the report (driver older than 550)",
        required=endorsement.fwid.hex() if endorsement.fwid else "in report and certificate",
        error=EndorsementMismatchError,
    )


def check_measurements(
    report: SpdmReport, facts: GpuFacts, model: str, rims: Sequence[Rim], *, log: CheckLog
) -> tuple[Rim, Rim]:
    """Compare the measurements with the manifests of exactly this chip, driver and VBIOS.

    A manifest names its VBIOS version but not the board (that is only in its published name), so all allowed manifests
    with the right version are tried, and one must agree in full. Index n of a manifest is block n + 1 of the report.

    Returns:
        The driver's and the VBIOS's manifest.

    Raises:
        RimMismatchError: no such manifest among those allowed, none agrees, or driver and VBIOS claim the same index.
    """
    drivers = _candidates(rims, model, facts.driver, f"GPU driver manifest {facts.driver}", log)
    names = f"GPU VBIOS manifest {facts.vbios_manifest}"
    boards = _candidates(rims, model, facts.vbios, names, log)
    pairs = [(driver, vbios) for driver in drivers for vbios in boards]
    differing = [_differences(report, facts, driver, vbios) for driver, vbios in pairs]
    least = min(differing, key=len)
    log.require(
        "GPU measurements",
        not least,
        seen=f"blocks {', '.join(map(str, sorted(least)))} differ" if least else "all equal",
        required="equal to driver and VBIOS manifest",
        error=RimMismatchError,
    )
    return pairs[differing.index(least)]


def _candidates(rims: Sequence[Rim], model: str, version: str, name: str, log: CheckLog) -> list[Rim]:
    found = [rim for rim in rims if rim.version == version and rim.product == model]
    required = f"an allowed manifest for {model}; ask for it to be allowed, or run an allowed version"
    log.require(name, bool(found), seen=f"{len(found)} found", required=required, error=RimMismatchError)
    return found


def _differences(report: SpdmReport, facts: GpuFacts, driver: Rim, vbios: Rim) -> set[int]:
    """Return the manifest indices at which the report is not as it should be."""
    overlap = driver.measurements.keys() & vbios.measurements.keys()
    if overlap:
        raise RimMismatchError(f"driver and VBIOS manifest both claim index {min(overlap)}: not a pair")
    golden = {**driver.measurements, **vbios.measurements}
    if not facts.nvdec0:
        golden.pop(NVDEC0_BLOCK, None)
    blocks = report.measurements
    return {index for index, values in golden.items() if index >= len(blocks) or blocks[index] not in values}
