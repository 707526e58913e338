"""The event log that the firmware of a simulated TDX guest leaves: real format, every event hashed for real."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

from attestation.ccel import ALGORITHM_SHA384, EV_NO_ACTION, FirmwareEvent

_SEPARATOR, _IPL = 0x4, 0xD
_DRIVER_CONFIG, _ACTION = 0x80000001, 0x80000007
_GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")  # EFI_GLOBAL_VARIABLE, as UEFI stores a GUID


def firmware_events(image: bytes) -> tuple[FirmwareEvent, ...]:
    """Return what firmware and boot loader measure when this image boots, the same on every host.

    Args:
        image: SHA-256 standing for the image.
    """
    secure_boot = _GLOBAL_VARIABLE + struct.pack("<QQ", 10, 1) + "SecureBoot".encode("utf-16-le") + b"\1"
    return (
        _measured(0, _DRIVER_CONFIG, secure_boot),
        _measured(0, _SEPARATOR, bytes(4)),
        _measured(1, _ACTION, b"Calling EFI Application from Boot Option"),
        _measured(1, _SEPARATOR, bytes(4)),
        _measured(2, _IPL, b"simulated kernel " + image.hex().encode()),
        _measured(2, _IPL, b"simulated root file system " + image.hex().encode()),
        _measured(1, _ACTION, b"Exit Boot Services Returned with Success"),
    )


def encode_ccel(
    events: Iterable[FirmwareEvent], *, algorithms: Sequence[tuple[int, int]] = ((ALGORITHM_SHA384, 48),)
) -> bytes:
    """Return the log as firmware writes it, without padding."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    spec += b"".join(struct.pack("<HH", *algorithm) for algorithm in algorithms) + b"\0"
    parts = [struct.pack("<II20sI", 1, EV_NO_ACTION, bytes(20), len(spec)) + spec]
    for event in events:
        head = struct.pack("<IIIH48sI", event.rtmr + 1, event.type, 1, ALGORITHM_SHA384, event.digest, len(event.data))
        parts.append(head + event.data)
    return b"".join(parts)


def _measured(rtmr: int, kind: int, data: bytes) -> FirmwareEvent:
    return FirmwareEvent(rtmr=rtmr, type=kind, digest=hashlib.sha384(data).digest(), data=data)
