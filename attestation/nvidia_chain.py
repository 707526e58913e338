"""The certificates behind a GPU report: NVIDIA's device root -> family -> provisioner -> this GPU -> its firmware key.

Source: NVIDIA's published device certificates (Hopper: five certificates, all P-384 with SHA-384).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.certificate import Certificate, common_name
from attestation.chain_cache import ChainCache
from attestation.errors import (
    EndorsementExpiredError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    UntrustedRootError,
)
from attestation.verdict import CheckLog

CHAIN_SIZES = (4, 5)
FWID_SIZE = 48
_FWID_OIDS = (bytes.fromhex("678105050401"), bytes.fromhex("67810505040101"))  # 2.23.133.5.4.1, Blackwell .1


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEndorsement:
    """What NVIDIA's certificates say about the key that signs a GPU's reports.

    Attributes:
        public_key: the firmware's key, P-384.
        model: chip, the first word of the leaf's common name ("GH100").
        device_id: SHA-256 of the GPU's own key (second certificate); firmware updates do not change it.
        fwid: digest of the firmware the leaf was made for, 48 bytes; None if the leaf does not say.
        root: SHA-256 of the root key's SubjectPublicKeyInfo.
        not_before: start of the time in which all certificates are valid.
        not_after: its end.
    """

    public_key: ec.EllipticCurvePublicKey
    model: str
    device_id: bytes
    fwid: bytes | None
    root: bytes
    not_before: datetime
    not_after: datetime


def check_chain(
    chain: Sequence[bytes], *, roots: frozenset[bytes], now: datetime, log: CheckLog, cache: ChainCache | None = None
) -> GpuEndorsement:
    """Follow a chain from a pinned root key to the key that signs reports.

    1. Four or five certificates; the last one's key is pinned.
    2. Each is named by the next and signed by it with P-384; the last by itself. All but the first are authorities.
    3. All are valid now.

    Args:
        chain: DER certificates, leaf first, root last.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        now: the verifier's time.
        log: collects the checks.
        cache: chains that held before, if the caller keeps them.

    Raises:
        MalformedEvidenceError, UntrustedRootError, EvidenceSignatureError, EndorsementExpiredError.
    """
    if len(chain) not in CHAIN_SIZES:
        raise MalformedEvidenceError(f"GPU chain of {len(chain)} certificates, want one of {CHAIN_SIZES}")
    fingerprint = sha256(b"".join(sha256(der).digest() for der in chain)).digest()
    known = cache.get(fingerprint, GpuEndorsement) if cache is not None else None
    certificates = [] if known else [Certificate.parse(der) for der in chain]
    endorsement = known or _read_endorsement(certificates)
    log.require(
        "GPU root",
        endorsement.root in roots,
        seen=endorsement.root.hex(),
        required="a pinned NVIDIA root key",
        error=UntrustedRootError,
    )
    broken = None if known else _first_broken_link(certificates)
    log.require(
        "GPU certificate chain",
        broken is None,
        seen=broken or f"{len(chain)} certificates",
        required="each named and signed by the next",
        error=EvidenceSignatureError,
    )
    log.require(
        "GPU certificate validity",
        endorsement.not_before <= now <= endorsement.not_after,
        seen=f"{endorsement.not_before:%F %T} to {endorsement.not_after:%F %T}",
        required=f"valid at {now:%F %T}",
        error=EndorsementExpiredError,
    )
    if cache is not None:
        cache.put(fingerprint, endorsement)
    return endorsement


def _read_endorsement(chain: list[Certificate]) -> GpuEndorsement:
    leaf = chain[0]
    return GpuEndorsement(
        public_key=_p384(leaf),
        model=common_name(leaf.subject).partition(" ")[0],
        device_id=sha256(chain[1].public_key_info).digest(),
        fwid=_fwid(leaf),
        root=sha256(chain[-1].public_key_info).digest(),
        not_before=max(certificate.not_before for certificate in chain),
        not_after=min(certificate.not_after for certificate in chain),
    )


def _first_broken_link(chain: list[Certificate]) -> str | None:
    """Say in words where the chain breaks; None when it holds."""
    if chain[0].is_authority():
        return "the leaf is an authority"
    for position, (certificate, issuer) in enumerate(zip(chain, [*chain[1:], chain[-1]], strict=True)):
        if certificate.issuer != issuer.subject or not issuer.is_authority():
            return f"certificate {position} is not named by an authority"
        try:
            _p384(issuer).verify(certificate.signature, certificate.signed, ec.ECDSA(SHA384()))
        except InvalidSignature:
            return f"certificate {position} is not signed by the next"
    return None


def _p384(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MalformedEvidenceError("a GPU certificate has no P-384 key")
    return key


def _fwid(leaf: Certificate) -> bytes | None:
    """Return the tail of the DICE extension: it ends in the firmware's SHA-384."""
    found = [leaf.extensions[oid] for oid in _FWID_OIDS if oid in leaf.extensions]
    if not found:
        return None
    if len(found[0]) < FWID_SIZE:
        raise MalformedEvidenceError("GPU certificate's firmware extension is too short")
    return found[0][-FWID_SIZE:]
