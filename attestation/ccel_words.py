"""Firmware events in words, for people who read a verdict.

A digest in the log is proved by the registers; the words beside it are proved only where they hash to that digest.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4; UEFI 2.10, section 10.3 (device paths).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from contextlib import suppress
from hmac import compare_digest
from typing import Literal

from attestation.ccel import EV_NO_ACTION, FirmwareEvent

Proof = Literal["whole", "part", "none"]

WORDS_MAX = 120  # characters of one description
_SEPARATOR, _PLATFORM_FLAGS, _IPL = 0x4, 0xA, 0xD
_DRIVER_CONFIG, _BOOT_VARIABLE, _AUTHORITY = 0x80000001, 0x80000002, 0x800000E0
_BOOT_APPLICATION, _BOOT_DRIVER, _RUNTIME_DRIVER = 0x80000003, 0x80000004, 0x80000005
_GPT, _ACTION, _BLOB2, _TABLES2 = 0x80000006, 0x80000007, 0x8000000A, 0x8000000B
_GRUB_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b"")
_MARKS: dict[Proof, str] = {"whole": "", "part": " (in part only said)", "none": " (said, not proved)"}
_TYPES = {
    0x0: "EV_PREBOOT_CERT",
    0x1: "EV_POST_CODE",
    EV_NO_ACTION: "EV_NO_ACTION",
    _SEPARATOR: "EV_SEPARATOR",
    0x5: "EV_ACTION",
    0x6: "EV_EVENT_TAG",
    0x7: "EV_S_CRTM_CONTENTS",
    0x8: "EV_S_CRTM_VERSION",
    0x9: "EV_CPU_MICROCODE",
    _PLATFORM_FLAGS: "EV_PLATFORM_CONFIG_FLAGS",
    0xB: "EV_TABLE_OF_DEVICES",
    0xC: "EV_COMPACT_HASH",
    _IPL: "EV_IPL",
    0xE: "EV_IPL_PARTITION_DATA",
    0xF: "EV_NONHOST_CODE",
    0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO",
    0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
    _DRIVER_CONFIG: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    _BOOT_VARIABLE: "EV_EFI_VARIABLE_BOOT",
    _BOOT_APPLICATION: "EV_EFI_BOOT_SERVICES_APPLICATION",
    _BOOT_DRIVER: "EV_EFI_BOOT_SERVICES_DRIVER",
    _RUNTIME_DRIVER: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    _GPT: "EV_EFI_GPT_EVENT",
    _ACTION: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    _BLOB2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    _TABLES2: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    _AUTHORITY: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}


def type_name(kind: int) -> str:
    """Return TCG's name of an event type, its number when it has none."""
    return _TYPES.get(kind, f"type 0x{kind:08x}")


def describe(event: FirmwareEvent) -> str:
    """Return register, type and content in one printable line; a content that cannot be read is given by its size."""
    try:
        words = _READERS.get(event.type, _size)(event.data)
    except (struct.error, IndexError):
        words = _size(event.data)
    return f"rtmr{event.rtmr} {type_name(event.type)}: {words[:WORDS_MAX]}{_MARKS[proof(event)]}"


def proof(event: FirmwareEvent) -> Proof:
    """Return how much of the event's data the register proves, because it hashes to the digest.

    Firmware hashes the data of most events whole; of a boot variable only the value; GRUB hashes a command without
    the word before it and the zero behind it. Images, tables and blobs are hashed themselves, the data only name them.
    """
    if _hashes_to(event.data, event.digest):
        return "whole"
    return "part" if any(_hashes_to(part, event.digest) for part in _parts(event)) else "none"


def _hashes_to(data: bytes, digest: bytes) -> bool:
    return compare_digest(hashlib.sha384(data).digest(), digest)


def _parts(event: FirmwareEvent) -> list[bytes]:
    """Return the parts of the data that may have been hashed alone."""
    if event.type == _IPL:
        text = event.data.removesuffix(b"\0")
        return [text.removeprefix(prefix) for prefix in _GRUB_PREFIXES if text.startswith(prefix)]
    if event.type == _BOOT_VARIABLE:
        with suppress(struct.error, IndexError):
            return [_variable(event.data)[1]]
    return []


def _variable(data: bytes) -> tuple[str, bytes]:
    """Return name and value of a UEFI_VARIABLE_DATA structure."""
    name_size, size = struct.unpack_from("<QQ", data, 16)
    end = 32 + 2 * name_size
    if end + size != len(data):
        raise IndexError
    return data[32:end].decode("utf-16-le", "replace"), data[end:]


def _describe_variable(data: bytes) -> str:
    name, value = _variable(data)
    return f"{_clean(name)} = {value.hex()}" if 0 < len(value) <= 8 else f"{_clean(name)}, {len(value)} bytes"


def _describe_image(data: bytes) -> str:
    """The file in the device path of a UEFI_IMAGE_LOAD_EVENT, else where it came from."""
    size = struct.unpack_from("<Q", data, 24)[0]
    path = data[32 : 32 + size]
    at, files = 0, []
    while at < len(path):
        kind, subtype, length = struct.unpack_from("<BBH", path, at)
        if length < 4:
            raise IndexError
        if (kind, subtype) == (4, 4):  # media device path, file path
            files.append(path[at + 4 : at + length].decode("utf-16-le", "replace").rstrip("\0"))
        at += length
    return _clean("".join(files)) if files else f"image on a device, {struct.unpack_from('<Q', data, 8)[0]} bytes"


def _describe_separator(data: bytes) -> str:
    """Zero or all ones end a phase; 1 says that something went wrong before."""
    return {b"\0\0\0\0": "end of a phase", b"\xff\xff\xff\xff": "end of a phase", b"\1\0\0\0": "an error"}.get(
        data, _size(data)
    )


def _describe_gpt(data: bytes) -> str:
    return f"partition table with {struct.unpack_from('<Q', data, 92)[0]} partitions"


def _describe_blob(data: bytes) -> str:
    """A length byte, a name, then where the firmware lies."""
    return _clean(data[1 : 1 + data[0]].decode("latin-1"))


def _text(data: bytes) -> str:
    return _clean(data.removesuffix(b"\0").decode("utf-8", "replace"))


def _size(data: bytes) -> str:
    return f"{len(data)} bytes"


def _clean(text: str) -> str:
    """Return the text with a dot for whatever could mislead a terminal."""
    return "".join(char if " " <= char <= "~" else "." for char in text[: WORDS_MAX + 1])


_READERS: dict[int, Callable[[bytes], str]] = {
    _SEPARATOR: _describe_separator,
    0x5: _text,
    _PLATFORM_FLAGS: _text,
    _IPL: _text,
    _DRIVER_CONFIG: _describe_variable,
    _BOOT_VARIABLE: _describe_variable,
    _AUTHORITY: _describe_variable,
    0x8000000C: _describe_variable,
    _BOOT_APPLICATION: _describe_image,
    _BOOT_DRIVER: _describe_image,
    _RUNTIME_DRIVER: _describe_image,
    _GPT: _describe_gpt,
    _ACTION: _text,
    _BLOB2: _describe_blob,
    _TABLES2: _describe_blob,
}
