"""The firmware's event log of a TDX guest: what was measured into RTMR0 to RTMR3 before the guest's own code ran.

The ACPI table CCEL points to it. A replay proves the digests and their order, never the words beside them:
`attestation.ccel_words` says where the words are proved too.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10 (crypto-agile log); UEFI 2.10, section 38
(measurement register 1 to 4 is RTMR0 to RTMR3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attestation.errors import MalformedEvidenceError
from attestation.eventlog import EMPTY_REGISTER, extend

LOG_SIZE_MAX = 256 * 1024  # bytes; what firmware sets aside for it
FIRMWARE_EVENTS_MAX = 2048
DIGEST_SIZE = 48
EV_NO_ACTION = 3
ALGORITHM_SHA384 = 0x000C
_HEADER = struct.Struct("<II20sI")  # register, type, SHA-1 digest, size: the old form, for the first event only
_EVENT = struct.Struct("<IIIH48sI")  # register, type, number of digests, algorithm, digest, size
_SPEC_ID = b"Spec ID Event03\0" + struct.pack("<I", 0)  # signature, platform class: client
_SPEC_VERSION = (2, 0)  # major, minor


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareEvent:
    """One measurement by firmware or boot loader.

    Attributes:
        rtmr: the register it went into, 0 to 3.
        type: TCG event type; not covered by the digest.
        digest: what the register was extended with, 48 bytes; extends nothing when the type is EV_NO_ACTION.
        data: what the log says about it.
    """

    rtmr: int
    type: int
    digest: bytes
    data: bytes


def parse_ccel(data: bytes) -> tuple[FirmwareEvent, ...]:
    """Read a log of exactly its own length.

    Raises:
        MalformedEvidenceError: too large, too many events, not the SHA-384 log of a TDX guest, truncated, or
            followed by other bytes.
    """
    events, end = _parse(data)
    if end != len(data):
        raise MalformedEvidenceError(f"firmware log: {len(data) - end} bytes follow the last event; cut padding off")
    return events


def cut_ccel(data: bytes) -> bytes:
    """Return the log without the bytes that fill its area up, all 0xFF or all zero.

    Raises:
        MalformedEvidenceError: as `parse_ccel`, but for padding.
    """
    _, end = _parse(data)
    return data[:end]


def replay_ccel(events: Iterable[FirmwareEvent]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the values of RTMR0 to RTMR3 after these events, 48 bytes each."""
    registers = [EMPTY_REGISTER] * 4
    for event in events:
        if event.type != EV_NO_ACTION:
            registers[event.rtmr] = extend(registers[event.rtmr], event.digest)
    return registers[0], registers[1], registers[2], registers[3]


def _parse(data: bytes) -> tuple[tuple[FirmwareEvent, ...], int]:
    """Return the events and where they end."""
    if len(data) > LOG_SIZE_MAX:
        raise MalformedEvidenceError(f"firmware log of {len(data)} bytes, at most {LOG_SIZE_MAX} are read")
    at = _check_header(data)
    events: list[FirmwareEvent] = []
    while at < len(data) and not _is_padding(data, at):
        if len(events) == FIRMWARE_EVENTS_MAX:
            raise MalformedEvidenceError(f"firmware log of more than {FIRMWARE_EVENTS_MAX} events")
        event, at = _parse_event(data, at)
        events.append(event)
    return tuple(events), at


def _check_header(data: bytes) -> int:
    """Check the first event, which says that SHA-384 digests follow and nothing else; return where it ends."""
    register, kind, digest, size = _unpack(_HEADER, data, 0)
    event = _take(data, _HEADER.size, size)
    if register not in {0, 1} or kind != EV_NO_ACTION or any(digest) or not event.startswith(_SPEC_ID):
        raise MalformedEvidenceError("firmware log does not begin with a Spec ID event for a client platform")
    minor, major, _errata, _word, algorithms = _unpack(struct.Struct("<BBBBI"), event, len(_SPEC_ID))
    if (major, minor) != _SPEC_VERSION or algorithms != 1:
        raise MalformedEvidenceError(f"firmware log of version {major}.{minor} with {algorithms} digests, want 2.0, 1")
    algorithm, digest_size, vendor_size = _unpack(struct.Struct("<HHB"), event, len(_SPEC_ID) + 8)
    if (algorithm, digest_size) != (ALGORITHM_SHA384, DIGEST_SIZE):
        raise MalformedEvidenceError(f"firmware log with digests of algorithm 0x{algorithm:04x}, want SHA-384")
    if len(event) != len(_SPEC_ID) + 13 + vendor_size:
        raise MalformedEvidenceError("firmware log: its Spec ID event has another length inside")
    return _HEADER.size + len(event)


def _parse_event(data: bytes, at: int) -> tuple[FirmwareEvent, int]:
    register, kind, count, algorithm, digest, size = _unpack(_EVENT, data, at)
    if not 1 <= register <= 4:
        raise MalformedEvidenceError(f"firmware log: an event for measurement register {register}, want 1 to 4")
    if (count, algorithm) != (1, ALGORITHM_SHA384):
        raise MalformedEvidenceError(f"firmware log: an event at byte {at} without exactly one SHA-384 digest")
    start = at + _EVENT.size
    event = FirmwareEvent(rtmr=register - 1, type=kind, digest=digest, data=_take(data, start, size))
    return event, start + size


def _is_padding(data: bytes, at: int) -> bool:
    """Whether only zeros or only 0xFF are left; no event begins so, its register is 1 to 4."""
    return data[at] in {0, 0xFF} and data.count(data[at : at + 1], at) == len(data) - at


def _unpack(layout: struct.Struct, data: bytes, at: int) -> tuple[Any, ...]:
    try:
        return layout.unpack_from(data, at)
    except struct.error as error:
        raise MalformedEvidenceError(f"firmware log ends inside an event, at byte {at}") from error


def _take(data: bytes, at: int, size: int) -> bytes:
    if size > len(data) - at:
        raise MalformedEvidenceError(f"firmware log: an event of {size} bytes at byte {at}, {len(data) - at} are left")
    return data[at : at + size]
