"""Sealed state: the same image on the same chip reads it again, and nobody else."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import (
    ForeignSealError,
    MalformedSealedStateError,
    SealedStateAlteredError,
    SealedStateError,
    SealedStateRollbackError,
)
from attestation.sealed_state import HEADER, OVERHEAD, RecordSealer, UnsafeFileKeySource, seal, unseal
from attestation.sim.sealing import sealing_key
from attestation.sim.snp_platform import SimulatedSnpPlatform, SnpFaults
from attestation.sim.tdx import SimulatedTdxPlatform, image_of
from attestation.simulate import DEFAULT_IMAGE, Fault, SimulatedHost
from attestation.verdict import TeeKind
from tests.attestation.hosts import SNP_CPU, TDX_CPU, host, vendors
from tests.attestation.vendors import flipped

ROOT, OTHER = b"r" * 32, b"o" * 32
CONTENT = b"what a host was asked, and how often"
BLOB = seal(ROOT, CONTENT, generation=7, random=os.urandom)
KINDS = pytest.mark.parametrize("kind", [TDX_CPU, SNP_CPU])


def test_what_was_sealed_comes_back_and_shows_nothing() -> None:
    assert unseal(ROOT, BLOB) == CONTENT
    assert len(BLOB) == HEADER + OVERHEAD + len(CONTENT)
    assert CONTENT not in BLOB


def test_the_same_content_is_sealed_differently_each_time() -> None:
    assert seal(ROOT, CONTENT, generation=7, random=os.urandom)[9:41] != BLOB[9:41]


def test_another_key_is_told_from_an_alteration() -> None:
    with pytest.raises(ForeignSealError, match="another image"):
        unseal(OTHER, BLOB)
    with pytest.raises(SealedStateAlteredError):
        unseal(ROOT, flipped(BLOB, 8 * len(BLOB) - 1))


@given(bit=st.integers(0, 8 * len(BLOB) - 1))
def test_one_flipped_bit_is_refused(bit: int) -> None:
    with pytest.raises(SealedStateError):
        unseal(ROOT, flipped(BLOB, bit))


@settings(max_examples=50)
@given(cut=st.integers(0, len(BLOB) - 1), more=st.binary(max_size=8))
def test_cut_or_followed_by_other_bytes_is_refused(cut: int, more: bytes) -> None:
    for altered in (BLOB[:cut], BLOB[:cut] + more, BLOB + more):
        if altered != BLOB:
            with pytest.raises(SealedStateError):
                unseal(ROOT, altered)


def test_an_older_generation_than_the_known_one_is_refused() -> None:
    assert unseal(ROOT, BLOB, generation_min=7) == CONTENT
    with pytest.raises(SealedStateRollbackError, match="generation 7"):
        unseal(ROOT, BLOB, generation_min=8)


def test_a_header_of_another_version_is_malformed() -> None:
    with pytest.raises(MalformedSealedStateError):
        RecordSealer.read(ROOT, b"\2" + BLOB[1:HEADER], random=os.urandom)


def test_a_record_opens_behind_its_predecessor_and_under_its_head_only() -> None:
    sealer = RecordSealer.create(ROOT, generation=0, random=os.urandom)
    first = sealer.seal(sealer.start, b"head", b"first")
    second = sealer.seal(first[-16:], b"head", b"second")
    assert sealer.open(first[-16:], b"head", second) == b"second"
    for before, head in ((sealer.start, b"head"), (second[-16:], b"head"), (first[-16:], b"tail")):
        with pytest.raises(SealedStateAlteredError):
            sealer.open(before, head, second)


@KINDS
def test_the_same_image_gets_the_same_key_at_every_start(kind: TeeKind, tmp_path: Path) -> None:
    machine = host(kind)
    machine.save(tmp_path / "host")
    assert SimulatedHost.load(tmp_path / "host").sealing_key(b"x") == machine.sealing_key(b"x")
    refreshed = vendors().refresh(machine, now=vendors().created)
    assert refreshed.sealing_key(b"x") == machine.sealing_key(b"x")


@KINDS
def test_another_image_chip_or_purpose_gets_another_key(kind: TeeKind) -> None:
    machine = host(kind)
    keys = [
        machine.sealing_key(b"x"),
        machine.sealing_key(b"y"),
        replace(machine, image=b"i" * 32).sealing_key(b"x"),
        machine.with_faults(Fault.FOREIGN_MEASUREMENT).sealing_key(b"x"),
        machine.with_faults(Fault.DEBUG_GUEST).sealing_key(b"x"),
        vendors().make_host(kind, quote_latency_s=0).sealing_key(b"x"),
    ]
    assert len(set(keys)) == len(keys)
    blob = seal(keys[0], CONTENT, generation=0, random=os.urandom)
    for key in keys[1:]:
        with pytest.raises(ForeignSealError):
            unseal(key, blob)


def test_another_configuration_of_the_same_tdx_guest_gets_another_key() -> None:
    platform, image = host(TDX_CPU).platform, image_of(DEFAULT_IMAGE)
    assert isinstance(platform, SimulatedTdxPlatform)

    def key(**changes: bytes) -> bytes:
        quote = platform.quote(bytes(64), image=replace(image, **changes))
        return sealing_key(platform.pck_key, platform.evidence(quote), b"x")

    assert key() == host(TDX_CPU).sealing_key(b"x")
    assert len({key(), key(mr_config_id=b"c" * 48), key(mr_owner_config=b"c" * 48)}) == 3


def test_another_configuration_or_level_of_the_same_snp_guest_gets_another_key() -> None:
    platform = host(SNP_CPU).platform
    assert isinstance(platform, SimulatedSnpPlatform)

    def key(**changes: object) -> bytes:
        report = platform.report(bytes(64), measurement=b"m" * 48, **changes)
        return sealing_key(platform.key, platform.evidence(report), b"x")

    assert key() == key()
    assert len({key(), key(host_data=b"c" * 32), key(faults=SnpFaults(vmpl=1))}) == 3


def test_a_file_stands_in_where_there_is_no_tee_and_is_called_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    key = UnsafeFileKeySource(path).sealing_key(b"x")
    assert UnsafeFileKeySource(path).sealing_key(b"x") == key != UnsafeFileKeySource(path).sealing_key(b"y")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="not a secret"):
        UnsafeFileKeySource(path).sealing_key(b"x")
