"""NVIDIA reference integrity manifests (RIM): the measurements a driver or a VBIOS should produce.

A RIM is an ISO 19770-2 (SWID) document of about 20 KB with an XML signature inside. The signature is not looked at: a
policy pins the SHA-256 of every manifest it allows, which is stronger, works offline, and keeps the attack surface of
XML signatures and their expiring certificates out of the verifier.

Source: TCG PC Client Reference Integrity Manifest 1.04; field use as in NVIDIA's published manifests for GH100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from xml.parsers import expat

from attestation.errors import MalformedEvidenceError

RIM_SIZE_MAX = 1 << 17
ELEMENTS_MAX = 1024
BLOCKS_MAX = 256
ALTERNATIVES_MAX = 64
DIGEST_SIZE = 48

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
XMLDSIG = "http://www.w3.org/2000/09/xmldsig#"
_ACTIVE = {"True": True, "False": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rim:
    """One manifest.

    Attributes:
        product: chip it is for, "GH100".
        version: driver version ("550.90.07") or VBIOS version ("96.00.9F.00.01") it describes.
        measurements: index, counted from 0, of each active measurement -> the SHA-384 values allowed there.
        digest: SHA-256 of the file, by which policies name it.
    """

    product: str
    version: str
    measurements: Mapping[int, tuple[bytes, ...]]
    digest: bytes


def parse_rim(data: bytes) -> Rim:
    """Read a manifest. Its meaning may be used only when its digest is pinned.

    Raises:
        MalformedEvidenceError: larger than 128 KiB, not XML in UTF-8, a document type or entity, not a SWID tag, a
            measurement given twice or not a SHA-384 value, none active.
    """
    if len(data) > RIM_SIZE_MAX:
        raise MalformedEvidenceError(f"RIM of {len(data)} bytes, at most {RIM_SIZE_MAX}")
    reader = _Reader()
    try:
        reader.read(data)
    except (expat.ExpatError, UnicodeError) as error:
        raise MalformedEvidenceError(f"RIM is not XML: {error}") from None
    product, version = reader.meta.get("product", ""), reader.meta.get("colloquialVersion", "")
    if not product or not version or not reader.active:
        raise MalformedEvidenceError("RIM names no product, no version, or has no active measurement")
    return Rim(
        product=product,
        version=version,
        measurements=MappingProxyType(reader.active),
        digest=sha256(data).digest(),
    )


class _Reader:
    """Collects the few elements that matter while expat walks the document; builds no tree."""

    def __init__(self) -> None:
        self.meta: dict[str, str] = {}
        self.active: dict[int, tuple[bytes, ...]] = {}
        self._seen: set[int] = set()
        self._path: list[str] = []
        self._elements = 0

    def read(self, data: bytes) -> None:
        """Walk the document; it is read as UTF-8, whatever it declares."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.Parse(data.decode("utf-8"), True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > ELEMENTS_MAX:
            raise MalformedEvidenceError(f"RIM has more than {ELEMENTS_MAX} elements")
        self._path.append(name)
        match self._path:
            case [root] if root != f"{SWID} SoftwareIdentity":
                raise MalformedEvidenceError("RIM is not a SWID tag")
            case [_, child] if child == f"{SWID} Meta":
                if self.meta:
                    raise MalformedEvidenceError("RIM has two Meta elements")
                self.meta = attributes
            case [_, payload, child] if (payload, child) == (f"{SWID} Payload", f"{SWID} Resource"):
                self._measurement(attributes)
            case [*_, child] if child in (f"{SWID} Meta", f"{SWID} Resource"):
                raise MalformedEvidenceError("RIM has a Meta or Resource element out of place")

    def _end(self, _name: str) -> None:
        self._path.pop()

    def _measurement(self, attributes: dict[str, str]) -> None:
        index = _number(attributes, "index", BLOCKS_MAX - 1)
        count = _number(attributes, "alternatives", ALTERNATIVES_MAX)
        active = _ACTIVE.get(attributes.get("active", ""))
        if attributes.get("type") != "Measurement" or active is None or index in self._seen:
            raise MalformedEvidenceError(f"RIM resource {index} is no measurement, or is given twice")
        self._seen.add(index)
        values = tuple(_digest(attributes.get(f"{SHA384} Hash{number}", "")) for number in range(count))
        if not values or sum(name.startswith(f"{SHA384} Hash") for name in attributes) != count:
            raise MalformedEvidenceError(f"RIM measurement {index} has not the {count} alternatives it announces")
        if active:
            self.active[index] = values


def _refuse_doctype(*_: object) -> None:
    raise MalformedEvidenceError("RIM has a document type declaration")


def _number(attributes: dict[str, str], name: str, maximum: int) -> int:
    text = attributes.get(name, "")
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or int(text) > maximum:
        raise MalformedEvidenceError(f"RIM {name} {text[:16]!r}, want a number up to {maximum}")
    return int(text)


def _digest(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != DIGEST_SIZE or len(text) != 2 * DIGEST_SIZE:
        raise MalformedEvidenceError("RIM value is not the hexadecimal form of a SHA-384 digest")
    return value
