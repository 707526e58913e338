"""OVMF images: the GUID table and the SEV metadata are read as the hypervisor reads them, whatever the bytes are."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import MalformedEvidenceError
from attestation.ovmf import FIRMWARE_SIZE_MAX, Firmware, Section, SectionKind
from tests.attestation.firmware import (
    HASH_TABLE,
    HASH_TABLE_ADDRESS,
    METADATA,
    RESET_ADDRESS,
    SECTIONS,
    SIZE,
    entry,
    image,
    metadata,
    table,
    with_table,
)
from tests.attestation.vendors import flipped


def test_an_image_is_read() -> None:
    firmware = Firmware.parse(image())
    assert firmware.address == (1 << 32) - SIZE
    assert firmware.sections == tuple(
        Section(kind=SectionKind(kind), address=address, size=size) for address, size, kind in SECTIONS
    )
    assert (firmware.reset_address, firmware.hash_table_address) == (RESET_ADDRESS, HASH_TABLE_ADDRESS)


def test_what_an_image_does_not_say_is_none() -> None:
    firmware = Firmware.parse(image(reset_address=None, hash_table_address=None))
    assert (firmware.reset_address, firmware.hash_table_address) == (None, None)
    assert Firmware.parse(image(hash_table_address=0)).hash_table_address is None


def _described(described: bytes, offset: int | None = None) -> bytes:
    data = image()
    placed = data[:-1024] + described.ljust(1024, b"\0")
    return with_table(placed, table({METADATA: struct.pack("<I", 1024 if offset is None else offset)}))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(image()[:-1], id="no-whole-page"),
        pytest.param(bytes(4096), id="no-table"),
        pytest.param(bytes(FIRMWARE_SIZE_MAX + 4096), id="too-large"),
        pytest.param(with_table(image(), table({HASH_TABLE: bytes(8)})), id="no-metadata"),
        pytest.param(with_table(image(), table({METADATA: b"\0"})), id="entry-without-address"),
        pytest.param(with_table(image(), entry(METADATA, b"", 17) + table({})), id="entry-cut-off-from-the-table"),
        pytest.param(_described(metadata(magic=b"ASEW")), id="other-signature"),
        pytest.param(_described(metadata(version=2)), id="other-version"),
        pytest.param(_described(metadata(())), id="no-section"),
        pytest.param(_described(metadata(SECTIONS * 10)), id="too-many-sections"),
        pytest.param(_described(metadata([(0, 4096, 7)])), id="unknown-kind"),
        pytest.param(_described(metadata([(1, 4096, 1)])), id="address-within-a-page"),
        pytest.param(_described(metadata([(0, 4095, 1)])), id="part-of-a-page"),
        pytest.param(_described(metadata([(0, 0, 1)])), id="empty-section"),
        pytest.param(_described(metadata([(0, 8192, 2)])), id="two-pages-of-secrets"),
        pytest.param(_described(metadata([(0, 8192, 0x10)])), id="two-pages-of-hashes"),
        pytest.param(_described(metadata([(0, 0xFFFFF000, 1)])), id="more-memory-than-is-hashed"),
        pytest.param(_described(metadata(), offset=1 << 31), id="metadata-before-the-image"),
        pytest.param(_described(metadata(), offset=8), id="metadata-past-the-end"),
        pytest.param(_described(metadata()[:12] + struct.pack("<I", 6) + metadata()[16:]), id="length-against-count"),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        Firmware.parse(data)


def test_an_entry_given_twice_is_refused() -> None:
    body = entry(METADATA, struct.pack("<I", 1024)) * 2
    guids = table({})
    doubled = body + struct.pack("<H", len(body) + 18) + guids[2:]
    with pytest.raises(MalformedEvidenceError, match="twice"):
        Firmware.parse(with_table(image(), doubled))


@given(bit=st.integers(0, 1200 * 8))
@settings(deadline=None)
def test_damaged_images_raise_only_the_parsers_error(bit: int) -> None:
    data = image(size=4096)
    with suppress(MalformedEvidenceError):
        Firmware.parse(flipped(data, len(data) * 8 - 1 - bit))


@given(tail=st.binary(min_size=50, max_size=200))
def test_any_end_of_an_image_raises_only_the_parsers_error(tail: bytes) -> None:
    with suppress(MalformedEvidenceError):
        Firmware.parse(image(size=4096)[: -len(tail)] + tail)
