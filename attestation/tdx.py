"""Intel TDX: from a quote and its collateral to claims that may be appraised.

The signatures, chains, revocation lists and TCB levels are checked by `dcap_qvl`, always with an explicit
policy and an explicit root. What that library does not look at is checked here: which root, which
guest attributes, whether collateral and processor name the same PCE, what the measurements are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dcap_qvl

from attestation.collateral import Collateral, parse_collateral
from attestation.errors import (
    AttestationError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    GuestPolicyError,
    TcbStatusError,
    UntrustedRootError,
)
from attestation.evidence import TdxEvidence
from attestation.tdx_quote import TdBody, TdxQuote, parse_quote
from attestation.tdx_refusal import explain
from attestation.verdict import Check, CheckLog
from attestation.x509 import check_root, not_after

ATTRIBUTE_SEPT_VE_DISABLE = 1 << 28
ATTRIBUTE_PKS = 1 << 30
ATTRIBUTE_PERFMON = 1 << 63
_ATTRIBUTES_ALLOWED = ATTRIBUTE_SEPT_VE_DISABLE | ATTRIBUTE_PKS | ATTRIBUTE_PERFMON
_MEASUREMENT_TAG = b"chrysalis/1 measurement"
_PLATFORM_TAG = b"chrysalis/1 platform"
_LIBRARY_RULES = "signatures, chains, revocation lists, validity and TCB level hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxClaims:
    """What a genuine TDX platform says, signatures and TCB checked; images and keys still to be appraised.

    Attributes:
        body: the signed report.
        report_data: 64 bytes the guest chose.
        measurement_id: see `measurement_id`.
        tcb_status: Intel's word for the platform, module and quoting enclave together, the worst.
        advisories: Intel's names of known weaknesses at this level.
        platform_id: SHA-256 over the processor's provisioning id, 32 bytes.
        root: SPKI pin of the root that vouches.
        not_after: first expiry among collateral and certificates.
        checks: what was checked.
    """

    body: TdBody
    report_data: bytes
    measurement_id: bytes
    tcb_status: str
    advisories: tuple[str, ...]
    platform_id: bytes
    root: bytes
    not_after: datetime
    checks: tuple[Check, ...]


def check_quote(
    evidence: TdxEvidence,
    *,
    roots: frozenset[bytes],
    now: datetime,
    tcb_statuses: frozenset[str] = frozenset({"UpToDate"}),
    tcb_age_max_s: int = 0,
    tcb_evaluation_min: int = 0,
) -> TdxClaims:
    """Check a quote down to a pinned root.

    1. Quote and collateral are read to the last byte, in their one spelling.
    2. Every chain ends in the same root, and its key is pinned; one CA issued PCK certificate and CRL.
    3. The guest cannot be debugged or migrated, and its memory cannot be remapped unseen.
    4. Signatures, revocation, validity and TCB level, by Intel's rules, with statuses of the policy only.
    5. The collateral is for this processor's provisioning enclave.

    Args:
        evidence: quote and collateral.
        roots: SPKI pins trusted as Intel's root.
        now: the verifier's time, UTC.
        tcb_statuses: TCB statuses accepted.
        tcb_age_max_s: with "OutOfDate" accepted, how old the matched TCB level may be, seconds.
        tcb_evaluation_min: lowest TCB evaluation data number accepted.

    Raises:
        AttestationError: a subclass named after what failed, with the checks so far.
    """
    log = CheckLog()
    quote = parse_quote(evidence.quote)  # (1)
    collateral = parse_collateral(evidence.collateral)
    pin = _check_chains(quote, collateral, roots, log)  # (2)
    check_attributes(quote.body, log)  # (3)
    policy = library_policy(now, tcb_statuses, tcb_age_max_s, tcb_evaluation_min)  # (4)
    try:
        claims = _ask_library(evidence.quote, quote.chain[-1], collateral, policy, now)
    except ValueError as error:
        kind, why = explain(str(error), quote, collateral, now)
        log.require("tdx quote", False, seen=why, required=_LIBRARY_RULES, error=kind)
        raise
    log.require("tdx quote", True, seen=claims["tcb"]["status"], required=_LIBRARY_RULES, error=EvidenceSignatureError)
    _check_pce(claims, collateral, log)  # (5)
    return TdxClaims(
        body=quote.body,
        report_data=quote.body.report_data,
        measurement_id=measurement_id(quote.body),
        tcb_status=claims["tcb"]["status"],
        advisories=tuple(claims["tcb"]["advisory_ids"]),
        platform_id=hashlib.sha256(_PLATFORM_TAG + b"tdx" + bytes(claims["platform"]["pck"]["ppid"])).digest(),
        root=pin,
        not_after=min(
            datetime.fromtimestamp(claims["earliest_expiration_date"], UTC),
            not_after(quote.chain),
        ),
        checks=log.checks,
    )


def measurement_id(body: TdBody) -> bytes:
    """Return the 32-byte name of what was loaded before the runtime log begins.

    Image, RTMR0 to RTMR2, configuration and owner. RTMR3 differs between hosts; the runtime log explains it.
    """
    fields = (body.mr_td, *body.rtmrs[:3], body.mr_config_id, body.mr_owner, body.mr_owner_config)
    return hashlib.sha256(_MEASUREMENT_TAG + b"tdx" + b"".join(fields)).digest()


def check_attributes(body: TdBody, log: CheckLog) -> None:
    """Refuse guests that the host can look into.

    Raises:
        GuestPolicyError: debug, migratable, without SEPT_VE_DISABLE, bound to a service domain, or any
            attribute this code does not know.
    """
    unknown = body.td_attributes & ~_ATTRIBUTES_ALLOWED
    log.require(
        "tdx guest attributes",
        not unknown and bool(body.td_attributes & ATTRIBUTE_SEPT_VE_DISABLE),
        seen=f"0x{body.td_attributes:016x}" + (" (debug)" if body.td_attributes & 1 else ""),
        required="SEPT_VE_DISABLE (bit 28); not debug (bit 0), migratable (bit 29) or unknown bits",
        error=GuestPolicyError,
    )
    log.require(
        "tdx service domain",
        not any(body.mr_service_td),
        seen=body.mr_service_td.hex()[:16],
        required="none: a service domain could read the guest",
        error=GuestPolicyError,
    )


def _check_chains(quote: TdxQuote, collateral: Collateral, roots: frozenset[bytes], log: CheckLog) -> bytes:
    """Return the pin of the one root all four chains end in."""
    root = quote.chain[-1]
    log.require(
        "tdx one root",
        all(chain[-1] == root for chain in collateral.chains),
        seen="chains of quote and collateral",
        required="the same root certificate at the end of each",
        error=UntrustedRootError,
    )
    log.require(
        "tdx one platform CA",
        collateral.pck_crl_chain == quote.chain[1:],  # the library takes the quote's and never looks at this one
        seen="issuers of PCK certificate and revocation list",
        required="the same chain",
        error=EndorsementMismatchError,
    )
    try:
        pin = check_root(root, roots)
    except AttestationError as error:
        log.require("tdx root", False, seen=str(error), required="a pinned root", error=type(error))
        raise
    log.require("tdx root", True, seen=pin.hex(), required="a pinned root", error=UntrustedRootError)
    return pin


def library_policy(
    now: datetime, tcb_statuses: frozenset[str], tcb_age_max_s: int, tcb_evaluation_min: int
) -> dcap_qvl.QuotePolicy:
    """Return the strict policy plus what every server platform needs.

    Genuine server platforms have several packages ("dynamic platform", "cached keys") and
    hyper-threading; the strict policy alone refuses all of them.
    """
    policy = dcap_qvl.QuotePolicy.strict(int(now.timestamp()))
    policy = policy.allow_dynamic_platform(True).allow_cached_keys(True).allow_smt(True)
    for status in sorted(tcb_statuses - {"UpToDate"}):
        policy = policy.allow_status(status)
    if tcb_age_max_s:
        policy = policy.platform_grace_period(tcb_age_max_s).qe_grace_period(tcb_age_max_s)
    return policy.min_tcb_eval_data_number(tcb_evaluation_min)


def _ask_library(
    quote: bytes, root: bytes, collateral: Collateral, policy: dcap_qvl.QuotePolicy, now: datetime
) -> dict[str, Any]:
    """Return the library's claims; its refusals are ValueErrors."""
    verifier = dcap_qvl.QuoteVerifier(root)
    result = verifier.verify_with_policy(quote, collateral.bundle, int(now.timestamp()), policy)
    claims: dict[str, Any] = json.loads(result.to_json())
    return claims


def _check_pce(claims: dict[str, Any], collateral: Collateral, log: CheckLog) -> None:
    """The library matches the processor family (FMSPC) only."""
    processor = bytes(claims["platform"]["pck"]["pce_id"]).hex()
    log.require(
        "tdx provisioning enclave",
        processor == collateral.pce_id,
        seen=collateral.pce_id,
        required=f"pceId {processor} as in the PCK certificate",
        error=TcbStatusError,
    )
