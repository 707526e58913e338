"""X.509 revocation lists, read with the project's own DER reader.

Only complete lists are read: a critical extension (a delta list, a list for some certificates only) refuses the list,
because what such a list does not name may still be revoked.

Source: RFC 5280 section 5.1, 5.2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from attestation.certificate import (
    GENERALIZED_TIME,
    INTEGER,
    SEQUENCE,
    UTC_TIME,
    Element,
    read_elements,
    read_extensions,
    read_integer,
    read_one,
    read_signed_parts,
    read_time,
)
from attestation.errors import MalformedEvidenceError

CRL_SIZE_MAX: Final = 1 << 16
ENTRIES_MAX: Final = 4096

CRL_NUMBER: Final = bytes.fromhex("551d14")  # 2.5.29.20
_ENTRY_REASON: Final = bytes.fromhex("551d15")  # 2.5.29.21; whatever the reason, the certificate is revoked
_EXTENSIONS = 0xA0
_TIMES = (UTC_TIME, GENERALIZED_TIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """One revocation list, read but not verified.

    Attributes:
        signed: the TBSCertList, which `signature` covers.
        signature: the signature's bytes.
        issuer: distinguished name, DER.
        issued: thisUpdate.
        renewed: nextUpdate; a list without one is refused.
        number: CRL number, which grows with every list; None if the list has none.
        revoked: serial numbers.
    """

    signed: bytes
    signature: bytes
    issuer: bytes
    issued: datetime
    renewed: datetime
    number: int | None
    revoked: frozenset[int]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one DER revocation list.

        Raises:
            MalformedEvidenceError: absent, larger than 64 KiB, not a complete version 2 list with a nextUpdate.
        """
        if not 0 < len(data) <= CRL_SIZE_MAX:
            raise MalformedEvidenceError(f"revocation list of {len(data)} bytes, want 1 to {CRL_SIZE_MAX}")
        signed, signature, inner = read_signed_parts(data)
        tags = [part.tag for part in inner]
        if tags[:3] != [INTEGER, SEQUENCE, SEQUENCE] or inner[0].content != b"\x01":
            raise MalformedEvidenceError("revocation list is not of version 2")
        if len(inner) < 5 or tags[3] not in _TIMES or tags[4] not in _TIMES:
            raise MalformedEvidenceError("revocation list does not say when it was issued and is renewed")
        if tags[5:] not in ([], [SEQUENCE], [_EXTENSIONS], [SEQUENCE, _EXTENSIONS]):
            raise MalformedEvidenceError("revocation list has unknown parts")
        rest = dict(zip(tags[5:], inner[5:], strict=True))
        return cls(
            signed=signed,
            signature=signature,
            issuer=inner[2].whole,
            issued=read_time(inner[3]),
            renewed=read_time(inner[4]),
            number=_number(rest.get(_EXTENSIONS)),
            revoked=_revoked(rest.get(SEQUENCE)),
        )


def _number(extensions: Element | None) -> int | None:
    if extensions is None:
        return None
    number = read_extensions(extensions.content, understood=frozenset()).get(CRL_NUMBER)
    return None if number is None else read_integer(read_one(number, INTEGER))


def _revoked(entries: Element | None) -> frozenset[int]:
    serials: set[int] = set()
    for entry in read_elements(entries.content) if entries else ():
        parts = read_elements(entry.content)
        tags = [part.tag for part in parts]
        if len(serials) == ENTRIES_MAX or entry.tag != SEQUENCE or len(tags) not in (2, 3):
            raise MalformedEvidenceError(f"revocation list has a malformed entry or more than {ENTRIES_MAX}")
        if tags[0] != INTEGER or tags[1] not in _TIMES or tags[2:] not in ([], [SEQUENCE]):
            raise MalformedEvidenceError("revocation list entry is not (serial, time, extensions)")
        if tags[2:]:
            read_extensions(parts[2].whole, understood=frozenset({_ENTRY_REASON}))
        serials.add(read_integer(parts[0].content))
    return frozenset(serials)
