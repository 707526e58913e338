"""The sealing key of a SEV-SNP guest, asked from its firmware through /dev/sev-guest.

The firmware derives from a secret of the chip and from what `FIELDS` selects. It cannot select HOST_DATA, where a
guest's configuration stands: that is read from the guest's own report and mixed in here, by measured code.
Firmware and guest versions are not mixed in: an update must not lock a host out of its state.

Written after the kernel's header and AMD's specification, and tested against a stand-in: no such device was at hand.

Sources: include/uapi/linux/sev-guest.h; AMD 56860, SEV-SNP Firmware ABI Specification, MSG_KEY_REQ and MSG_REPORT_REQ.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from struct import Struct

from attestation.chunks import derive
from attestation.errors import AttesterError, MalformedEvidenceError
from attestation.snp_report import REPORT_SIZE, SnpReport, parse_report

DEVICE = Path("/dev/sev-guest")
GET_REPORT = 0xC0205300  # _IOWR('S', 0, struct snp_guest_request_ioctl)
GET_DERIVED_KEY = 0xC0205301
POLICY, IMAGE_ID, FAMILY_ID, MEASUREMENT = 1, 2, 4, 8  # bits of guest_field_select
FIELDS = POLICY | IMAGE_ID | FAMILY_ID | MEASUREMENT
REPORT_RESPONSE = 4000
KEY_RESPONSE = 64
_IOCTL = Struct("<B7xQQQ")  # version of the message, address of request, of response, exitinfo2
_KEY_REQUEST = Struct("<IIQIIQ")  # root key select, reserved, fields, VMPL, guest SVN, TCB version
_REPORT_REQUEST = Struct("<64sI28x")  # user data, VMPL
_REPORT_HEAD = Struct("<II24x")  # status, size of the report
_KEY = Struct("<I28x32s")  # status, key
_MESSAGE_VERSION = 1

Ioctl = Callable[[int, int, bytearray], object]


def encode_key_request(*, fields: int, vmpl: int) -> bytes:
    """Return a request for a key from the chip's VCEK root, 32 bytes, that mixes no version in."""
    return _KEY_REQUEST.pack(0, 0, fields, vmpl, 0, 0)


def encode_report_request(user_data: bytes, *, vmpl: int) -> bytes:
    """Return a request for a report about 64 bytes of the guest's choice, 96 bytes."""
    if len(user_data) != 64:
        raise ValueError(f"{len(user_data)} bytes of user data, want 64")
    return _REPORT_REQUEST.pack(user_data, vmpl)


def parse_key_response(data: bytes) -> bytes:
    """Return the derived key, 32 bytes.

    Raises:
        AttesterError: the firmware said no, or wrote no key.
    """
    status, key = _KEY.unpack(data)
    if status != 0:
        raise AttesterError(f"the SNP firmware gives no key: status {status:#x}")
    if not any(key):
        raise AttesterError("the SNP firmware wrote no key")
    return bytes(key)


def parse_report_response(data: bytes) -> SnpReport:
    """Return the guest's own report. Its signature is not checked: the guest asked the firmware itself.

    Raises:
        AttesterError: the firmware said no, or wrote something else.
    """
    status, size = _REPORT_HEAD.unpack_from(data)
    if status != 0 or size != REPORT_SIZE:
        raise AttesterError(f"the SNP firmware gives no report: status {status:#x}, {size} bytes")
    try:
        return parse_report(data[_REPORT_HEAD.size : _REPORT_HEAD.size + REPORT_SIZE])
    except MalformedEvidenceError as error:
        raise AttesterError(f"the SNP firmware's report cannot be read: {error}") from error


class SevGuest:
    """The firmware behind the device; implements `attestation.sealed_state.SealingKeySource`."""

    def __init__(self, device: Path = DEVICE, *, vmpl: int = 0, ioctl: Ioctl = fcntl.ioctl) -> None:
        """`vmpl` is the privilege level of this guest's kernel; `ioctl` is replaced in tests."""
        self._device, self._vmpl, self._ioctl = device, vmpl, ioctl

    def sealing_key(self, context: bytes) -> bytes:
        """See `SealingKeySource`; bound to chip, guest policy, ids, measurement, VMPL, host data and context.

        Raises:
            AttesterError: no device, or the firmware said no.
        """
        report = parse_report_response(
            self._ask(GET_REPORT, encode_report_request(bytes(64), vmpl=self._vmpl), REPORT_RESPONSE)
        )
        key = self._ask(GET_DERIVED_KEY, encode_key_request(fields=FIELDS, vmpl=self._vmpl), KEY_RESPONSE)
        return derive(parse_key_response(key), b"snp sealing", report.host_data + context)

    def _ask(self, number: int, request: bytes, size: int) -> bytes:
        asked, answer = ctypes.create_string_buffer(request, len(request)), ctypes.create_string_buffer(size)
        block = bytearray(_IOCTL.pack(_MESSAGE_VERSION, ctypes.addressof(asked), ctypes.addressof(answer), 0))
        try:
            device = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._ioctl(device, number, block)
            finally:
                os.close(device)
        except OSError as error:
            firmware = _IOCTL.unpack(block)[3]
            raise AttesterError(f"{self._device}: {error.strerror or error}, exit information {firmware:#x}") from error
        return answer.raw
