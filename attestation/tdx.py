"""Intel TDX: from a quote and its collateral to claims that may be appraised.

What TDX shares with SGX is checked in `attestation.intel`; here are the guest's settings, its module, and what was
loaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from attestation.collateral import parse_collateral
from attestation.evidence import TdxEvidence
from attestation.floors import Floors
from attestation.intel import STRICT, PlatformClaims, TcbRules, check_platform
from attestation.tdx_quote import TdBody, parse_quote
from attestation.tdx_rules import TdxRules, check_guest
from attestation.verdict import Check, CheckLog

STRICT_GUEST = TdxRules()
_MEASUREMENT_TAG = b"chrysalis/1 measurement"


class Loaded(Protocol):
    """What was loaded into a guest, 48 bytes each; of a quote's report or of a known image."""

    @property
    def mr_td(self) -> bytes:
        """Measurement of the initial image."""
        ...

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        """The run-time registers."""
        ...

    @property
    def mr_config_id(self) -> bytes:
        """Configuration named at creation."""
        ...

    @property
    def mr_owner(self) -> bytes:
        """Owner named at creation."""
        ...

    @property
    def mr_owner_config(self) -> bytes:
        """Owner's configuration named at creation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxClaims:
    """What a genuine TDX platform says, signatures and TCB checked; images and keys still to be appraised.

    Attributes:
        body: the signed report.
        report_data: 64 bytes the guest chose.
        measurement_id: see `measurement_id`.
        platform: what Intel says about the machine.
        marks: how new the collateral is, to raise a verifier's floors by.
        checks: what was checked.
    """

    body: TdBody
    report_data: bytes
    measurement_id: bytes
    platform: PlatformClaims
    marks: Floors
    checks: tuple[Check, ...]


def check_quote(
    evidence: TdxEvidence,
    *,
    roots: frozenset[bytes],
    now: datetime,
    tcb: TcbRules = STRICT,
    rules: TdxRules = STRICT_GUEST,
) -> TdxClaims:
    """Check a quote down to a pinned root.

    1. Quote and collateral are read to the last byte, in their one spelling.
    2. The guest cannot be debugged or migrated, its memory cannot be remapped unseen, its module is accepted.
    3. Chains, signatures, revocation, validity and TCB level hold; see `attestation.intel.check_platform`.

    Args:
        evidence: quote and collateral.
        roots: SPKI pins trusted as Intel's root.
        now: the verifier's time, UTC.
        tcb: firmware accepted.
        rules: guest settings and modules accepted.

    Raises:
        AttestationError: a subclass named after what failed, with the checks so far.
    """
    log = CheckLog()
    quote = parse_quote(evidence.quote)  # (1)
    collateral = parse_collateral(evidence.collateral)
    check_guest(quote.body, rules, log)  # (2)
    platform = check_platform(
        evidence.quote, quote, collateral, tee="tdx", roots=roots, now=now, tcb=tcb, log=log
    )  # (3)
    return TdxClaims(
        body=quote.body,
        report_data=quote.body.report_data,
        measurement_id=measurement_id(quote.body),
        platform=platform,
        marks=collateral.marks,
        checks=log.checks,
    )


def measurement_id(body: Loaded) -> bytes:
    """Return the 32-byte name of what was loaded before the runtime log begins.

    Image, RTMR0 to RTMR2, configuration and owner. RTMR3 differs between hosts; the runtime log explains it.
    """
    fields = (body.mr_td, *body.rtmrs[:3], body.mr_config_id, body.mr_owner, body.mr_owner_config)
    return hashlib.sha256(_MEASUREMENT_TAG + b"tdx" + b"".join(fields)).digest()
