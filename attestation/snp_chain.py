"""The certificates behind an SEV-SNP report: AMD root key (ARK), signing key (ASK or ASVK), the chip's VCEK or VLEK.

All four signatures (three certificates, one revocation list) are RSA-4096 PSS with SHA-384; nothing a stranger wrote is
interpreted before the key over it is known to be AMD's.

Source: AMD 57230 (VCEK certificate and KDS interface) 1.00, sections 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.certificate import INTEGER, Certificate, read_integer, read_one, read_signed
from attestation.errors import (
    EndorsementExpiredError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    RevokedError,
    UntrustedRootError,
)
from attestation.policy import SnpTcb
from attestation.snp_tcb import SnpProduct
from attestation.verdict import CheckLog

CRL_SIZE_MAX: Final = 1 << 16

_AMD: Final = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
_PRODUCT_NAME: Final = _AMD + b"\x02"
_BOOT_LOADER: Final = _AMD + b"\x03\x01"
_TEE: Final = _AMD + b"\x03\x02"
_SNP: Final = _AMD + b"\x03\x03"
_MICROCODE: Final = _AMD + b"\x03\x08"
_FMC: Final = _AMD + b"\x03\x09"
_CHIP_ID: Final = _AMD + b"\x04"
_IA5_STRING: Final = 0x16
_CHIP_ID_SIZES: Final = {SnpProduct.MILAN: 64, SnpProduct.GENOA: 64, SnpProduct.TURIN: 8}


class SnpSigningKey(StrEnum):
    """Which key signed the report: one of the chip, or one lent to a cloud provider."""

    VCEK = "VCEK"
    VLEK = "VLEK"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEndorsement:
    """What AMD's certificates say about the key that signs a platform's reports."""

    product: SnpProduct
    signing_key: SnpSigningKey
    public_key: ec.EllipticCurvePublicKey
    tcb: SnpTcb
    chip_id: bytes | None  # 64 bytes as reports carry it; None under a VLEK, which names no chip
    root: bytes  # SHA-256 of the ARK's SubjectPublicKeyInfo
    not_after: datetime


def _number(certificate: Certificate, oid: bytes) -> int:
    value = certificate.extensions.get(oid)
    if value is None:
        raise MalformedEvidenceError(f"AMD certificate lacks extension {oid.hex()}")
    return read_integer(read_one(value, INTEGER))


def _product(certificate: Certificate) -> SnpProduct:
    """The product a VCEK or VLEK is for: its productName is the product, or product-stepping."""
    name = read_one(certificate.extensions.get(_PRODUCT_NAME, b""), _IA5_STRING).decode("ascii", "replace")
    try:
        return SnpProduct(name.partition("-")[0])
    except ValueError:
        raise MalformedEvidenceError(f"AMD certificate is for the unknown product {name!r}") from None


def _tcb(certificate: Certificate, product: SnpProduct) -> SnpTcb:
    return SnpTcb(
        bootloader=_number(certificate, _BOOT_LOADER),
        tee=_number(certificate, _TEE),
        snp=_number(certificate, _SNP),
        microcode=_number(certificate, _MICROCODE),
        fmc=_number(certificate, _FMC) if product is SnpProduct.TURIN else 0,
    )


def _chip_id(certificate: Certificate, product: SnpProduct) -> bytes | None:
    chip_id = certificate.extensions.get(_CHIP_ID)
    if chip_id is not None and len(chip_id) != _CHIP_ID_SIZES[product]:
        raise MalformedEvidenceError(f"{product} chip id of {len(chip_id)} bytes")
    return None if chip_id is None else chip_id.ljust(64, b"\0")


def check_chain(
    *, leaf_der: bytes, ask_der: bytes, ark_der: bytes, roots: frozenset[bytes], now: datetime, log: CheckLog
) -> SnpEndorsement:
    """Follow the chain from a pinned root key to the key that signs reports. Revocation is `check_crl`'s.

    1. The ARK's key is pinned, and the ARK is signed by itself.
    2. The ASK (or ASVK) is an authority, named and signed by the ARK.
    3. The VCEK (or VLEK) is named and signed by the ASK, and is a P-384 key.
    4. All three are valid now.

    Raises:
        MalformedEvidenceError, UntrustedRootError, EvidenceSignatureError, EndorsementExpiredError.
    """
    ark = Certificate.parse(ark_der)
    pin = sha256(ark.public_key_info).digest()
    log.require("AMD root", pin in roots, seen=pin.hex(), required="a pinned AMD root key", error=UntrustedRootError)
    ark_key = _rsa_key(ark)
    _require_signed(log, "ARK", ark_key, ark.signature, ark.signed)
    ask = Certificate.parse(ask_der)
    _require_named(log, "ASK", ask.issuer == ark.subject and ask.is_authority() and ark.is_authority())
    _require_signed(log, "ASK", ark_key, ask.signature, ask.signed)
    leaf = Certificate.parse(leaf_der)
    _require_named(log, "VCEK", leaf.issuer == ask.subject and not leaf.is_authority())
    _require_signed(log, "VCEK", _rsa_key(ask), leaf.signature, leaf.signed)
    for certificate, what in ((ark, "ARK"), (ask, "ASK"), (leaf, "VCEK")):
        _require_valid(log, what, certificate.not_before, certificate.not_after, now)
    return _endorsement(leaf, root=pin, not_after=min(ark.not_after, ask.not_after, leaf.not_after))


def check_crl(
    *, crl_der: bytes, leaf_der: bytes, ask_der: bytes, ark_der: bytes, now: datetime, log: CheckLog
) -> datetime:
    """Check that AMD's revocation list is the ARK's, is current, and names none of the three certificates.

    Args:
        crl_der: AMD's list for the product; an absent one refuses.
        leaf_der: certificate `check_chain` accepted, as the next two.
        ask_der: its issuer.
        ark_der: the root.
        now: the verifier's time.
        log: collects the checks.

    Returns:
        When the list must be renewed.

    Raises:
        MalformedEvidenceError, EvidenceSignatureError, EndorsementExpiredError, RevokedError.
    """
    ark, ask, leaf = (Certificate.parse(der) for der in (ark_der, ask_der, leaf_der))
    if not 0 < len(crl_der) <= CRL_SIZE_MAX:
        raise MalformedEvidenceError(f"AMD revocation list of {len(crl_der)} bytes, want 1 to {CRL_SIZE_MAX}")
    signed, signature = read_signed(crl_der)
    _require_signed(log, "revocation list", _rsa_key(ark), signature, signed)
    try:
        crl = x509.load_der_x509_crl(crl_der)
        issued, renewed = crl.last_update_utc, crl.next_update_utc
        revoked = {entry.serial_number for entry in crl}
    except ValueError as error:
        raise MalformedEvidenceError(f"AMD revocation list: {error}") from None
    if renewed is None:
        raise MalformedEvidenceError("AMD revocation list does not say when it is renewed")
    _require_valid(log, "revocation list", issued, renewed, now)
    chain = {"ARK": ark.serial, "ASK": ask.serial, "VCEK": leaf.serial}
    named = [f"{what} {serial}" for what, serial in chain.items() if serial in revoked]
    log.require(
        "AMD revocation", not named, seen=", ".join(named) or "none", required="none revoked", error=RevokedError
    )
    return renewed


def _endorsement(leaf: Certificate, *, root: bytes, not_after: datetime) -> SnpEndorsement:
    public_key = leaf.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP384R1):
        raise MalformedEvidenceError("the VCEK is not a P-384 key")
    product = _product(leaf)
    chip_id = _chip_id(leaf, product)
    return SnpEndorsement(
        product=product,
        signing_key=SnpSigningKey.VLEK if chip_id is None else SnpSigningKey.VCEK,
        public_key=public_key,
        tcb=_tcb(leaf, product),
        chip_id=chip_id,
        root=root,
        not_after=not_after,
    )


def _rsa_key(certificate: Certificate) -> rsa.RSAPublicKey:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise MalformedEvidenceError("an AMD authority has no RSA key")
    return key


def _require_signed(log: CheckLog, what: str, key: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> None:
    try:
        key.verify(signature, signed, PSS(MGF1(SHA384()), 48), SHA384())
        ok = True
    except InvalidSignature:
        ok = False
    seen = "valid" if ok else "invalid"
    log.require(f"AMD {what} signature", ok, seen=seen, required="valid", error=EvidenceSignatureError)


def _require_named(log: CheckLog, what: str, ok: bool) -> None:
    seen = "as its issuer" if ok else "other names or rights"
    log.require(f"AMD {what} issuer", ok, seen=seen, required="as its issuer", error=EvidenceSignatureError)


def _require_valid(log: CheckLog, what: str, start: datetime, end: datetime, now: datetime) -> None:
    log.require(
        f"AMD {what} validity",
        start <= now <= end,
        seen=f"{start:%F %T} to {end:%F %T}",
        required=f"valid at {now:%F %T}",
        error=EndorsementExpiredError,
    )
