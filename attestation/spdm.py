"""SPDM 1.1 GET_MEASUREMENTS: the request a GPU answered and its signed answer, as one byte string.

Source: DMTF DSP0274 1.1.2, sections 10.11.1 and 10.11.2; opaque data as NVIDIA's published verifier reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from attestation.errors import MalformedEvidenceError

SPDM_SIZE_MAX = 1 << 15
REQUEST_SIZE = 37
REQUEST_HEAD = b"\x11\xe0\x01\xff"  # version 1.1, GET_MEASUREMENTS, signed, all blocks
RESPONSE_HEAD = b"\x11\x60\0\0"  # version 1.1, MEASUREMENTS, slot 0
NONCE_SIZE = 32
SIGNATURE_SIZE = 96
DIGEST_SIZE = 48
_RAW = 0x80  # value type: not a digest
_BLOCK = struct.Struct("<BBHBH")  # index, specification, size, value type, value size


@dataclass(frozen=True, slots=True, kw_only=True)
class SpdmReport:
    """Measurements one device signed, read but not verified.

    Attributes:
        nonce: the challenger's, 32 bytes.
        measurements: SHA-384 of each block; block 1 stands first.
        opaque: the vendor's fields by number.
        signed: the bytes the signature covers, request included.
        signature: r and s.
    """

    nonce: bytes
    measurements: tuple[bytes, ...]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: tuple[int, int]


def parse_spdm(data: bytes) -> SpdmReport:
    """Read request and response; every byte must have its place.

    Raises:
        MalformedEvidenceError: larger than 32 KiB, not such a pair, blocks out of order, a value that is no SHA-384
            digest, an opaque field given twice, bytes missing or left over.
    """
    if len(data) > SPDM_SIZE_MAX:
        raise MalformedEvidenceError(f"SPDM report of {len(data)} bytes, at most {SPDM_SIZE_MAX}")
    request = _Cursor(data[:REQUEST_SIZE])
    if request.take(4) != REQUEST_HEAD:
        raise MalformedEvidenceError("not an SPDM 1.1 request for all measurements, signed")
    nonce = request.take(NONCE_SIZE)
    response = _Cursor(data[REQUEST_SIZE:])
    if request.take(1) != b"\0" or response.take(4) != RESPONSE_HEAD:
        raise MalformedEvidenceError("not an SPDM 1.1 answer of certificate slot 0")
    count = response.number(1)
    measurements = _parse_blocks(response.take(response.number(3)), count)
    response.take(NONCE_SIZE)  # the device's own nonce
    opaque = _parse_opaque(response.take(response.number(2)))
    signature = response.take(SIGNATURE_SIZE)
    response.end()
    return SpdmReport(
        nonce=nonce,
        measurements=measurements,
        opaque=MappingProxyType(opaque),
        signed=data[:-SIGNATURE_SIZE],
        signature=(int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")),
    )


def _parse_blocks(record: bytes, count: int) -> tuple[bytes, ...]:
    size = _BLOCK.size + DIGEST_SIZE
    if len(record) != count * size or count == 0:
        raise MalformedEvidenceError(f"SPDM record of {len(record)} bytes for {count} blocks, want {size} for each")
    values = []
    for position in range(count):
        start = position * size
        index, specification, block_size, kind, value_size = _BLOCK.unpack_from(record, start)
        if index != position + 1 or specification != 1 or kind & _RAW or block_size != value_size + 3:
            raise MalformedEvidenceError(f"SPDM block {position + 1} is out of order, or no DMTF digest")
        if value_size != DIGEST_SIZE:
            raise MalformedEvidenceError(f"SPDM block {position + 1} has {value_size} bytes, want {DIGEST_SIZE}")
        values.append(record[start + _BLOCK.size : start + size])
    return tuple(values)


def _parse_opaque(data: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    cursor = _Cursor(data)
    while cursor.left:
        number = cursor.number(2)
        if number in fields:
            raise MalformedEvidenceError(f"SPDM opaque field {number} is given twice")
        fields[number] = cursor.take(cursor.number(2))
    return fields


class _Cursor:
    """Reads bytes from the front; running out is malformed evidence."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise MalformedEvidenceError(f"SPDM report is cut short: {self.left} bytes left, want {size}")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def end(self) -> None:
        if self.left:
            raise MalformedEvidenceError(f"SPDM report has {self.left} bytes too many")
