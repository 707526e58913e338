"""A strict reader of device certificates (X.509 v3, DER), small enough to be read whole.

Why not an X.509 library: genuine AMD VCEKs carry serial number 0, which RFC 5280 forbids; `cryptography` 50 warns about
them and a later release refuses them. Warnings raised by bytes a stranger chose are also nothing a verifier can have.
Keys and signatures stay with `cryptography`; only the bytes around them are read here.

Source: RFC 5280 section 4.1, ITU-T X.690 (DER).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestation.errors import MalformedEvidenceError

CERTIFICATE_SIZE_MAX: Final = 8192
EXTENSIONS_MAX: Final = 32

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OID = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
_VERSION = 0xA0
_EXTENSIONS = 0xA3

BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")  # 2.5.29.19
KEY_USAGE: Final = bytes.fromhex("551d0f")  # 2.5.29.15
_COMMON_NAME: Final = bytes.fromhex("550403")  # 2.5.4.3
_KEY_CERT_SIGN = 0x04  # bit 5 of the first octet, counted from the left
_UNDERSTOOD: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE})


class Element(NamedTuple):
    """One DER element: its tag, its content, and the whole of it with tag and length."""

    tag: int
    content: bytes
    whole: bytes


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Length of the element whose length takes several octets, from `at`, and where its content starts."""
    count = data[at] & 0x7F
    octets = data[at + 1 : at + 1 + count]
    size = int.from_bytes(octets, "big")
    if not 1 <= count <= 3 or len(octets) != count or size < 0x80 or octets[0] == 0:
        raise MalformedEvidenceError("DER length is not minimal")
    return size, at + 1 + count


def read_elements(data: bytes) -> list[Element]:
    """The DER elements lying side by side in `data`, all of it.

    Raises:
        MalformedEvidenceError: the bytes are not DER elements up to the last byte.
    """
    elements = []
    at, total = 0, len(data)
    while at < total:
        if total - at < 2 or data[at] & 0x1F == 0x1F:
            raise MalformedEvidenceError("DER element is cut short or has a long tag")
        size, start = data[at + 1], at + 2
        if size >= 0x80:
            size, start = _length(data, at + 1)
        end = start + size
        if end > total:
            raise MalformedEvidenceError("DER element runs past its container")
        elements.append(Element(data[at], data[start:end], data[at:end]))
        at = end
    return elements


def read_one(data: bytes, tag: int) -> bytes:
    """Content of the only element in `data`, which must have this tag.

    Raises:
        MalformedEvidenceError: nothing, more than one element, another tag.
    """
    elements = read_elements(data)
    if len(elements) != 1 or elements[0].tag != tag:
        raise MalformedEvidenceError(f"expected one DER element with tag {tag:#04x}")
    return elements[0].content


def read_integer(content: bytes) -> int:
    """A DER INTEGER's value, from its content octets; negative and padded ones are refused."""
    if not content or content[0] & 0x80 or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise MalformedEvidenceError("DER integer is empty, negative or padded")
    return int.from_bytes(content, "big")


def read_signed(data: bytes) -> tuple[bytes, bytes]:
    """Split a signed X.509 structure (certificate, revocation list) into what is signed and the signature.

    Both places that name the signature algorithm must agree, so that no byte of `data` is free to change.
    """
    signed, signature, _ = read_signed_parts(data)
    return signed, signature


def read_signed_parts(data: bytes) -> tuple[bytes, bytes, list[Element]]:
    """As `read_signed`, and the elements of what is signed."""
    outer = read_elements(read_one(data, SEQUENCE))
    if [part.tag for part in outer] != [SEQUENCE, SEQUENCE, BIT_STRING] or outer[2].content[:1] != b"\0":
        raise MalformedEvidenceError("not a signed structure: (to be signed, algorithm, signature)")
    inner = read_elements(outer[0].content)
    if outer[1].whole not in [part.whole for part in inner]:
        raise MalformedEvidenceError("two different signature algorithms are named")
    return outer[0].whole, outer[2].content[1:], inner


def read_time(element: Element) -> datetime:
    """A UTCTime or GeneralizedTime as the time it names."""
    text = element.content.decode("ascii", "replace")
    if element.tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif element.tag != GENERALIZED_TIME:
        raise MalformedEvidenceError("not a UTCTime or GeneralizedTime")
    if len(text) != 15 or not text[:14].isdecimal() or text[14] != "Z":
        raise MalformedEvidenceError("time is not in the form YYYYMMDDHHMMSSZ")
    try:
        return datetime.fromisoformat(f"{text[:8]}T{text[8:]}")
    except ValueError as error:
        raise MalformedEvidenceError(f"time: {error}") from None


def read_extensions(wrapped: bytes, understood: frozenset[bytes] = _UNDERSTOOD) -> MappingProxyType[bytes, bytes]:
    """Object identifier (content octets) -> value of each extension; critical ones must be understood.

    Raises:
        MalformedEvidenceError: not a SEQUENCE of extensions, more than 32, a doubled one, a critical one that is not
            among `understood`.
    """
    found: dict[bytes, bytes] = {}
    for entry in read_elements(read_one(wrapped, SEQUENCE)):
        parts = read_elements(entry.content)
        tags = [part.tag for part in parts]
        if entry.tag != SEQUENCE or tags not in ([OID, OCTET_STRING], [OID, BOOLEAN, OCTET_STRING]):
            raise MalformedEvidenceError("extension is not (oid, critical, value)")
        oid, value = parts[0].content, parts[-1].content
        if oid in found or len(found) == EXTENSIONS_MAX:
            raise MalformedEvidenceError("an extension is repeated, or there are too many")
        if len(parts) == 3 and oid not in understood:
            raise MalformedEvidenceError(f"unknown critical extension {oid.hex()}")
        found[oid] = value
    return MappingProxyType(found)


def common_name(name: bytes) -> str:
    """The common name within a distinguished name (DER); what is not ASCII is replaced.

    Raises:
        MalformedEvidenceError: not a distinguished name, or one without a common name.
    """
    for relative in read_elements(read_one(name, SEQUENCE)):
        for attribute in read_elements(relative.content):
            parts = read_elements(attribute.content)
            if len(parts) == 2 and parts[0].tag == OID and parts[0].content == _COMMON_NAME:
                return parts[1].content.decode("ascii", "replace")
    raise MalformedEvidenceError("certificate has no common name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate, read but not verified; names and keys are the DER bytes they were signed as."""

    signed: bytes  # the TBSCertificate, which `signature` covers
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    public_key_info: bytes
    extensions: MappingProxyType[bytes, bytes]

    @classmethod
    def parse(
        cls, data: bytes, *, understood: frozenset[bytes] = frozenset(), size_max: int = CERTIFICATE_SIZE_MAX
    ) -> Self:
        """Read one DER certificate.

        Args:
            data: the certificate.
            understood: object identifiers of further critical extensions that the caller checks itself.
            size_max: bytes of the largest that is read.

        Raises:
            MalformedEvidenceError: the bytes are not a version 3 certificate, all of them.
        """
        if len(data) > size_max:
            raise MalformedEvidenceError(f"certificate of {len(data)} bytes; at most {size_max}")
        signed, signature, inner = read_signed_parts(data)
        shape = [_VERSION, INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, _EXTENSIONS]
        if [part.tag for part in inner] != shape or read_one(inner[0].content, INTEGER) != b"\x02":
            raise MalformedEvidenceError("certificate is not of version 3 with extensions")
        validity = read_elements(inner[4].content)
        if len(validity) != 2:
            raise MalformedEvidenceError("certificate validity is not two times")
        return cls(
            signed=signed,
            signature=signature,
            serial=read_integer(inner[1].content),
            issuer=inner[3].whole,
            subject=inner[5].whole,
            not_before=read_time(validity[0]),
            not_after=read_time(validity[1]),
            public_key_info=inner[6].whole,
            extensions=read_extensions(inner[7].content, _UNDERSTOOD | understood),
        )

    def public_key(self) -> PublicKeyTypes:
        """The subject's public key; MalformedEvidenceError if it is none."""
        try:
            return load_der_public_key(self.public_key_info)
        except (ValueError, UnsupportedAlgorithm):
            raise MalformedEvidenceError("certificate holds no usable public key") from None

    def key_bits(self) -> bytes:
        """The public key itself, without its algorithm: what OCSP hashes to name an issuer (RFC 6960, 4.1.1)."""
        parts = list(read_elements(read_one(self.public_key_info, SEQUENCE)))
        if [part.tag for part in parts] != [SEQUENCE, BIT_STRING] or parts[1].content[:1] != b"\0":
            raise MalformedEvidenceError("certificate's public key is not (algorithm, bits)")
        return parts[1].content[1:]

    def is_authority(self) -> bool:
        """May this key sign certificates? Both basicConstraints and keyUsage must say so."""
        constraints = read_elements(read_one(self.extensions.get(BASIC_CONSTRAINTS, b"\x30\0"), SEQUENCE))
        usage = read_one(self.extensions.get(KEY_USAGE, b"\x03\x01\0"), BIT_STRING)
        is_ca = bool(constraints) and constraints[0].whole == b"\x01\x01\xff"
        return is_ca and len(usage) >= 2 and bool(usage[1] & _KEY_CERT_SIGN)
