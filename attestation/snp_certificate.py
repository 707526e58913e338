"""AMD's certificates, read: what a VCEK or VLEK and its authorities say. Nothing here verifies a signature.

Source: AMD 57230 (VCEK and VLEK certificates, KDS interface) 1.00, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from attestation.certificate import INTEGER, Certificate, common_name, read_integer, read_one
from attestation.errors import MalformedEvidenceError
from attestation.p384 import P384PublicKey, load_p384
from attestation.snp_policy import SnpSigningKey, SnpTcb
from attestation.snp_tcb import SnpProduct

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
_AUTHORITY_BITS: Final = 4096
_SVN_MAX: Final = 255


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
    public_key: P384PublicKey
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An ARK, ASK or ASVK, read but not verified.

    Attributes:
        certificate: the whole of it.
        may_sign: whether it has the rights of an authority.
        name: common name.
        pin: SHA-256 of its SubjectPublicKeyInfo.
        rsa_key: its key; None if that is another kind or size than AMD's.
    """

    certificate: Certificate
    may_sign: bool
    name: str
    pin: bytes
    rsa_key: rsa.RSAPublicKey | None

    @property
    def key(self) -> rsa.RSAPublicKey:
        """The authority's key; MalformedEvidenceError unless it is RSA with 4096 bits."""
        if self.rsa_key is None:
            raise MalformedEvidenceError(f"an AMD authority has no RSA key of {_AUTHORITY_BITS} bits")
        return self.rsa_key


@lru_cache(maxsize=64)  # a fleet shares its authorities; the answer depends on the bytes alone
def read_authority(der: bytes) -> Authority:
    """Read an authority's certificate; MalformedEvidenceError if it is none."""
    certificate = Certificate.parse(der)
    key = certificate.public_key()
    return Authority(
        certificate=certificate,
        may_sign=certificate.is_authority(),
        name=common_name(certificate.subject),
        pin=sha256(certificate.public_key_info).digest(),
        rsa_key=key if isinstance(key, rsa.RSAPublicKey) and key.key_size == _AUTHORITY_BITS else None,
    )


def read_endorsement(leaf: Certificate, ask: Authority, ark: Authority) -> SnpEndorsement:
    """Return what a chain that was verified says.

    Raises:
        MalformedEvidenceError: the leaf is no VCEK and no VLEK.
    """
    public_key = load_p384(leaf.public_key_info)
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
        root_key=ark.key,
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
