"""The certificates behind an SEV-SNP report: AMD root key (ARK), signing key (ASK or ASVK), the chip's VCEK or VLEK.

All four signatures (three certificates, one revocation list) are RSA-4096 PSS with SHA-384; nothing a stranger wrote is
interpreted before the key over it is known to be AMD's.

Source: AMD 57230 (VCEK and VLEK certificates, KDS interface) 1.00, sections 2 and 3.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.certificate import Certificate
from attestation.chain_cache import ChainCache
from attestation.errors import (
    EndorsementExpiredError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    RevokedError,
    UntrustedRootError,
)
from attestation.evidence import SnpEvidence
from attestation.revocation import RevocationList
from attestation.snp_certificate import Authority, SnpEndorsement, read_authority, read_endorsement
from attestation.snp_policy import SnpSigningKey
from attestation.verdict import CheckLog

_AUTHORITIES: Final = {SnpSigningKey.VCEK: "SEV-", SnpSigningKey.VLEK: "SEV-VLEK-"}
_PSS: Final = PSS(MGF1(SHA384()), 48)
_SHA384: Final = SHA384()


def check_chain(
    evidence: SnpEvidence, *, roots: frozenset[bytes], now: datetime, log: CheckLog, cache: ChainCache | None = None
) -> SnpEndorsement:
    """Follow the chain from a pinned root key to the key that signs reports. Revocation is `check_crl`'s.

    1. The ARK's key is pinned, and the ARK is signed by itself.
    2. The ASK (or ASVK) is an authority, named and signed by the ARK.
    3. The VCEK (or VLEK) is named and signed by the ASK (or ASVK), and is a P-384 key.
    4. All three are for one product line, and the leaf is of the kind its issuer may sign.
    5. All three are valid now.

    Args:
        evidence: certificates; report and revocation list are not looked at.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        now: the verifier's time.
        log: collects the checks.
        cache: chains that held before, if the caller keeps them.

    Raises:
        MalformedEvidenceError, UntrustedRootError, EvidenceSignatureError, EndorsementMismatchError,
        EndorsementExpiredError.
    """
    fingerprint = _fingerprint(b"AMD chain", evidence.vcek, evidence.ask, evidence.ark)
    endorsement = cache.get(fingerprint, SnpEndorsement) if cache is not None else None
    if endorsement is None:
        endorsement = _follow(evidence, roots, log)
    else:
        _require_root(endorsement.root, roots, log)
        _require_linked(None, log)
    _require_one_line(endorsement, log)
    log.require(
        "AMD certificate validity",
        endorsement.not_before <= now <= endorsement.not_after,
        seen=f"{endorsement.not_before} to {endorsement.not_after}",
        required=f"valid at {now}",
        error=EndorsementExpiredError,
    )
    if cache is not None:
        cache.put(fingerprint, endorsement)
    return endorsement


def check_crl(
    crl_der: bytes, endorsement: SnpEndorsement, *, now: datetime, log: CheckLog, cache: ChainCache | None = None
) -> RevocationList:
    """Check that AMD's revocation list is the ARK's, is current, and names none of the three certificates.

    Args:
        crl_der: AMD's list for the product; an absent one refuses.
        endorsement: what `check_chain` accepted.
        now: the verifier's time.
        log: collects the checks.
        cache: lists that held before, if the caller keeps them.

    Raises:
        MalformedEvidenceError, EvidenceSignatureError, EndorsementExpiredError, RevokedError.
    """
    fingerprint = _fingerprint(b"AMD revocation list", crl_der, endorsement.root)
    known = cache.get(fingerprint, RevocationList) if cache is not None else None
    crl = known or RevocationList.parse(crl_der)
    named = crl.issuer == endorsement.root_name
    valid = named and (known is not None or _is_signed(endorsement.root_key, crl.signature, crl.signed))
    log.require(
        "AMD revocation list signature",
        valid,
        seen="valid" if valid else "invalid" if named else "another issuer",
        required="valid, by the root key",
        error=EvidenceSignatureError,
    )
    log.require(
        "AMD revocation list validity",
        crl.issued <= now <= crl.renewed,
        seen=f"{crl.issued} to {crl.renewed}",
        required=f"valid at {now}",
        error=EndorsementExpiredError,
    )
    revoked = [what for what, serial in _serials(endorsement) if serial in crl.revoked]
    log.require(
        "AMD revocation",
        not revoked,
        seen=", ".join(revoked) or f"none of {len(crl.revoked)}, list number {crl.number}",
        required="none revoked",
        error=RevokedError,
    )
    if cache is not None:
        cache.put(fingerprint, crl)
    return crl


def _follow(evidence: SnpEvidence, roots: frozenset[bytes], log: CheckLog) -> SnpEndorsement:
    ark = read_authority(evidence.ark)
    _require_root(ark.pin, roots, log)
    ask, leaf = read_authority(evidence.ask), Certificate.parse(evidence.vcek)
    _require_linked(_first_broken_link(ark, ask, leaf), log)
    return read_endorsement(leaf, ask, ark)


def _require_root(pin: bytes, roots: frozenset[bytes], log: CheckLog) -> None:
    log.require("AMD root", pin in roots, seen=pin.hex(), required="a pinned AMD root key", error=UntrustedRootError)


def _require_linked(broken: str | None, log: CheckLog) -> None:
    log.require(
        "AMD certificate chain",
        broken is None,
        seen=broken or "3 certificates",
        required="each named and signed by the next, the root by itself",
        error=EvidenceSignatureError,
    )


def _require_one_line(endorsement: SnpEndorsement, log: CheckLog) -> None:
    """A key AMD made for one product or purpose must not vouch for another: nobody else looks at the names."""
    kind, line = endorsement.signing_key, endorsement.product
    want = (f"SEV-{kind}", f"{_AUTHORITIES[kind]}{line}", f"ARK-{line}")
    log.require(
        "AMD product line",
        endorsement.names == want,
        seen=", ".join(endorsement.names),
        required=", ".join(want),
        error=EndorsementMismatchError,
    )


def _first_broken_link(ark: Authority, ask: Authority, leaf: Certificate) -> str | None:
    """Say in words where the chain breaks; None when it holds."""
    if not (ark.may_sign and ask.may_sign) or leaf.is_authority():
        return "a certificate has other rights than its place needs"
    links = (("ARK", ark.certificate, ark), ("ASK", ask.certificate, ark), ("VCEK", leaf, ask))
    for what, certificate, issuer in links:
        if certificate.issuer != issuer.certificate.subject:
            return f"{what} is named by another issuer"
        if not _is_signed(issuer.key, certificate.signature, certificate.signed):
            return f"{what} is not signed by its issuer"
    return None


def _serials(endorsement: SnpEndorsement) -> tuple[tuple[str, int], ...]:
    ark, ask, leaf = endorsement.serials
    kind = endorsement.signing_key
    authority = "ASK" if kind is SnpSigningKey.VCEK else "ASVK"
    return (f"ARK {ark}", ark), (f"{authority} {ask}", ask), (f"{kind} {leaf}", leaf)


def _is_signed(key: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, _PSS, _SHA384)
    except InvalidSignature:
        return False
    return True


def _fingerprint(tag: bytes, *parts: bytes) -> bytes:
    return sha256(tag + b"".join(sha256(part).digest() for part in parts)).digest()
