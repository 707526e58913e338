"""The CPU's part of an appraisal: whichever vendor's evidence in, one kind of claims out."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import NamedTuple

from attestation import snp, tdx
from attestation.chain_cache import ChainCache
from attestation.errors import MeasurementNotAllowedError
from attestation.evidence import SnpEvidence, TdxEvidence
from attestation.floors import Floors, Mark
from attestation.policy import AppraisalPolicy
from attestation.roots import trust_domain
from attestation.td_image import check_image
from attestation.tdx_quote import TdBody
from attestation.verdict import CheckLog, TeeKind

_PLATFORM_TAG = b"chrysalis/1 platform"


class CpuClaims(NamedTuple):
    """What a genuine CPU says, whichever vendor made it; the fields are those of `attestation.verdict.Verdict`.

    Attributes:
        body: the signed report; of TDX only.
        report_data: 64 bytes the guest chose.
    """

    tee: TeeKind
    body: TdBody | None
    report_data: bytes
    measurement: bytes
    tcb_status: str
    signing_key: str
    advisories: tuple[str, ...]
    platform_id: bytes
    trust_domain: str
    not_after: datetime
    marks: Floors


def check_cpu(
    evidence: TdxEvidence | SnpEvidence,
    policy: AppraisalPolicy,
    *,
    now: datetime,
    chains: ChainCache | None,
    floors: Floors | None,
    log: CheckLog,
) -> CpuClaims:
    """Check that the CPU is genuine, its firmware and guest settings acceptable, its endorsements not rolled back.

    Args:
        evidence: the CPU's.
        policy: what we accept.
        now: our time, UTC.
        chains: certificate chains that held before, when the caller keeps them.
        floors: how new vendors' lists have been, when the caller keeps that.
        log: gets the checks.

    Raises:
        AttestationError: a subclass named after what failed.
    """
    if isinstance(evidence, TdxEvidence):
        cpu = _check_tdx(evidence, policy, now, log)
    else:
        cpu = _check_snp(evidence, policy, now=now, chains=chains, log=log)
    if floors is None:
        log.skip("endorsements not rolled back", why="a verifier that remembers how new they were")
    else:
        floors.check(cpu.marks, lag_max_s=policy.collateral_lag_max_s, log=log)
    return cpu


def check_measurement(cpu: CpuClaims, policy: AppraisalPolicy, log: CheckLog) -> None:
    """Check that the image is a reference value.

    Raises:
        MeasurementNotAllowedError: it is none.
    """
    if cpu.body is not None:
        check_image(cpu.body, policy.images, policy.reference.measurements, log)
        return
    log.require(
        "image",
        cpu.measurement in policy.reference.measurements,
        seen=cpu.measurement.hex(),
        required=f"one of {len(policy.reference.measurements)} allowed measurement ids",
        error=MeasurementNotAllowedError,
    )


def _check_tdx(evidence: TdxEvidence, policy: AppraisalPolicy, now: datetime, log: CheckLog) -> CpuClaims:
    claims = tdx.check_quote(
        evidence, roots=policy.pins("intel"), now=now, tcb=policy.tcb_rules, rules=policy.tdx_rules
    )
    log.extend(claims.checks)
    return CpuClaims(
        tee=TeeKind.TDX,
        body=claims.body,
        report_data=claims.report_data,
        measurement=claims.measurement_id,
        tcb_status=claims.platform.tcb_status,
        signing_key="PCK",
        advisories=claims.platform.advisories,
        platform_id=claims.platform.platform_id,
        trust_domain=trust_domain("intel", claims.platform.root),
        not_after=claims.platform.not_after,
        marks=claims.marks,
    )


def _check_snp(
    evidence: SnpEvidence, policy: AppraisalPolicy, *, now: datetime, chains: ChainCache | None, log: CheckLog
) -> CpuClaims:
    claims = snp.check_report(
        evidence, roots=policy.pins("amd"), floor=policy.snp_floor, rules=policy.snp_rules, now=now, cache=chains
    )
    log.extend(claims.checks)
    return CpuClaims(
        tee=TeeKind.SEV_SNP,
        body=None,
        report_data=claims.report_data,
        measurement=claims.measurement_id,
        tcb_status=claims.tcb_status,
        signing_key=f"VLEK of {claims.provider}" if claims.provider else str(claims.signing_key),
        advisories=(),
        platform_id=hashlib.sha256(_PLATFORM_TAG + b"sev-snp" + claims.chip_id).digest(),
        trust_domain=trust_domain("amd", claims.root),
        not_after=claims.not_after,
        marks=Floors.of(
            [Mark(series=f"amd/{claims.root.hex()}/crl", number=claims.crl_number or 0, issued=claims.crl_issued)]
        ),
    )
