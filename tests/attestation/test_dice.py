"""DICE extensions: the forms genuine devices write are read; anything odd is malformed, debug states are seen."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.dice import DiceIdentity, read_identity
from attestation.errors import MalformedEvidenceError
from attestation.sim.der import element, identifier, integer, octets, sequence

HOPPER, BLACKWELL = bytes.fromhex("678105050401"), bytes.fromhex("67810505040101")
SHA384, SHA256 = identifier("2.16.840.1.101.3.4.2.2"), identifier("2.16.840.1.101.3.4.2.1")
DIGEST = b"d" * 48
FWID = sequence(SHA384, octets(DIGEST))


def _device_id(fwid: bytes = FWID) -> bytes:
    return sequence(integer(1), sequence(b""), fwid)


def _tcb_info(flags: bytes = b"\0\x80\0\0\1", fwids: bytes = FWID, *more: bytes) -> bytes:
    return sequence(element(0x80, b"vendor"), element(0xA6, fwids), element(0x87, flags), *more)


def test_hoppers_form_names_the_firmware_and_no_state() -> None:
    assert read_identity({HOPPER: _device_id()}) == DiceIdentity(fwid=DIGEST, open_states=None)


def test_blackwells_form_names_the_first_firmware_and_the_state() -> None:
    second = sequence(SHA384, octets(bytes(48)))
    assert read_identity({BLACKWELL: _tcb_info(fwids=FWID + second)}) == DiceIdentity(fwid=DIGEST, open_states=())


@pytest.mark.parametrize(
    ("flags", "states"),
    [
        pytest.param(b"\0\x80", (), id="not-configured-is-how-genuine-devices-are"),
        pytest.param(b"\0\x40", ("not secure",), id="not-secure"),
        pytest.param(b"\0\x20", ("recovery",), id="recovery"),
        pytest.param(b"\0\x10", ("debug",), id="debug"),
        pytest.param(b"\4\x70", ("not secure", "recovery", "debug"), id="all-in-the-shortest-form"),
    ],
)
def test_open_states(flags: bytes, states: tuple[str, ...]) -> None:
    assert read_identity({BLACKWELL: _tcb_info(flags)}).open_states == states


def test_a_certificate_without_the_extension_has_no_identity() -> None:
    assert read_identity({b"other": _device_id()}) is None


@pytest.mark.parametrize(
    "extensions",
    [
        pytest.param({HOPPER: _device_id(), BLACKWELL: _tcb_info()}, id="both-forms"),
        pytest.param({HOPPER: b""}, id="nothing"),
        pytest.param({HOPPER: _device_id() + b"\0"}, id="something-behind"),
        pytest.param({HOPPER: sequence(integer(1), FWID)}, id="no-device-key"),
        pytest.param({HOPPER: _device_id(sequence(SHA256, octets(DIGEST)))}, id="another-hash"),
        pytest.param({HOPPER: _device_id(sequence(SHA384, octets(b"short")))}, id="short-digest"),
        pytest.param({HOPPER: _device_id(octets(DIGEST))}, id="bare-digest"),
        pytest.param({BLACKWELL: sequence(element(0xA6, FWID))}, id="no-flags"),
        pytest.param({BLACKWELL: sequence(element(0x87, b"\0\0"))}, id="no-firmware"),
        pytest.param({BLACKWELL: _tcb_info(fwids=b"")}, id="empty-firmware-list"),
        pytest.param({BLACKWELL: _tcb_info(b"")}, id="flags-without-bits"),
        pytest.param({BLACKWELL: _tcb_info(b"\0")}, id="flags-of-no-octet"),
        pytest.param({BLACKWELL: _tcb_info(b"\x08\0")}, id="flags-with-too-many-unused-bits"),
        pytest.param(
            {BLACKWELL: sequence(element(0xA6, FWID), element(0x87, b"\0\x10"), element(0x87, b"\0\0"))},
            id="flags-given-twice-the-second-time-clean",
        ),
    ],
)
def test_malformed(extensions: dict[bytes, bytes]) -> None:
    with pytest.raises(MalformedEvidenceError):
        read_identity(extensions)


@given(data=st.binary(max_size=200), oid=st.sampled_from((HOPPER, BLACKWELL)))
@settings(max_examples=100, deadline=None)
def test_only_its_own_error_is_raised(data: bytes, oid: bytes) -> None:
    with suppress(MalformedEvidenceError):
        read_identity({oid: data})
