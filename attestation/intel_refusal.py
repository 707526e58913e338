"""Which of our refusals a refusal of the quote library is.

The library speaks in sentences; its verdict is final and only its name is looked up here. A sentence
nobody has mapped is still a refusal (`EvidenceSignatureError`).
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from attestation.certificate import Certificate
from attestation.collateral import Collateral
from attestation.errors import (
    AttestationError,
    EndorsementExpiredError,
    EvidenceSignatureError,
    GuestPolicyError,
    MalformedEvidenceError,
    RevokedError,
    TcbStatusError,
)

_BY_SENTENCE: tuple[tuple[str, type[AttestationError]], ...] = (
    ("Debug mode", GuestPolicyError),
    ("SEPT_VE_DISABLE", GuestPolicyError),
    ("TD migration", GuestPolicyError),
    ("Revoked", RevokedError),
    ("TCB status", TcbStatusError),
    ("TCB too old", TcbStatusError),
    ("TCB level", TcbStatusError),
    ("TDX module", TcbStatusError),
    ("TCB eval data number", TcbStatusError),
    ("ISVSVN", TcbStatusError),
    ("Fmspc mismatch", TcbStatusError),
    ("xpired", EndorsementExpiredError),
    ("in the future", EndorsementExpiredError),
    ("NotValidYet", EndorsementExpiredError),
    ("Failed to decode quote", MalformedEvidenceError),
    ("Failed to decode TcbInfo", MalformedEvidenceError),
)


def explain(
    sentence: str, chain: tuple[bytes, ...], collateral: Collateral, now: datetime
) -> tuple[type[AttestationError], str]:
    """Return the refusal's class and its reason in words.

    Args:
        sentence: the library's.
        chain: PCK chain of the quote.
        collateral: what it was judged by.
        now: the verifier's time.
    """
    sentence = sentence.removeprefix("Verification failed: ").strip()
    for part, kind in _BY_SENTENCE:
        if part in sentence:
            return kind, sentence
    return _look_closer(chain, collateral, now) or (EvidenceSignatureError, sentence)


def _look_closer(
    chain: tuple[bytes, ...], collateral: Collateral, now: datetime
) -> tuple[type[AttestationError], str] | None:
    """A chain was refused without a reason: look for the usual ones. Only the name depends on this."""
    certificates = [Certificate.parse(der) for one in (chain, *collateral.chains) for der in one]
    try:
        lists = [x509.load_der_x509_crl(der) for der in (collateral.pck_crl, collateral.root_crl)]
        revoked = {(crl.issuer.public_bytes(), entry.serial_number) for crl in lists for entry in crl}
        renewed = min(crl.next_update_utc or now for crl in lists)
    except (ValueError, x509.InvalidVersion):
        return None
    for certificate in certificates:
        if (certificate.issuer, certificate.serial) in revoked:
            return RevokedError, f"the certificate with serial {certificate.serial:x} is revoked"
    for certificate in certificates:
        if not certificate.not_before <= now <= certificate.not_after:
            until = certificate.not_after.isoformat()
            return EndorsementExpiredError, f"a certificate is not valid now (until {until})"
    if renewed < now:
        return EndorsementExpiredError, f"a revocation list ran out at {renewed.isoformat()}; fetch new collateral"
    return None
