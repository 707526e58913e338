"""The runtime log: what a TDX guest loaded after its boot, event by event, and the register that proves it.

Every event is extended into RTMR3 before anything relies on it; nothing else extends that register. Replaying the
log therefore gives the register's value in the quote, or the log is not the whole truth. Byte layout:
docs/protocol/eventlog.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from attestation import cbor
from attestation.errors import MalformedEvidenceError

REGISTER_SIZE = 48
EMPTY_REGISTER = bytes(REGISTER_SIZE)
EVENTS_MAX = 1024
NAME_MAX = 64
_EVENT_TAG = b"chrysalis/1 event"


class EventKind(StrEnum):
    """What was loaded."""

    FIRMWARE_LOG = "firmware-log"  # the firmware's own log, as the guest read it
    IMAGE_CONFIG = "image-config"  # configuration that the image takes from outside
    ENGINE = "engine"  # the enclave's code and what it runs on
    MODEL = "model"  # manifest root of a model folder
    JOB_BUNDLE = "job-bundle"  # code that came with a job


DIGEST_SIZES = {kind: 48 if kind is EventKind.FIRMWARE_LOG else 32 for kind in EventKind}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One thing the guest loaded.

    Attributes:
        kind: what it is.
        digest: names it: SHA-384 (48 bytes) of a firmware log, SHA-256 (32 bytes) of everything else.
        name: for people, at most 64 printable ASCII characters; proves nothing.
    """

    kind: EventKind
    digest: bytes
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_SIZES[self.kind]:
            raise ValueError(f"{self.kind} digest: {len(self.digest)} bytes, want {DIGEST_SIZES[self.kind]}")
        if len(self.name) > NAME_MAX or not (self.name.isascii() and self.name.isprintable()):
            raise ValueError(f"event name: want at most {NAME_MAX} printable ASCII characters")

    def to_fields(self) -> dict[str, cbor.Value]:
        """Return the CBOR map of this event."""
        return {"kind": str(self.kind), "digest": self.digest, "name": self.name}

    def extension(self) -> bytes:
        """Return what RTMR3 is extended with for this event, 48 bytes."""
        return hashlib.sha384(_EVENT_TAG + cbor.encode(self.to_fields())).digest()

    def __str__(self) -> str:
        return f"{self.kind} {self.digest.hex()[:16]}" + (f" ({self.name})" if self.name else "")


def extend(register: bytes, digest: bytes) -> bytes:
    """Return the register after one extension, 48 bytes.

    Args:
        register: its value before, 48 bytes.
        digest: what it is extended with, 48 bytes.

    Raises:
        ValueError: a length is another one.

    Source: Intel TDX Module ABI Specification, TDG.MR.RTMR.EXTEND.
    """
    if (len(register), len(digest)) != (REGISTER_SIZE, REGISTER_SIZE):
        raise ValueError(f"want a register and a digest of {REGISTER_SIZE} bytes")
    return hashlib.sha384(register + digest).digest()


def replay(events: Iterable[LogEvent]) -> bytes:
    """Return the value RTMR3 has after these events, 48 bytes; zeros for none."""
    return _replay(tuple(events))


@lru_cache(maxsize=256)  # a host sends the same log until it loads something
def _replay(events: tuple[LogEvent, ...]) -> bytes:
    register = EMPTY_REGISTER
    for event in events:
        register = extend(register, event.extension())
    return register


def log_fields(events: Sequence[LogEvent]) -> list[cbor.Value]:
    """Return the CBOR array of a log."""
    return [event.to_fields() for event in events]


def parse_log(value: cbor.Value) -> tuple[LogEvent, ...]:
    """Read the events of a log; whether they happened, only the replay tells.

    Raises:
        MalformedEvidenceError: not an array, too many events, an unknown kind, another field, a value
            outside its limits.
    """
    if not isinstance(value, list) or len(value) > EVENTS_MAX:
        raise MalformedEvidenceError(f"runtime log: want an array of at most {EVENTS_MAX} events")
    return tuple(_parse_event(item) for item in value)


def _parse_event(item: cbor.Value) -> LogEvent:
    match item:
        case {"kind": str(kind), "digest": bytes(digest), "name": str(name), **rest} if not rest:
            try:
                return LogEvent(kind=EventKind(kind), digest=digest, name=name)
            except ValueError as error:
                raise MalformedEvidenceError(f"runtime log: {error}") from error
    raise MalformedEvidenceError("runtime log: an event is a map of kind, digest and name")
