"""What a firmware key's certificate says about the firmware it was made for: TCG DICE extensions.

Source: TCG DICE Attestation Architecture 1.1, section 6; the object identifiers as NVIDIA's devices use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attestation.certificate import INTEGER, OCTET_STRING, OID, SEQUENCE, Element, read_elements, read_one
from attestation.errors import MalformedEvidenceError

FWID_SIZE = 48
_DEVICE_ID = bytes.fromhex("678105050401")  # 2.23.133.5.4.1: Hopper and LS10 write (1, device key, FWID)
_TCB_INFO = bytes.fromhex("67810505040101")  # 2.23.133.5.4.1.1: Blackwell
_SHA384 = bytes.fromhex("608648016503040202")  # 2.16.840.1.101.3.4.2.2
_FWIDS, _FLAGS = 0xA6, 0x87  # context tags 6 and 7 of TcbInfo
_OPEN_STATES = {1: "not secure", 2: "recovery", 3: "debug"}  # bits of OperationalFlags, counted from the left


@dataclass(frozen=True, slots=True, kw_only=True)
class DiceIdentity:
    """The firmware a key belongs to.

    Attributes:
        fwid: SHA-384 of the firmware, 48 bytes.
        open_states: which of "not secure", "recovery", "debug" the device was in when it made the key; None where the
            certificate has no flags (Hopper, LS10).
    """

    fwid: bytes
    open_states: tuple[str, ...] | None


def read_identity(extensions: Mapping[bytes, bytes]) -> DiceIdentity | None:
    """Read the DICE extension of a firmware key's certificate; None if there is none.

    Raises:
        MalformedEvidenceError: both kinds are there, or one is not in its form.
    """
    if _DEVICE_ID in extensions and _TCB_INFO in extensions:
        raise MalformedEvidenceError("certificate has two firmware extensions")
    if _DEVICE_ID in extensions:
        return _read_device_id(extensions[_DEVICE_ID])
    return _read_tcb_info(extensions[_TCB_INFO]) if _TCB_INFO in extensions else None


def _read_device_id(data: bytes) -> DiceIdentity:
    parts = list(read_elements(read_one(data, SEQUENCE)))
    if [part.tag for part in parts] != [INTEGER, SEQUENCE, SEQUENCE]:
        raise MalformedEvidenceError("firmware extension is not (version, device key, firmware)")
    return DiceIdentity(fwid=_read_fwid(parts[2]), open_states=None)


def _read_tcb_info(data: bytes) -> DiceIdentity:
    """Read TcbInfo: its first firmware digest is the one that reports name, later ones are zero on genuine devices."""
    parts: dict[int, Element] = {}
    for part in read_elements(read_one(data, SEQUENCE)):
        if part.tag in parts:
            raise MalformedEvidenceError(f"firmware extension has field {part.tag:#x} twice")
        parts[part.tag] = part
    if _FWIDS not in parts or _FLAGS not in parts:
        raise MalformedEvidenceError("firmware extension lacks firmware or flags")
    fwids = list(read_elements(parts[_FWIDS].content))
    flags = parts[_FLAGS].content
    if not fwids or len(flags) < 2 or flags[0] > 7:
        raise MalformedEvidenceError("firmware extension has no firmware, or flags that are no bit string")
    states = (name for bit, name in _OPEN_STATES.items() if flags[1] & 0x80 >> bit)
    return DiceIdentity(fwid=_read_fwid(fwids[0]), open_states=tuple(states))


def _read_fwid(element: Element) -> bytes:
    parts = list(read_elements(element.content)) if element.tag == SEQUENCE else []
    if [part.tag for part in parts] != [OID, OCTET_STRING] or parts[0].content != _SHA384:
        raise MalformedEvidenceError("firmware digest is not (SHA-384, digest)")
    if len(parts[1].content) != FWID_SIZE:
        raise MalformedEvidenceError(f"firmware digest of {len(parts[1].content)} bytes, want {FWID_SIZE}")
    return parts[1].content
