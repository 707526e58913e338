"""OVMF images in the real format, made for tests: random code, a GUID table, SEV metadata."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from uuid import UUID

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
OTHER = "e47a6535-984a-4798-865e-4685a7bf8ec2"

MEMORY, SECRETS, CPUID, CALL_AREA, HASHES = 1, 2, 3, 4, 0x10
SECTIONS = (
    (0x800000, 0x9000, MEMORY),
    (0x80A000, 0x3000, MEMORY),
    (0x80D000, 0x1000, SECRETS),
    (0x80E000, 0x1000, CPUID),
    (0x80F000, 0x1000, CALL_AREA),
    (0x810000, 0x1000, HASHES),
    (0x811000, 0x2000, MEMORY),
)
RESET_ADDRESS, HASH_TABLE_ADDRESS = 0x80B004, 0x810C00
SIZE = 4 * 4096


def metadata(sections: Sequence[tuple[int, int, int]] = SECTIONS, *, magic: bytes = b"ASEV", version: int = 1) -> bytes:
    head = struct.pack("<4sIII", magic, 16 + 12 * len(sections), version, len(sections))
    return head + b"".join(struct.pack("<III", *section) for section in sections)


def entry(guid: str, data: bytes, size: int | None = None) -> bytes:
    return data + struct.pack("<H16s", len(data) + 18 if size is None else size, UUID(guid).bytes_le)


def table(entries: Mapping[str, bytes]) -> bytes:
    body = b"".join(entry(guid, data) for guid, data in entries.items())
    return body + struct.pack("<H16s", len(body) + 18, UUID(FOOTER).bytes_le)


def image(
    *,
    sections: Sequence[tuple[int, int, int]] = SECTIONS,
    reset_address: int | None = RESET_ADDRESS,
    hash_table_address: int | None = HASH_TABLE_ADDRESS,
    size: int = SIZE,
    seed: int = 0,
) -> bytes:
    """An image whose code is random bytes."""
    described = metadata(sections)
    data = bytearray(random.Random(seed).randbytes(size))
    data[-1024 : -1024 + len(described)] = described
    entries = {OTHER: b"whatever else", METADATA: struct.pack("<I", 1024)}
    if reset_address is not None:
        entries[RESET_BLOCK] = struct.pack("<I", reset_address)
    if hash_table_address is not None:
        entries[HASH_TABLE] = struct.pack("<II", hash_table_address, 0x400)
    return with_table(bytes(data), table(entries))


def with_table(data: bytes, guids: bytes) -> bytes:
    """The image with another GUID table, which ends 32 bytes before it does."""
    return data[: -32 - len(guids)] + guids + data[-32:]
