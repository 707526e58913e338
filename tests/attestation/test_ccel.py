"""The firmware's log: a genuine one replays to its genuine quote, and no bytes do anything but that or refuse."""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import MalformedEvidenceError
from attestation.ccel import (
    EV_NO_ACTION,
    FIRMWARE_EVENTS_MAX,
    LOG_SIZE_MAX,
    FirmwareEvent,
    cut_ccel,
    parse_ccel,
    replay_ccel,
)
from attestation.ccel_words import WORDS_MAX, describe, proof, type_name
from attestation.sim.ccel import encode_ccel, firmware_events
from attestation.sim.tdx import image_of
from attestation.tdx_quote import cut_quote, parse_quote
from tests.attestation.vendors import flipped, vector

IMAGE = b"i" * 32
HEADER = 32 + 33  # bytes of the first event: old form, Spec ID event


@cache
def _genuine() -> bytes:
    return cut_ccel(vector("tdx/google_cos113_ccel_data.bin").read_bytes())


def _registers() -> tuple[bytes, ...]:
    return parse_quote(cut_quote(vector("tdx/google_cos113_v4_quote.bin").read_bytes())).body.rtmrs


def test_a_genuine_log_replays_to_its_genuine_quote() -> None:
    events = parse_ccel(_genuine())
    assert Counter(event.rtmr for event in events) == {0: 16, 1: 7, 2: 20}
    assert replay_ccel(events) == _registers()


def test_the_area_of_a_genuine_log_is_read_only_when_its_padding_is_cut() -> None:
    whole = vector("tdx/google_cos113_ccel_data.bin").read_bytes()
    assert (len(whole), len(_genuine())) == (LOG_SIZE_MAX, 18101)
    with pytest.raises(MalformedEvidenceError, match="cut padding off"):
        parse_ccel(whole)
    spoiled = whole[:-1] + b"\1"
    with pytest.raises(MalformedEvidenceError):
        cut_ccel(spoiled)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 18101 * 8 - 1))
def test_one_flipped_bit_in_a_genuine_log_is_refused_or_seen(bit: int) -> None:
    """A digest, length or register: another replay. Types and words: a digest of the log that nobody logged."""
    altered = flipped(_genuine(), bit)
    with contextlib.suppress(MalformedEvidenceError):
        events, before = parse_ccel(altered), parse_ccel(_genuine())
        assert altered != _genuine()
        if replay_ccel(events) == _registers():
            assert [event.digest for event in events] == [event.digest for event in before]


def test_words_of_a_genuine_log_say_what_ran() -> None:
    words = [describe(event) for event in parse_ccel(_genuine())]
    assert words[2] == "rtmr0 EV_EFI_VARIABLE_DRIVER_CONFIG: SecureBoot = 00"
    assert words[1].endswith("Fv(48DB5E17-707C-472D-91CD-1613E7EF51B0). (said, not proved)")
    assert words[11] == "rtmr0 EV_EFI_VARIABLE_BOOT: BootOrder = 01000000 (in part only said)"
    assert words[16] == "rtmr1 EV_EFI_GPT_EVENT: partition table with 12 partitions"
    assert words[17] == r"rtmr1 EV_EFI_BOOT_SERVICES_APPLICATION: \EFI\BOOT\BOOTX64.EFI (said, not proved)"
    assert words[25] == "rtmr2 EV_IPL: grub_cmd: defaultA=2 (in part only said)"
    assert words[40].startswith("rtmr2 EV_IPL: kernel_cmdline: /syslinux/vmlinuz.A init=/usr/lib/systemd/systemd")
    assert words[42] == "rtmr1 EV_EFI_ACTION: Exit Boot Services Returned with Success"


def test_words_that_were_changed_are_no_longer_proved() -> None:
    events = parse_ccel(_genuine())
    assert Counter(map(proof, events)) == {"whole": 13, "part": 18, "none": 12}
    secure_boot, kernel = events[2], events[40]
    assert proof(secure_boot) == "whole"
    assert proof(replace(secure_boot, data=secure_boot.data[:-1] + b"\1")) == "none"
    assert proof(kernel) == "part"
    assert proof(replace(kernel, data=kernel.data.replace(b"noresume", b"noreseme"))) == "none"


def test_a_simulated_log_replays_to_the_simulated_registers() -> None:
    ccel = encode_ccel(firmware_events(IMAGE))
    assert parse_ccel(ccel) == firmware_events(IMAGE)
    assert replay_ccel(parse_ccel(ccel)) == image_of(IMAGE).rtmrs
    assert {proof(event) for event in parse_ccel(ccel)} == {"whole"}
    assert replay_ccel(firmware_events(b"j" * 32))[2] != replay_ccel(firmware_events(IMAGE))[2]


def test_a_log_of_no_events_is_four_untouched_registers() -> None:
    assert replay_ccel(parse_ccel(encode_ccel([]))) == (bytes(48),) * 4


def test_an_event_without_action_extends_nothing() -> None:
    event = FirmwareEvent(rtmr=0, type=EV_NO_ACTION, digest=bytes(48), data=b"StartupLocality\0\3")
    assert replay_ccel([event]) == (bytes(48),) * 4


@pytest.mark.parametrize("padding", [b"", b"\0" * 7, b"\xff" * 4096])
def test_padding_is_cut(padding: bytes) -> None:
    ccel = encode_ccel(firmware_events(IMAGE))
    assert cut_ccel(ccel + padding) == ccel


@pytest.mark.parametrize("padding", [b"\0\0\1", b"\xff\xff\0", b"\0" * 70 + b"\1", b"\0" * 8 + b"\xff" * 8])
def test_what_hides_in_padding_is_refused(padding: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        cut_ccel(encode_ccel(firmware_events(IMAGE)) + padding)


def _put(at: int, layout: str, *values: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(layout, data, at, *values)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(_put(0, "<I", 2), id="first-event-of-another-register"),
        pytest.param(_put(4, "<I", 4), id="first-event-of-another-type"),
        pytest.param(_put(8, "B", 1), id="first-event-with-a-digest"),
        pytest.param(_put(28, "<I", 32), id="short-first-event"),
        pytest.param(_put(28, "<I", 1 << 31), id="endless-first-event"),
        pytest.param(_put(28, "<I", 0), id="empty-first-event"),
        pytest.param(_put(32, "B", 0), id="another-signature"),
        pytest.param(_put(48, "<I", 1), id="server-platform"),
        pytest.param(_put(52, "B", 1), id="minor-version"),
        pytest.param(_put(53, "B", 1), id="major-version"),
        pytest.param(_put(56, "<I", 2), id="two-algorithms"),
        pytest.param(_put(56, "<I", 0), id="no-algorithm"),
        pytest.param(_put(60, "<HH", 0x000B, 32), id="sha-256"),
        pytest.param(_put(62, "<H", 32), id="short-digests"),
        pytest.param(_put(64, "B", 1), id="vendor-bytes-that-are-not-there"),
        pytest.param(_put(HEADER, "<I", 0), id="event-for-the-initial-image"),
        pytest.param(_put(HEADER, "<I", 5), id="event-for-a-fifth-register"),
        pytest.param(_put(HEADER + 8, "<I", 2), id="event-with-two-digests"),
        pytest.param(_put(HEADER + 8, "<I", 0xFFFFFFFF), id="event-with-endless-digests"),
        pytest.param(_put(HEADER + 12, "<H", 4), id="event-with-sha-1"),
        pytest.param(_put(HEADER + 62, "<I", 0xFFFFFFFF), id="endless-event"),
    ],
)
def test_what_is_no_log_of_a_tdx_guest_is_malformed(edit: Callable[[bytearray], None]) -> None:
    data = bytearray(encode_ccel(firmware_events(IMAGE)))
    edit(data)
    with pytest.raises(MalformedEvidenceError, match="firmware log"):
        parse_ccel(bytes(data))


def test_a_log_with_a_second_bank_of_digests_is_malformed() -> None:
    with pytest.raises(MalformedEvidenceError, match="2 digests"):
        parse_ccel(encode_ccel(firmware_events(IMAGE), algorithms=[(0x000B, 32), (0x000C, 48)]))


def test_a_log_too_large_or_too_long_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_ccel(bytes(LOG_SIZE_MAX + 1))
    small = FirmwareEvent(rtmr=0, type=4, digest=bytes(48), data=b"")
    assert len(parse_ccel(encode_ccel([small] * FIRMWARE_EVENTS_MAX))) == FIRMWARE_EVENTS_MAX
    with pytest.raises(MalformedEvidenceError, match="more than"):
        parse_ccel(encode_ccel([small] * (FIRMWARE_EVENTS_MAX + 1)))


@given(st.integers(0, len(encode_ccel(firmware_events(IMAGE))) - 1))
def test_a_truncated_log_is_a_shorter_log_or_malformed(size: int) -> None:
    ccel = encode_ccel(firmware_events(IMAGE))
    with contextlib.suppress(MalformedEvidenceError):
        events = parse_ccel(ccel[:size])
        assert events == firmware_events(IMAGE)[: len(events)]
        assert replay_ccel(events) != image_of(IMAGE).rtmrs


@given(st.data())
def test_garbage_spliced_into_a_log_is_malformed_or_another_log(data: st.DataObject) -> None:
    ccel = encode_ccel(firmware_events(IMAGE))
    start = data.draw(st.integers(0, len(ccel)))
    end = data.draw(st.integers(start, min(len(ccel), start + 80)))
    spliced = ccel[:start] + data.draw(st.binary(max_size=80)) + ccel[end:]
    with contextlib.suppress(MalformedEvidenceError):
        for event in parse_ccel(spliced):
            describe(event)


@given(st.one_of(st.integers(0, 0x13), st.integers(0x80000000, 0x800000E3)), st.binary(max_size=300))
def test_any_event_is_one_printable_line(kind: int, data: bytes) -> None:
    words = describe(FirmwareEvent(rtmr=0, type=kind, digest=bytes(48), data=data))
    assert words.isprintable() and words.isascii()
    assert words.startswith(f"rtmr0 {type_name(kind)}: ") and words.endswith(" (said, not proved)")
    assert len(words) <= WORDS_MAX + 80


@pytest.mark.parametrize("text", [b"\x1b[2J\x1b]0;held\x07", "\u202edleh".encode(), b"a\nheld: host"])
def test_words_cannot_drive_a_terminal(text: bytes) -> None:
    words = describe(FirmwareEvent(rtmr=1, type=0x80000007, digest=bytes(48), data=text))
    assert words.isascii() and words.isprintable()
