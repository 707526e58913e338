"""The bytes that go to and come from an SNP guest's firmware; a stand-in answers at the addresses given."""

import ctypes
import errno
import struct
from pathlib import Path

import pytest

from attestation.errors import AttesterError
from attestation.sev_guest import (
    FIELDS,
    GET_DERIVED_KEY,
    GET_REPORT,
    SevGuest,
    encode_key_request,
    encode_report_request,
    parse_key_response,
    parse_report_response,
)
from attestation.sim.snp_platform import SimulatedSnpPlatform
from tests.attestation.hosts import SNP_CPU, host

KEY = bytes(range(1, 33))


def report(host_data: bytes = bytes(32)) -> bytes:
    platform = host(SNP_CPU).platform
    assert isinstance(platform, SimulatedSnpPlatform)
    return platform.report(bytes(64), measurement=b"m" * 48, host_data=host_data)


def report_response(status: int = 0, size: int = 1184, data: bytes | None = None) -> bytes:
    return (struct.pack("<II24x", status, size) + (report() if data is None else data)).ljust(4000, b"\0")


class StandIn:
    """Reads the request and writes the response at the addresses in the ioctl's block."""

    def __init__(self, host_data: bytes = bytes(32), *, failure: int = 0) -> None:
        self.report, self.failure = report(host_data), failure
        self.asked: list[tuple[int, bytes]] = []

    def __call__(self, _: int, number: int, block: bytearray) -> int:
        version, request, response, information = struct.unpack("<B7xQQQ", block)
        assert (version, information) == (1, 0)
        if self.failure:
            struct.pack_into("<Q", block, 24, 2 << 32)
            raise OSError(self.failure, "Input/output error")
        size = {GET_REPORT: 96, GET_DERIVED_KEY: 32}[number]
        self.asked.append((number, ctypes.string_at(request, size)))
        answer = report_response(data=self.report) if number == GET_REPORT else struct.pack("<I28x32s", 0, KEY)
        ctypes.memmove(response, answer, len(answer))
        return 0


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "sev-guest"
    path.touch()
    return path


def test_numbers_and_layouts_are_those_of_the_kernels_header() -> None:
    assert (3 << 30 | struct.calcsize("@BQQQ") << 16 | ord("S") << 8) == GET_REPORT == GET_DERIVED_KEY - 1
    assert encode_key_request(fields=0b1111, vmpl=2) == bytes(8) + b"\x0f" + bytes(7) + b"\2" + bytes(15)
    assert encode_report_request(b"d" * 64, vmpl=1) == b"d" * 64 + b"\1" + bytes(31)
    with pytest.raises(ValueError, match="63 bytes"):
        encode_report_request(bytes(63), vmpl=0)


def test_the_key_depends_on_host_data_and_purpose(device: Path) -> None:
    stand_in = StandIn()
    guest = SevGuest(device, vmpl=1, ioctl=stand_in)
    key = guest.sealing_key(b"x")
    assert stand_in.asked[1] == (GET_DERIVED_KEY, encode_key_request(fields=FIELDS, vmpl=1))
    others = [guest.sealing_key(b"y"), SevGuest(device, ioctl=StandIn(b"c" * 32)).sealing_key(b"x"), KEY]
    assert guest.sealing_key(b"x") == key
    assert len({key, *others}) == 4


def test_no_device_and_a_device_that_fails_are_said_so(device: Path) -> None:
    with pytest.raises(AttesterError, match="No such file"):
        SevGuest(device.with_name("none")).sealing_key(b"x")
    with pytest.raises(AttesterError, match="exit information 0x200000000"):
        SevGuest(device, ioctl=StandIn(failure=errno.EIO)).sealing_key(b"x")


def test_a_file_that_is_no_such_device_gives_no_key(device: Path) -> None:
    with pytest.raises(AttesterError, match="Inappropriate ioctl"):
        SevGuest(device).sealing_key(b"x")


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (struct.pack("<I28x32s", 0x16, KEY), "status 0x16"),
        (bytes(64), "wrote no key"),
    ],
)
def test_a_refused_or_empty_key_is_no_key(response: bytes, why: str) -> None:
    with pytest.raises(AttesterError, match=why):
        parse_key_response(response)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (report_response(status=0x16), "status 0x16"),
        (report_response(size=1183), "1183 bytes"),
        (report_response(data=b"\xff" * 1184), "cannot be read"),
    ],
)
def test_a_refused_or_unreadable_report_is_none(response: bytes, why: str) -> None:
    with pytest.raises(AttesterError, match=why):
        parse_report_response(response)
