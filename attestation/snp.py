"""AMD SEV-SNP: check an attestation report down to AMD's root key.

AMD gives a report no TCB status, so none is claimed: the best this module says is "AtOrAboveFloor".

Source: AMD 56860 (SEV-SNP Firmware ABI) 1.58; AMD 57230 (VCEK certificates) 1.00.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hmac import compare_digest

from attestation.chain_cache import ChainCache
from attestation.errors import AttestationError, EndorsementMismatchError, EvidenceSignatureError, TcbStatusError
from attestation.evidence import SnpEvidence
from attestation.snp_appraisal import check_guest, check_identity, check_platform, check_signing_key
from attestation.snp_certificate import SnpEndorsement
from attestation.snp_chain import check_chain, check_crl
from attestation.snp_policy import SnpRules, SnpSigningKey, SnpTcb, SnpTcbFloor
from attestation.snp_report import REPORT_SIZE, SnpReport, measurement_id, parse_report
from attestation.snp_settings import SnpGuestPolicy
from attestation.snp_tcb import SnpProduct, covers, describe_tcb, is_cpu_of, parse_tcb
from attestation.verdict import Check, CheckLog

__all__ = [
    "REPORT_SIZE",
    "TCB_STATUS",
    "SnpClaims",
    "SnpGuestPolicy",
    "SnpProduct",
    "SnpReport",
    "SnpRules",
    "SnpSigningKey",
    "SnpTcb",
    "SnpTcbFloor",
    "check_report",
    "check_signed",
    "measurement_id",
    "parse_report",
]

TCB_STATUS = "AtOrAboveFloor"
_ECDSA_P384_SHA384 = 1
_STRICT = SnpRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpClaims:
    """What an accepted report says.

    Attributes:
        report_data: 64 bytes the guest chose.
        measurement_id: one value for the whole image, 32 bytes; see `measurement_id`.
        measurement: launch digest, 48 bytes.
        host_data: 32 bytes the host set at launch and the firmware kept.
        chip_id: the processor, 64 bytes.
        report: all of the report.
        signing_key: VCEK or VLEK.
        provider: the cloud provider the VLEK was lent to; empty under a VCEK.
        crl_number: number of AMD's revocation list, which grows with every list; None if it has none.
        crl_issued: when AMD signed that list.
        tcb: the version the signing key stands for.
        tcb_status: always "AtOrAboveFloor".
        product: "Milan", "Genoa" or "Turin".
        root: SHA-256 of the root key's SubjectPublicKeyInfo.
        not_after: when the first certificate or revocation list runs out.
        checks: everything that was checked, all held.
    """

    report_data: bytes
    measurement_id: bytes
    measurement: bytes
    host_data: bytes
    chip_id: bytes
    report: SnpReport
    signing_key: SnpSigningKey
    provider: str
    crl_number: int | None
    crl_issued: datetime
    tcb: SnpTcb
    tcb_status: str
    product: SnpProduct
    root: bytes
    not_after: datetime
    checks: tuple[Check, ...]


def check_report(
    evidence: SnpEvidence,
    *,
    roots: frozenset[bytes],
    floor: SnpTcbFloor,
    now: datetime,
    rules: SnpRules = _STRICT,
    cache: ChainCache | None = None,
) -> SnpClaims:
    """Check a report down to a pinned AMD root key.

    1. Certificates: `snp_chain.check_chain`, and AMD's revocation list: `snp_chain.check_crl`.
    2. The report: `check_signed`.

    Args:
        evidence: report, certificates and revocation list.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        floor: the lowest TCB accepted for each product.
        now: the verifier's time.
        rules: what else is asked of guest, machine, ID block and key.
        cache: chains and lists that held before, if the caller keeps them.

    Returns:
        What the report claims. Whether image and report_data are the right ones is the caller's question.

    Raises:
        AttestationError: a subclass that names the refusal, carrying the checks that ran.
    """
    log = CheckLog()
    try:
        endorsement = check_chain(evidence, roots=roots, now=now, log=log, cache=cache)
        crl = check_crl(evidence.crl, endorsement, now=now, log=log, cache=cache)
        report = parse_report(evidence.report)
        check_signed(report, endorsement, floor=floor, rules=rules, log=log)
    except AttestationError as error:
        raise error.with_checks(log.checks) from None
    return SnpClaims(
        report_data=report.report_data,
        measurement_id=measurement_id(report),
        measurement=report.measurement,
        host_data=report.host_data,
        chip_id=report.chip_id,
        report=report,
        signing_key=endorsement.signing_key,
        provider=endorsement.provider,
        crl_number=crl.number,
        crl_issued=crl.issued,
        tcb=endorsement.tcb,
        tcb_status=TCB_STATUS,
        product=endorsement.product,
        root=endorsement.root,
        not_after=min(crl.renewed, endorsement.not_after),
        checks=log.checks,
    )


def check_signed(
    report: SnpReport,
    endorsement: SnpEndorsement,
    *,
    floor: SnpTcbFloor,
    log: CheckLog,
    rules: SnpRules = _STRICT,
) -> None:
    """Check a report against the key AMD endorsed for it, then against the policy.

    1. ECDSA P-384 signature, and the same kind of key, chip and product in report and certificate.
    2. The policy accepts this kind of key.
    3. Guest, machine and ID block: `snp_appraisal`.
    4. Firmware: the certificate is for the reported TCB, and all four TCBs are at or above the floor.

    Raises:
        EvidenceSignatureError, EndorsementMismatchError, SigningKeyError, GuestPolicyError, PlatformSettingsError,
        IdentityBlockError, TcbStatusError; MalformedEvidenceError for a TCB with reserved parts.
    """
    _check_signature(report, endorsement, log)  # (1)
    _check_endorsed(report, endorsement, log)
    check_signing_key(endorsement.signing_key, endorsement.provider, rules.signing_keys, log)  # (2)
    check_guest(report, rules.guest, log)  # (3)
    check_platform(report, rules.platform, log)
    check_identity(report, rules.identity, log)
    _check_tcb(report, endorsement, floor, log)  # (4)


def _check_signature(report: SnpReport, endorsement: SnpEndorsement, log: CheckLog) -> None:
    algorithm = report.signature_algorithm
    log.require(
        "SNP signature algorithm",
        algorithm == _ECDSA_P384_SHA384,
        seen=str(algorithm),
        required="1 (ECDSA P-384 with SHA-384)",
        error=EvidenceSignatureError,
    )
    seen = "valid" if endorsement.public_key.holds_pair(report.signature, report.signed) else "invalid"
    log.require("SNP report signature", seen == "valid", seen=seen, required="valid", error=EvidenceSignatureError)


def _check_endorsed(report: SnpReport, endorsement: SnpEndorsement, log: CheckLog) -> None:
    key = report.signing_key
    log.require(
        "SNP signing key",
        key is endorsement.signing_key and not report.chip_key_masked,
        seen=f"{key or 'none'}{', masked' if report.chip_key_masked else ''}",
        required=f"{endorsement.signing_key}, as the certificate",
        error=EndorsementMismatchError,
    )
    chip = endorsement.chip_id or report.chip_id  # a VLEK names no chip: then the report's own word, which it signs
    log.require(
        "SNP chip",
        compare_digest(report.chip_id, chip) and any(chip),
        seen=report.chip_id[:8].hex(),
        required=f"{chip[:8].hex()}, not masked",
        error=EndorsementMismatchError,
    )
    product, cpu = endorsement.product, report.cpu
    log.require(
        "SNP processor",
        cpu is None or is_cpu_of(product, *cpu[:2]),
        seen="untold before version 3" if cpu is None else "family {:#x} model {:#x} stepping {:#x}".format(*cpu),
        required=f"a {product}, as the certificate",
        error=EndorsementMismatchError,
    )


def _check_tcb(report: SnpReport, endorsement: SnpEndorsement, floor: SnpTcbFloor, log: CheckLog) -> None:
    product = endorsement.product
    reported = parse_tcb(report.reported_tcb, product)
    log.require(
        "SNP reported TCB",
        reported == endorsement.tcb,
        seen=describe_tcb(reported),
        required=f"{describe_tcb(endorsement.tcb)}, as the certificate",
        error=EndorsementMismatchError,
    )
    least = floor.of(product)
    accepted = "a product the policy has a TCB floor for"
    log.require("SNP product", least is not None, seen=str(product), required=accepted, error=TcbStatusError)
    assert least is not None  # the line above raised
    required = f"at least {describe_tcb(least)}"
    for name in ("current", "committed", "reported", "launch"):
        tcb = parse_tcb(getattr(report, f"{name}_tcb"), product)
        log.require(
            f"SNP {name} TCB floor",
            covers(tcb, least),
            seen=describe_tcb(tcb),
            required=required,
            error=TcbStatusError,
        )
