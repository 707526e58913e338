"""What an OVMF firmware image says about how SEV-SNP launches it: the GUID table at its end and the SEV metadata.

The table lies 32 bytes before the image's end and is read backwards: each entry is its data, its size (u16, all of it
counted) and its GUID; the footer entry gives the size of the whole table.

Source: EDK II, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm and OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self
from uuid import UUID

from attestation.errors import MalformedEvidenceError

PAGE_SIZE: Final = 4096
FIRMWARE_SIZE_MAX: Final = 64 << 20
SECTIONS_MAX: Final = 64
SECTION_BYTES_MAX: Final = 64 << 20  # of all sections together

_END_OF_4_GIB: Final = 1 << 32  # the image ends there in guest memory
_FOOTER_GUID: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_SEV_METADATA_GUID: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
_RESET_BLOCK_GUID: Final = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
_HASH_TABLE_GUID: Final = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
_ENTRY = struct.Struct("<H16s")
_METADATA = struct.Struct("<4sIII")  # signature, length, version, number of sections
_SECTION = struct.Struct("<III")  # guest physical address, length, kind
_BEHIND_TABLE: Final = 32
_ENTRIES_MAX: Final = 64


class SectionKind(IntEnum):
    """What the hypervisor puts into a range of guest memory before launch."""

    MEMORY = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CALL_AREA = 4
    KERNEL_HASHES = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One range of guest memory named by the firmware; address and size are multiples of 4096."""

    kind: SectionKind
    address: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """One OVMF image.

    Attributes:
        data: the image, a whole number of pages.
        sections: in the order the firmware names them.
        reset_address: where all processors but the first start; None if the firmware does not say.
        hash_table_address: where the table of kernel hashes goes; None if the firmware has no place for it.
    """

    data: bytes
    sections: tuple[Section, ...]
    reset_address: int | None
    hash_table_address: int | None

    @property
    def address(self) -> int:
        """Where the image lies in guest memory: it ends at 4 GiB."""
        return _END_OF_4_GIB - len(self.data)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read an image.

        Raises:
            MalformedEvidenceError: no whole number of pages, larger than 64 MiB, no GUID table, no or unknown SEV
                metadata.
        """
        if not 0 < len(data) <= FIRMWARE_SIZE_MAX or len(data) % PAGE_SIZE:
            raise MalformedEvidenceError(
                f"firmware of {len(data)} bytes, want pages of 4096, at most {FIRMWARE_SIZE_MAX}"
            )
        table = _read_table(data)
        return cls(
            data=data,
            sections=_read_sections(data, table.get(_SEV_METADATA_GUID)),
            reset_address=_address(table.get(_RESET_BLOCK_GUID)),
            hash_table_address=_address(table.get(_HASH_TABLE_GUID)) or None,
        )


def _read_table(data: bytes) -> dict[bytes, bytes]:
    """GUID -> data of each entry."""
    at = len(data) - _BEHIND_TABLE - _ENTRY.size
    size, guid = _ENTRY.unpack_from(data, at)
    if guid != _FOOTER_GUID or not _ENTRY.size <= size <= at + _ENTRY.size:
        raise MalformedEvidenceError("firmware has no OVMF GUID table")
    left = data[at + _ENTRY.size - size : at]
    table: dict[bytes, bytes] = {}
    while left:
        if len(left) < _ENTRY.size or len(table) == _ENTRIES_MAX:
            raise MalformedEvidenceError("firmware's GUID table is cut short or has too many entries")
        size, guid = _ENTRY.unpack_from(left, len(left) - _ENTRY.size)
        if not _ENTRY.size <= size <= len(left) or guid in table:
            raise MalformedEvidenceError("firmware's GUID table has an entry of impossible size, or one twice")
        table[guid] = left[len(left) - size : len(left) - _ENTRY.size]
        left = left[: len(left) - size]
    return table


def _address(entry: bytes | None) -> int | None:
    """The u32 an entry begins with."""
    if entry is None:
        return None
    if len(entry) < 4:
        raise MalformedEvidenceError("firmware's GUID table has an entry without its address")
    return int.from_bytes(entry[:4], "little")


def _read_sections(data: bytes, entry: bytes | None) -> tuple[Section, ...]:
    offset = _address(entry)
    if offset is None:
        raise MalformedEvidenceError("firmware has no SEV metadata: it cannot be launched with SEV-SNP")
    start = len(data) - offset
    if not 0 <= start <= len(data) - _METADATA.size:
        raise MalformedEvidenceError("firmware's SEV metadata lies outside the image")
    signature, length, version, count = _METADATA.unpack_from(data, start)
    if signature != b"ASEV" or version != 1:
        raise MalformedEvidenceError("firmware's SEV metadata is of another kind or version than 1")
    end = start + _METADATA.size + count * _SECTION.size
    if not 0 < count <= SECTIONS_MAX or length != end - start or end > len(data):
        raise MalformedEvidenceError(f"firmware's SEV metadata names {count} sections in {length} bytes")
    sections = tuple(
        _read_section(*_SECTION.unpack_from(data, start + _METADATA.size + number * _SECTION.size))
        for number in range(count)
    )
    if sum(section.size for section in sections) > SECTION_BYTES_MAX:
        raise MalformedEvidenceError(f"firmware's sections are larger than {SECTION_BYTES_MAX} bytes together")
    return sections


def _read_section(address: int, size: int, kind: int) -> Section:
    try:
        known = SectionKind(kind)
    except ValueError:
        raise MalformedEvidenceError(f"firmware has a section of the unknown kind {kind}") from None
    if address % PAGE_SIZE or size % PAGE_SIZE or not size:
        raise MalformedEvidenceError(f"firmware section at {address:#x} of {size} bytes is not made of pages")
    one_page = known in (SectionKind.SECRETS, SectionKind.CPUID, SectionKind.KERNEL_HASHES)
    if one_page and size != PAGE_SIZE:
        raise MalformedEvidenceError(f"firmware section {known.name} of {size} bytes, want one page")
    return Section(kind=known, address=address, size=size)
