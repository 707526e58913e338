"""The certificates behind a GPU's or switch's report: NVIDIA's root -> family -> provisioner -> device -> firmware key.

Source: NVIDIA's published device certificates (Hopper, Blackwell, LS10: five certificates, all P-384 with SHA-384).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from attestation.certificate import Certificate, common_name
from attestation.chain_cache import ChainCache
from attestation.dice import DiceIdentity, read_identity
from attestation.errors import (
    EndorsementExpiredError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    UntrustedRootError,
)
from attestation.nvidia_facts import PDI_SIZE
from attestation.p384 import P384PublicKey, load_p384
from attestation.verdict import CheckLog

CHAIN_SIZES = (4, 5)
_AUTHORITIES = 2  # where the certificates begin that many devices share


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEndorsement:
    """What NVIDIA's certificates say about the key that signs a device's reports.

    Attributes:
        public_key: the firmware's key, P-384.
        model: chip, the first word of the leaf's common name ("GH100").
        device_id: SHA-256 of the device's own key (second certificate); firmware updates do not change it.
        pdi: per-device identifier, 8 bytes: by it switches name GPUs, and GPUs name switches. None if the serial number
            of the device's certificate has another form.
        identity: the firmware the leaf was made for; None if the leaf does not say.
        root: SHA-256 of the root key's SubjectPublicKeyInfo.
        not_before: start of the time in which all certificates are valid.
        not_after: its end.
    """

    public_key: P384PublicKey
    model: str
    device_id: bytes
    pdi: bytes | None
    identity: DiceIdentity | None
    root: bytes
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class _HeldAuthorities:
    """Remembered for certificates from a provisioner to a root that name and sign each other."""


def check_chain(
    chain: Sequence[bytes],
    *,
    roots: frozenset[bytes],
    now: datetime,
    log: CheckLog,
    cache: ChainCache | None = None,
    device: str = "GPU",
) -> DeviceEndorsement:
    """Follow a chain from a pinned root key to the key that signs reports.

    1. Four or five certificates; the last one's key is pinned.
    2. Each is named by the next and signed by it with P-384; the last by itself. All but the first are authorities.
    3. All are valid now.

    Args:
        chain: DER certificates, leaf first, root last.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        now: the verifier's time.
        log: collects the checks.
        cache: chains that held before, if the caller keeps them; devices share the certificates of their authorities.
        device: what it is, in the names of the checks.

    Raises:
        MalformedEvidenceError, UntrustedRootError, EvidenceSignatureError, EndorsementExpiredError.
    """
    if len(chain) not in CHAIN_SIZES:
        raise MalformedEvidenceError(f"{device} chain of {len(chain)} certificates, want one of {CHAIN_SIZES}")
    fingerprint, shared = _fingerprint(chain), _fingerprint(chain[_AUTHORITIES:])
    known = cache.get(fingerprint, DeviceEndorsement) if cache is not None else None
    held = cache.get(shared, _HeldAuthorities) if cache is not None else None
    certificates = [] if known else [Certificate.parse(der) for der in chain]
    endorsement = known or _read_endorsement(certificates)
    log.require(
        f"{device} root",
        endorsement.root in roots,
        seen=endorsement.root.hex(),
        required="a pinned NVIDIA root key",
        error=UntrustedRootError,
    )
    broken = None if known else first_broken_link(certificates, _AUTHORITIES if held else len(chain))
    log.require(
        f"{device} certificate chain",
        broken is None,
        seen=broken or f"{len(chain)} certificates",
        required="each named and signed by the next",
        error=EvidenceSignatureError,
    )
    log.require(
        f"{device} certificate validity",
        endorsement.not_before <= now <= endorsement.not_after,
        seen=f"{endorsement.not_before:%F %T} to {endorsement.not_after:%F %T}",
        required=f"valid at {now:%F %T}",
        error=EndorsementExpiredError,
    )
    if cache is not None:
        cache.put(fingerprint, endorsement)
        cache.put(shared, _HeldAuthorities())
    return endorsement


def _read_endorsement(chain: list[Certificate]) -> DeviceEndorsement:
    leaf = chain[0]
    return DeviceEndorsement(
        public_key=load_p384(leaf.public_key_info),
        model=common_name(leaf.subject).partition(" ")[0],
        device_id=sha256(chain[1].public_key_info).digest(),
        pdi=_pdi(chain[1].serial),
        identity=read_identity(leaf.extensions),
        root=sha256(chain[-1].public_key_info).digest(),
        not_before=max(certificate.not_before for certificate in chain),
        not_after=min(certificate.not_after for certificate in chain),
    )


def first_broken_link(chain: list[Certificate], count: int) -> str | None:
    """Say in words where the first `count` certificates of a chain break; None when they hold.

    Raises:
        MalformedEvidenceError: a key is not of P-384.
    """
    if chain[0].is_authority():
        return "the leaf is an authority"
    links = list(zip(chain, [*chain[1:], chain[-1]], strict=True))
    for position, (certificate, issuer) in enumerate(links[:count]):
        if certificate.issuer != issuer.subject or not issuer.is_authority():
            return f"certificate {position} is not named by an authority"
        if not load_p384(issuer.public_key_info).holds(certificate.signature, certificate.signed):
            return f"certificate {position} is not signed by the next"
    return None


def _pdi(serial: int) -> bytes | None:
    """Return the per-device identifier: the serial number of a device's certificate is one byte and this.

    Measured on genuine chains: LS10 switches state the same identifier in their reports, and the eight that the
    switches of an HGX name are those of its eight GPUs.
    """
    if not 8 * PDI_SIZE < serial.bit_length() <= 8 * (PDI_SIZE + 1):
        return None
    return serial.to_bytes(PDI_SIZE + 1, "big")[1:]


def _fingerprint(chain: Sequence[bytes]) -> bytes:
    return sha256(b"".join(sha256(der).digest() for der in chain)).digest()
