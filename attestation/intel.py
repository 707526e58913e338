"""What quotes of TDX guests and SGX enclaves have in common: Intel's chains, Intel's rules, Intel's library.

Signatures, chains, revocation lists and TCB levels are checked by `dcap_qvl`, always with an explicit policy and an
explicit root. What that library does not look at is checked here: which root, whether one CA issued PCK certificate and
revocation list, whether the lists have begun to hold, whether the TCB info is for this kind of TEE and this
provisioning enclave, and how old an accepted level is and what is known against it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Protocol

import dcap_qvl

from attestation.chain_cache import ChainCache
from attestation.collateral import Collateral
from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    PolicyError,
    TcbStatusError,
    UntrustedRootError,
)
from attestation.intel_claims import LibraryClaims, read_claims
from attestation.intel_refusal import explain
from attestation.verdict import CheckLog
from attestation.x509 import check_root, not_after

UP_TO_DATE = "UpToDate"
TCB_STATUSES = (  # Intel's words, best first; "Revoked" is never acceptable
    UP_TO_DATE,
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
_KNOWN = frozenset(TCB_STATUSES)
_PLATFORM_TAG = b"chrysalis/1 platform"
_RULES = "signatures, chains, revocation lists, validity and TCB level hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbRules:
    """Which firmware is good enough. The default accepts what Intel calls up to date.

    Attributes:
        statuses: TCB statuses accepted.
        age_max_s: with another status than "UpToDate" accepted, how old the level that has it may be, seconds.
        advisories: with another status accepted, Intel's names of the known weaknesses that may remain.
        evaluation_min: lowest TCB evaluation data number of the collateral.
    """

    statuses: frozenset[str] = frozenset({UP_TO_DATE})
    age_max_s: int = 0
    advisories: frozenset[str] = frozenset()
    evaluation_min: int = 0

    def __post_init__(self) -> None:
        if not self.statuses <= _KNOWN:
            raise PolicyError(f"unknown TCB status {min(self.statuses - _KNOWN)!r}")
        if not self.statuses or min(self.age_max_s, self.evaluation_min) < 0:
            raise PolicyError("want at least one TCB status, and no negative age or evaluation number")

    def for_library(self, now: datetime) -> dcap_qvl.QuotePolicy:
        """Return the library's strict policy plus what every server platform needs.

        Genuine server platforms have several packages ("dynamic platform", "cached keys") and hyper-threading; the
        strict policy alone refuses all of them.
        """
        return _library_policy(self, int(now.timestamp()))


STRICT = TcbRules()
_CLAIMS = ChainCache(capacity=1024)


_verifier = lru_cache(maxsize=8)(dcap_qvl.QuoteVerifier)  # by root certificate


@lru_cache(maxsize=16)  # one for each second; the library's policies are values
def _library_policy(rules: TcbRules, now_s: int) -> dcap_qvl.QuotePolicy:
    policy = dcap_qvl.QuotePolicy.strict(now_s)
    policy = policy.allow_dynamic_platform(True).allow_cached_keys(True).allow_smt(True)
    for status in sorted(rules.statuses - {UP_TO_DATE}):
        policy = policy.allow_status(status)
    if rules.age_max_s:
        policy = policy.platform_grace_period(rules.age_max_s).qe_grace_period(rules.age_max_s)
    return policy.min_tcb_eval_data_number(rules.evaluation_min)


class Quoted(Protocol):
    """A quote's words about its platform."""

    @property
    def level(self) -> tuple[bytes, bytes]:
        """All that decides the platform's TCB level."""
        ...

    @property
    def chain(self) -> tuple[bytes, ...]:
        """PCK certificate, PCK CA, root, in DER."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformClaims:
    """What Intel says about the machine that made a quote.

    Attributes:
        tcb_status: Intel's word for platform, module and quoting enclave together, the worst.
        advisories: Intel's names of known weaknesses at this level.
        platform_id: SHA-256 over the processor's provisioning id, 32 bytes.
        root: SPKI pin of the root that vouches.
        not_after: first expiry among collateral and certificates.
    """

    tcb_status: str
    advisories: tuple[str, ...]
    platform_id: bytes
    root: bytes
    not_after: datetime


def check_platform(
    quote: bytes,
    parsed: Quoted,
    collateral: Collateral,
    *,
    tee: str,
    roots: frozenset[bytes],
    now: datetime,
    tcb: TcbRules,
    log: CheckLog,
) -> PlatformClaims:
    """Check everything about a quote but what the guest or enclave in it is.

    1. Every chain ends in the same root, and its key is pinned; one CA issued PCK certificate and CRL.
    2. The collateral is for this kind of TEE.
    3. Signatures, revocation, validity and TCB level, by Intel's rules, with statuses of the policy only.
    4. The collateral is for this processor's provisioning enclave.
    5. A level that is not up to date is young enough, and only named weaknesses are known against it.

    Args:
        quote: the quote, cut to its true length.
        parsed: what it says about its platform.
        collateral: what Intel publishes.
        tee: "tdx" or "sgx".
        roots: SPKI pins trusted as Intel's root.
        now: the verifier's time, UTC.
        tcb: firmware accepted.
        log: where the checks go.

    Raises:
        AttestationError: a subclass named after what failed.
    """
    chain = parsed.chain
    pin = _check_chains(chain, collateral, roots, tee, log)  # (1)
    log.require(
        f"{tee} collateral",
        collateral.kind == tee,
        seen=f"for {collateral.kind}",
        required=f"for {tee}",
        error=EndorsementMismatchError,
    )  # (2)
    claims = _ask_library(quote, parsed, collateral, tee=tee, now=now, tcb=tcb, log=log)  # (3)
    processor = claims.pce_id.hex()
    log.require(
        f"{tee} provisioning enclave",  # the library matches the processor family (FMSPC) only
        processor == collateral.pce_id,
        seen=collateral.pce_id,
        required=f"pceId {processor} as in the PCK certificate",
        error=TcbStatusError,
    )  # (4)
    if claims.status != UP_TO_DATE:
        _check_level(claims, tee=tee, now=now, tcb=tcb, log=log)  # (5)
    return PlatformClaims(
        tcb_status=claims.status,
        advisories=claims.advisories,
        platform_id=hashlib.sha256(_PLATFORM_TAG + tee.encode() + claims.ppid).digest(),
        root=pin,
        not_after=min(claims.expires, not_after(chain)),
    )


def _check_chains(
    chain: tuple[bytes, ...], collateral: Collateral, roots: frozenset[bytes], tee: str, log: CheckLog
) -> bytes:
    """Return the pin of the one root all four chains end in."""
    root = chain[-1]
    log.require(
        f"{tee} one root",
        all(other[-1] == root for other in collateral.chains),
        seen="chains of quote and collateral",
        required="the same root certificate at the end of each",
        error=UntrustedRootError,
    )
    log.require(
        f"{tee} one platform CA",
        collateral.pck_crl_chain == chain[1:],  # the library takes the quote's and never looks at this one
        seen="issuers of PCK certificate and revocation list",
        required="the same chain",
        error=EndorsementMismatchError,
    )
    try:
        pin = check_root(root, roots)
    except AttestationError as error:
        log.require(f"{tee} root", False, seen=str(error), required="a pinned root", error=type(error))
        raise
    log.require(f"{tee} root", True, seen=pin.hex(), required="a pinned root", error=UntrustedRootError)
    return pin


def _ask_library(
    quote: bytes,
    parsed: Quoted,
    collateral: Collateral,
    *,
    tee: str,
    now: datetime,
    tcb: TcbRules,
    log: CheckLog,
) -> LibraryClaims:
    """Return the library's claims; its refusals are ValueErrors, named here."""
    verifier = _verifier(parsed.chain[-1])
    try:
        result = verifier.verify_with_policy(quote, collateral.bundle, int(now.timestamp()), tcb.for_library(now))
    except ValueError as error:
        kind, why = explain(str(error), parsed.chain, collateral, now)
        log.require(f"{tee} quote", False, seen=why, required=_RULES, error=kind)
        raise
    early = [mark.series for mark in collateral.marks.marks if mark.issued > now]  # it asks nothing of revocation lists
    if early:
        why = f"{early[0]} is from the future: check this machine's clock"
        log.require(f"{tee} quote", False, seen=why, required=_RULES, error=EndorsementExpiredError)
    claims = _claims_of(result, parsed, collateral)
    log.require(f"{tee} quote", True, seen=claims.status, required=_RULES, error=EvidenceSignatureError)
    return claims


def _claims_of(result: dcap_qvl.QuoteClaims, parsed: Quoted, collateral: Collateral) -> LibraryClaims:
    """Return the library's words about a platform, which are the same for each quote of one level under one collateral.

    Having the library write them out, and reading that, costs 30 us; everything has been verified anew before.
    """
    key = collateral.digest, *parsed.level
    claims = _CLAIMS.get(key, LibraryClaims)
    if claims is None:
        claims = read_claims(result.to_json())
        _CLAIMS.put(key, claims)
    return claims


def _check_level(claims: LibraryClaims, *, tee: str, now: datetime, tcb: TcbRules, log: CheckLog) -> None:
    """Check a level that is not up to date, which the policy named.

    The library looks at the age of "OutOfDate" levels only, and at no list of known weaknesses.
    """
    oldest = min(date for status, date in claims.levels() if status != UP_TO_DATE)
    age_s = int((now - oldest).total_seconds())
    log.require(
        f"{tee} tcb age",
        age_s <= tcb.age_max_s,
        seen=f"level of {oldest.date()}, {age_s} s old",
        required=f"at most {tcb.age_max_s} s for a level that is not {UP_TO_DATE}",
        error=TcbStatusError,
    )
    unnamed = sorted(set(claims.advisories) - tcb.advisories)
    log.require(
        f"{tee} tcb advisories",
        not unnamed,
        seen=", ".join(claims.advisories) or "none",
        required=f"none but the policy's{': not ' + ', '.join(unnamed) if unnamed else ''}",
        error=TcbStatusError,
    )
