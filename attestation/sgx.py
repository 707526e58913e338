"""Intel SGX: is this quote by that enclave, on a genuine and current processor?

For parts that run in enclaves: a quoting or key-provisioning enclave, a sealing helper. Never a host tier: an enclave
says nothing about the machine around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hmac import compare_digest

from attestation.collateral import parse_collateral
from attestation.errors import BindingMismatchError, GuestPolicyError, MeasurementNotAllowedError
from attestation.floors import Floors
from attestation.intel import STRICT, PlatformClaims, TcbRules, check_platform
from attestation.sgx_quote import EnclaveReport, parse_sgx_quote
from attestation.verdict import Check, CheckLog

ATTRIBUTE_INIT = 1 << 0
ATTRIBUTE_DEBUG = 1 << 1
ATTRIBUTE_MODE64 = 1 << 2
ATTRIBUTE_PROVISION_KEY = 1 << 4
ATTRIBUTE_CET = 1 << 6
ATTRIBUTE_KSS = 1 << 7
ATTRIBUTE_AEX_NOTIFY = 1 << 10
_ATTRIBUTES_ALLOWED = ATTRIBUTE_INIT | ATTRIBUTE_MODE64 | ATTRIBUTE_CET | ATTRIBUTE_KSS | ATTRIBUTE_AEX_NOTIFY
_DIGEST_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxEvidence:
    """A quote with the collateral to check it.

    Attributes:
        quote: SGX quote version 3, cut to its true length.
        collateral: as `attestation.collateral.encode_collateral` writes it, with SGX TCB info and QE identity.
    """

    quote: bytes
    collateral: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReference:
    """The enclaves a caller accepts. Either set may be empty, not both: what is named must match.

    Attributes:
        mr_enclaves: measurements, 32 bytes each: exactly these builds.
        mr_signers: signers, 32 bytes each: whatever they signed as `isv_prod_id` at `isv_svn_min` or later.
        isv_prod_id: product number; a signer has several products.
        isv_svn_min: lowest security version.
        config_id: configuration named at launch, 64 bytes. The host names it, so another one is another program.
        config_svn_min: lowest security version of the configuration.
        provision_key: whether the enclave may have the provisioning key, as quoting and provisioning enclaves do. It
            tells a processor from all others.
    """

    mr_enclaves: frozenset[bytes] = frozenset()
    mr_signers: frozenset[bytes] = frozenset()
    isv_prod_id: int = 0
    isv_svn_min: int = 0
    config_id: bytes = bytes(64)
    config_svn_min: int = 0
    provision_key: bool = False

    def __post_init__(self) -> None:
        if not self.mr_enclaves and not self.mr_signers:
            raise ValueError("name enclaves or signers: an empty reference would accept any enclave")
        if any(len(digest) != _DIGEST_SIZE for digest in self.mr_enclaves | self.mr_signers):
            raise ValueError("mr_enclaves and mr_signers: want 32 bytes each")
        if len(self.config_id) != 64 or min(self.isv_prod_id, self.isv_svn_min, self.config_svn_min) < 0:
            raise ValueError("config_id: want 64 bytes; numbers are not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxClaims:
    """An enclave that was named, on a genuine processor.

    Attributes:
        report: the signed report.
        platform: what Intel says about the machine.
        marks: how new the collateral is, to raise the caller's floors by.
        checks: what was checked.
    """

    report: EnclaveReport
    platform: PlatformClaims
    marks: Floors
    checks: tuple[Check, ...]


def check_sgx_quote(
    evidence: SgxEvidence,
    reference: EnclaveReference,
    *,
    report_data: bytes,
    roots: frozenset[bytes],
    now: datetime,
    tcb: TcbRules = STRICT,
    floors: Floors | None = None,
    lag_max_s: int = 0,
) -> SgxClaims:
    """Check a quote down to a pinned root, and the enclave against the caller's reference.

    1. Quote and collateral are read to the last byte, in their one spelling.
    2. The enclave cannot be debugged, and has no attribute this code does not know.
    3. Chains, signatures, revocation, validity and TCB level hold; see `attestation.intel.check_platform`.
    4. The collateral is not older than what the caller has seen.
    5. It is an enclave of the reference, with its configuration.
    6. It signed these report data.

    Args:
        evidence: quote and collateral.
        reference: enclaves accepted.
        report_data: the 64 bytes the enclave must have signed: the caller's nonce and the enclave's keys go into them.
        roots: SPKI pins trusted as Intel's root.
        now: the verifier's time, UTC.
        tcb: firmware accepted.
        floors: what the caller has seen before, when it keeps that.
        lag_max_s: see `Floors.check`.

    Raises:
        AttestationError: a subclass named after what failed, with the checks so far.
        ValueError: `report_data` is not 64 bytes.
    """
    if len(report_data) != 64:
        raise ValueError(f"report_data of {len(report_data)} bytes, want 64")
    log = CheckLog()
    quote = parse_sgx_quote(evidence.quote)  # (1)
    collateral = parse_collateral(evidence.collateral)
    _check_attributes(quote.report, reference, log)  # (2)
    platform = check_platform(
        evidence.quote, quote, collateral, tee="sgx", roots=roots, now=now, tcb=tcb, log=log
    )  # (3)
    if floors is not None:
        floors.check(collateral.marks, lag_max_s=lag_max_s, log=log)  # (4)
    _check_identity(quote.report, reference, log)  # (5)
    log.require(
        "sgx report data",
        compare_digest(quote.report.report_data, report_data),
        seen=quote.report.report_data.hex()[:32],
        required=report_data.hex()[:32],
        error=BindingMismatchError,
    )  # (6)
    return SgxClaims(report=quote.report, platform=platform, marks=collateral.marks, checks=log.checks)


def _check_attributes(report: EnclaveReport, reference: EnclaveReference, log: CheckLog) -> None:
    allowed = _ATTRIBUTES_ALLOWED | (ATTRIBUTE_PROVISION_KEY if reference.provision_key else 0)
    needed = ATTRIBUTE_INIT | ATTRIBUTE_MODE64
    debug = " (debug)" if report.attributes & ATTRIBUTE_DEBUG else ""
    log.require(
        "sgx enclave attributes",
        report.attributes & ~allowed == 0 and report.attributes & needed == needed,
        seen=f"0x{report.attributes:016x}{debug}",
        required=f"bits of 0x{allowed:x} only, with 0x{needed:x} (initialised, 64-bit)",
        error=GuestPolicyError,
    )


def _check_identity(report: EnclaveReport, reference: EnclaveReference, log: CheckLog) -> None:
    if reference.mr_enclaves:
        log.require(
            "sgx mr_enclave",
            report.mr_enclave in reference.mr_enclaves,
            seen=report.mr_enclave.hex(),
            required=f"one of {len(reference.mr_enclaves)} named enclaves",
            error=MeasurementNotAllowedError,
        )
    if reference.mr_signers:
        log.require(
            "sgx mr_signer",
            report.mr_signer in reference.mr_signers,
            seen=report.mr_signer.hex(),
            required=f"one of {len(reference.mr_signers)} named signers",
            error=MeasurementNotAllowedError,
        )
    log.require(
        "sgx product",
        report.isv_prod_id == reference.isv_prod_id and report.isv_svn >= reference.isv_svn_min,
        seen=f"product {report.isv_prod_id}, version {report.isv_svn}",
        required=f"product {reference.isv_prod_id}, version {reference.isv_svn_min} or later",
        error=MeasurementNotAllowedError,
    )
    log.require(
        "sgx configuration",
        report.config_id == reference.config_id and report.config_svn >= reference.config_svn_min,
        seen=f"{report.config_id.hex()[:32]}, version {report.config_svn}",
        required=f"{reference.config_id.hex()[:32]}, version {reference.config_svn_min} or later",
        error=MeasurementNotAllowedError,
    )
