"""NVIDIA GPUs: check an SPDM report down to NVIDIA's device root, and its measurements against manifests.

A good signature proves which GPU and firmware spoke. That confidential computing is on follows only together with
measurements equal to the manifests here, and with the state the measured guest read (`Transcript.cc`).

Source: NVIDIA's published verifiers for what the opaque fields and manifest indices mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from attestation.chain_cache import ChainCache
from attestation.errors import AttestationError, GpuStateError
from attestation.evidence import GpuEvidence
from attestation.nvidia_chain import check_chain
from attestation.nvidia_facts import GpuFacts, GpuFeature, read_facts
from attestation.nvidia_measurements import NVDEC0_BLOCK, check_measurements, load_rims
from attestation.nvidia_report import check_firmware, check_signed
from attestation.rim import Rim
from attestation.spdm import parse_spdm
from attestation.verdict import Check, CheckLog

__all__ = [
    "NVDEC0_BLOCK",
    "ChainCache",
    "GpuFacts",
    "GpuFeature",
    "NvidiaClaims",
    "check_firmware",
    "check_measurements",
    "check_report",
    "check_signed",
    "load_rims",
    "read_facts",
]

# Protected PCIe trusts the switches in between: only `attestation.devices`, which checks them too, may accept it.
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
        pdi: per-device identifier, 8 bytes, by which switches name this GPU; None if its certificate has none.
        switches: per-device identifiers of the switches that it is linked to.
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
    pdi: bytes | None
    switches: frozenset[bytes]
    rims: tuple[bytes, bytes]
    root: bytes
    not_after: datetime
    checks: tuple[Check, ...]


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
    2. Signature and nonce: `nvidia_report.check_signed`; firmware identity and state: `nvidia_report.check_firmware`.
    3. Pass-through mode is one of `features`.
    4. Measurements: `nvidia_measurements.check_measurements`.

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
        check_signed(report, endorsement, nonce=nonce, log=log)
        check_firmware(facts.fwid, endorsement, log=log)
        feature = _check_mode(facts, features, log)
        manifests = load_rims(rims) if isinstance(rims, Mapping) else rims
        driver, vbios = check_measurements(report, facts, endorsement.model, manifests, log=log)
    except AttestationError as error:
        raise error.with_checks(log.checks) from None
    return NvidiaClaims(
        model=endorsement.model,
        board=facts.board,
        driver=facts.driver,
        vbios=facts.vbios,
        feature=feature,
        device_id=endorsement.device_id,
        pdi=endorsement.pdi,
        switches=facts.switches,
        rims=(driver.digest, vbios.digest),
        root=endorsement.root,
        not_after=endorsement.not_after,
        checks=log.checks,
    )


def _check_mode(facts: GpuFacts, features: frozenset[GpuFeature], log: CheckLog) -> GpuFeature:
    feature = facts.feature
    log.require(
        "GPU mode",
        feature in features,
        seen=str(feature or "none told by this driver"),
        required=" or ".join(sorted(map(str, features))),
        error=GpuStateError,
    )
    assert feature is not None
    return feature
