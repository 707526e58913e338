"""The certificates behind an SEV-SNP report: AMD root key (ARK), signing key (ASK or ASVK), the chip's VCEK or VLEK.

All four signatures (three certificates, one revocation list) are RSA-4096 PSS with SHA-384; nothing a stranger wrote is
interpreted before the key over it is known to be AMD's.

Source: AMD 57230 (VCEK and VLEK certificates, KDS interface) 1.00, sections 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.certificate import INTEGER, Certificate, common_name, read_integer, read_one
from attestation.chain_cache import ChainCache
from attestation.errors import (
    EndorsementExpiredError,
    EndorsementMismatchError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    RevokedError,
    UntrustedRootError,
)
from attestation.evidence import SnpEvidence
from attestation.revocation import RevocationList
from attestation.snp_policy import SnpSigningKey, SnpTcb
from attestation.snp_tcb import SnpProduct
from attestation.verdict import CheckLog

_AMD: Final = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
_PRODUCT_NAME: Final = _AMD + b"\x02"
_BOOT_LOADER: Final = _AMD + b"\x03\x01"
_TEE: Final = _AMD + b"\x03\x02"
_SNP: Final = _AMD + b"\x03\x03"
_MICROCODE: Final = _AMD + b"\x03\x08"
_FMC: Final = _AMD + b"\x03\x09"
_CHIP_ID: Final = _AMD + b"\x04"
_PROVIDER: Final = _AMD + b"\x05"
_IA5_STRING: Final = 0x16
_PROVIDER_SIZE_MAX: Final = 64
_CHIP_ID_SIZES: Final = {SnpProduct.MILAN: 64, SnpProduct.GENOA: 64, SnpProduct.TURIN: 8}
_PRODUCTS: Final = {
    **{str(product): product for product in SnpProduct},
    "Siena": SnpProduct.GENOA,
}  # as KDS names leaves
_AUTHORITIES: Final = {SnpSigningKey.VCEK: "SEV-", SnpSigningKey.VLEK: "SEV-VLEK-"}
_AUTHORITY_BITS: Final = 4096
_SVN_MAX: Final = 255
_PSS: Final = PSS(MGF1(SHA384()), 48)
_SHA384: Final = SHA384()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEndorsement:
    """What AMD's certificates say about the key that signs a platform's reports.

    Attributes:
        product: product line.
        signing_key: VCEK or VLEK.
        public_key: P-384.
        tcb: firmware versions the key stands for.
        chip_id: 64 bytes as reports carry it; None under a VLEK, which names no chip.
        provider: the cloud provider a VLEK was lent to; empty under a VCEK.
        root: SHA-256 of the ARK's SubjectPublicKeyInfo.
        root_key: the ARK's key.
        root_name: the ARK's name, DER.
        serials: serial numbers of ARK, ASK (or ASVK), VCEK (or VLEK).
        not_before: start of the time in which all three certificates are valid.
        not_after: its end.
        names: common names of the three certificates, the leaf first.
    """

    product: SnpProduct
    signing_key: SnpSigningKey
    public_key: ec.EllipticCurvePublicKey
    tcb: SnpTcb
    chip_id: bytes | None
    provider: str
    root: bytes
    root_key: rsa.RSAPublicKey
    root_name: bytes
    serials: tuple[int, int, int]
    not_before: datetime
    not_after: datetime
    names: tuple[str, str, str]


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
    ark = _authority(evidence.ark)
    _require_root(ark.pin, roots, log)
    ask, leaf = _authority(evidence.ask), Certificate.parse(evidence.vcek)
    _require_linked(_first_broken_link(ark, ask, leaf), log)
    return _endorsement(leaf, ask, ark)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authority:
    """An ARK, ASK or ASVK, read but not verified."""

    certificate: Certificate
    may_sign: bool
    name: str
    pin: bytes

    def key(self) -> rsa.RSAPublicKey:
        key = self.certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _AUTHORITY_BITS:
            raise MalformedEvidenceError(f"an AMD authority has no RSA key of {_AUTHORITY_BITS} bits")
        return key


@lru_cache(maxsize=64)  # a fleet shares its authorities; the answer depends on the bytes alone
def _authority(der: bytes) -> _Authority:
    certificate = Certificate.parse(der)
    return _Authority(
        certificate=certificate,
        may_sign=certificate.is_authority(),
        name=common_name(certificate.subject),
        pin=sha256(certificate.public_key_info).digest(),
    )


def _first_broken_link(ark: _Authority, ask: _Authority, leaf: Certificate) -> str | None:
    """Say in words where the chain breaks; None when it holds."""
    if not (ark.may_sign and ask.may_sign) or leaf.is_authority():
        return "a certificate has other rights than its place needs"
    links = (("ARK", ark.certificate, ark), ("ASK", ask.certificate, ark), ("VCEK", leaf, ask))
    for what, certificate, issuer in links:
        if certificate.issuer != issuer.certificate.subject:
            return f"{what} is named by another issuer"
        if not _is_signed(issuer.key(), certificate.signature, certificate.signed):
            return f"{what} is not signed by its issuer"
    return None


def _endorsement(leaf: Certificate, ask: _Authority, ark: _Authority) -> SnpEndorsement:
    public_key = leaf.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP384R1):
        raise MalformedEvidenceError("the VCEK is not a P-384 key")
    product = _product(leaf)
    chip_id = _chip_id(leaf, product)
    provider = leaf.extensions.get(_PROVIDER)
    if (chip_id is None) == (provider is None):
        raise MalformedEvidenceError("AMD certificate names both a chip and a provider, or neither")
    chain = (leaf, ask.certificate, ark.certificate)
    return SnpEndorsement(
        product=product,
        signing_key=SnpSigningKey.VLEK if chip_id is None else SnpSigningKey.VCEK,
        public_key=public_key,
        tcb=_tcb(leaf, product),
        chip_id=chip_id,
        provider="" if provider is None else _provider(provider),
        root=ark.pin,
        root_key=ark.key(),
        root_name=ark.certificate.subject,
        serials=(ark.certificate.serial, ask.certificate.serial, leaf.serial),
        not_before=max(certificate.not_before for certificate in chain),
        not_after=min(certificate.not_after for certificate in chain),
        names=(common_name(leaf.subject), ask.name, ark.name),
    )


def _product(leaf: Certificate) -> SnpProduct:
    """The product a VCEK or VLEK is for: its productName is the product, or product-stepping."""
    name = _text(leaf.extensions.get(_PRODUCT_NAME, b""))
    product = _PRODUCTS.get(name.partition("-")[0])
    if product is None:
        raise MalformedEvidenceError(f"AMD certificate is for the unknown product {name[:32]!r}")
    return product


def _tcb(leaf: Certificate, product: SnpProduct) -> SnpTcb:
    return SnpTcb(
        bootloader=_number(leaf, _BOOT_LOADER),
        tee=_number(leaf, _TEE),
        snp=_number(leaf, _SNP),
        microcode=_number(leaf, _MICROCODE),
        fmc=_number(leaf, _FMC) if product is SnpProduct.TURIN else 0,
    )


def _chip_id(leaf: Certificate, product: SnpProduct) -> bytes | None:
    chip_id = leaf.extensions.get(_CHIP_ID)
    if chip_id is not None and len(chip_id) != _CHIP_ID_SIZES[product]:
        raise MalformedEvidenceError(f"{product} chip id of {len(chip_id)} bytes")
    return None if chip_id is None else chip_id.ljust(64, b"\0")


def _provider(value: bytes) -> str:
    name = _text(value)
    if not 0 < len(name) <= _PROVIDER_SIZE_MAX or not name.isprintable():
        raise MalformedEvidenceError(f"AMD certificate names no readable provider: {name[:_PROVIDER_SIZE_MAX]!r}")
    return name


def _text(value: bytes) -> str:
    return read_one(value, _IA5_STRING).decode("ascii", "replace")


def _number(certificate: Certificate, oid: bytes) -> int:
    value = certificate.extensions.get(oid)
    if value is None:
        raise MalformedEvidenceError(f"AMD certificate lacks extension {oid.hex()}")
    number = read_integer(read_one(value, INTEGER))
    if number > _SVN_MAX:
        raise MalformedEvidenceError(f"AMD certificate names security version {number}, at most {_SVN_MAX}")
    return number


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
