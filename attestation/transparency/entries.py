"""What the log says: one canonical CBOR document for each entry, and a file of them.

Layouts are in docs/protocol/log.md. `at` is the signer's word about the time, unix seconds; nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from attestation import cbor
from attestation.errors import MalformedEvidenceError
from attestation.snp_policy import SnpTcb

ENTRY_VERSION = 1
ENTRY_SIZE_MAX = 1024  # bytes
ENTRIES_MAX = 1 << 16  # a reader takes the whole log; beyond this size it needs tiles
FILE_SIZE_MAX = 32 << 20  # bytes of all entries
TEXT_MAX = 200  # bytes of UTF-8
_LENGTH_SIZE = 4
_UINT_MAX = (1 << 63) - 1


class What(StrEnum):
    """What a 32-byte value names."""

    MEASUREMENT = "measurement"  # measurement id of an image
    RIM = "rim"  # SHA-256 of a GPU reference manifest
    MODEL = "model"  # manifest root of a model
    PLATFORM = "platform"  # platform id of a CPU, or device id of a GPU; can only be denied


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """A reference value: an image, a GPU manifest or a model that may be used."""

    at: int
    what: What
    value: bytes  # 32
    label: str

    def __post_init__(self) -> None:
        _check_time(self.at)
        _check_value(self.value)
        _check_text("label", self.label)
        if self.what is What.PLATFORM:
            raise ValueError("platforms are not allowed by name: hosts come and go; they can only be denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """Something that is refused whatever it proves, and whatever allowed it."""

    at: int
    what: What
    value: bytes  # 32
    reason: str

    def __post_init__(self) -> None:
        _check_time(self.at)
        _check_value(self.value)
        _check_text("reason", self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelFloor:
    """The lowest TCB evaluation data number of Intel's collateral."""

    at: int
    evaluation: int

    def __post_init__(self) -> None:
        _check_time(self.at)
        _check_uint("evaluation", self.evaluation, 1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdFloor:
    """The lowest firmware of one AMD product line: "milan", "genoa" or "turin"."""

    at: int
    product: str
    tcb: SnpTcb

    def __post_init__(self) -> None:
        _check_time(self.at)
        if self.product not in {"milan", "genoa", "turin"}:
            raise ValueError(f"product {self.product[:16]!r}: want milan, genoa or turin")
        for name in ("bootloader", "tee", "snp", "microcode", "fmc"):
            _check_uint(name, getattr(self.tcb, name), 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A published artefact: its name and version, SHA-256, and where its sources are. For people; allows nothing."""

    at: int
    name: str
    digest: bytes  # 32
    source: str

    def __post_init__(self) -> None:
        _check_time(self.at)
        _check_value(self.digest)
        _check_text("name", self.name)
        _check_text("source", self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """Takes back the entry at `index`, whatever it said; it stays readable."""

    at: int
    index: int
    reason: str

    def __post_init__(self) -> None:
        _check_time(self.at)
        _check_uint("index", self.index, ENTRIES_MAX - 1)
        _check_text("reason", self.reason)


Entry: TypeAlias = Allow | Deny | IntelFloor | AmdFloor | Release | Revoke


def encode_entry(entry: Entry) -> bytes:
    """Return the one encoding of an entry: the bytes of its leaf."""
    return cbor.encode({"v": ENTRY_VERSION, "at": entry.at, **_fields(entry)})


def parse_entry(data: bytes) -> Entry:
    """Read one entry.

    Raises:
        MalformedEvidenceError: too large, not the one encoding, an unknown kind, field or value.
    """
    document = cbor.decode(data, size_max=ENTRY_SIZE_MAX)
    try:
        return _read(document)
    except ValueError as error:
        raise MalformedEvidenceError(f"log entry: {error}") from error


def frame(entries: Iterable[bytes]) -> bytes:
    """Return the file form of encoded entries: the length of each (u32, big-endian), then its bytes."""
    return b"".join(len(entry).to_bytes(_LENGTH_SIZE, "big") + entry for entry in entries)


def unframe(data: bytes) -> Iterator[bytes]:
    """Yield the whole entries at the beginning of a file; one that was cut short ends it.

    Raises:
        MalformedEvidenceError: an entry, or the number of them, beyond the limits.
    """
    at = 0
    for _ in range(ENTRIES_MAX):
        size = int.from_bytes(data[at : at + _LENGTH_SIZE], "big")
        if len(data) - at < _LENGTH_SIZE or (size <= ENTRY_SIZE_MAX and len(data) - at - _LENGTH_SIZE < size):
            return
        if not 0 < size <= ENTRY_SIZE_MAX:
            raise MalformedEvidenceError(f"log entry of {size} bytes at {at}, want 1 to {ENTRY_SIZE_MAX}")
        at += _LENGTH_SIZE + size
        yield data[at - size : at]
    if at < len(data):
        raise MalformedEvidenceError(f"more than {ENTRIES_MAX} log entries")


def describe(entry: Entry) -> str:
    """Return an entry in words, on one line."""
    match entry:
        case Allow():
            return f"allow {entry.what} {entry.value.hex()} ({entry.label})"
        case Deny():
            return f"deny {entry.what} {entry.value.hex()} ({entry.reason})"
        case IntelFloor():
            return f"Intel TCB evaluation at least {entry.evaluation}"
        case AmdFloor(product=product, tcb=tcb):
            parts = f"bootloader {tcb.bootloader} tee {tcb.tee} snp {tcb.snp} microcode {tcb.microcode} fmc {tcb.fmc}"
            return f"AMD {product} firmware at least {parts}"
        case Release():
            return f"release {entry.name} {entry.digest.hex()} from {entry.source}"
        case Revoke():
            return f"revoke entry {entry.index} ({entry.reason})"


def _fields(entry: Entry) -> dict[str, cbor.Value]:
    match entry:
        case Allow():
            return {"kind": str(entry.what), "value": entry.value, "label": entry.label}
        case Deny():
            return {"kind": "deny", "what": str(entry.what), "value": entry.value, "reason": entry.reason}
        case IntelFloor():
            return {"kind": "tcb-floor", "vendor": "intel", "evaluation": entry.evaluation}
        case AmdFloor(product=product, tcb=tcb):
            versions = [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc]
            return {"kind": "tcb-floor", "vendor": "amd", "product": product, "tcb": versions}
        case Release():
            return {"kind": "release", "name": entry.name, "digest": entry.digest, "source": entry.source}
        case Revoke():
            return {"kind": "revoke", "index": entry.index, "reason": entry.reason}


def _read(document: cbor.Value) -> Entry:
    match document:
        case {"v": 1, "kind": "deny", "at": int(at), "what": str(what), "value": bytes(value), "reason": str(text)}:
            _check_count(document, 6)
            return Deny(at=at, what=What(what), value=value, reason=text)
        case {"v": 1, "kind": "tcb-floor", "vendor": "intel", "at": int(at), "evaluation": int(evaluation)}:
            _check_count(document, 5)
            return IntelFloor(at=at, evaluation=evaluation)
        case {
            "v": 1,
            "kind": "tcb-floor",
            "vendor": "amd",
            "at": int(at),
            "product": str(product),
            "tcb": [int(bootloader), int(tee), int(snp), int(microcode), int(fmc)],
        }:
            _check_count(document, 6)
            tcb = SnpTcb(bootloader=bootloader, tee=tee, snp=snp, microcode=microcode, fmc=fmc)
            return AmdFloor(at=at, product=product, tcb=tcb)
        case {
            "v": 1,
            "kind": "release",
            "at": int(at),
            "name": str(name),
            "digest": bytes(digest),
            "source": str(text),
        }:
            _check_count(document, 6)
            return Release(at=at, name=name, digest=digest, source=text)
        case {"v": 1, "kind": "revoke", "at": int(at), "index": int(index), "reason": str(text)}:
            _check_count(document, 5)
            return Revoke(at=at, index=index, reason=text)
        case {"v": 1, "kind": str(kind), "at": int(at), "value": bytes(value), "label": str(label)}:
            _check_count(document, 5)
            return Allow(at=at, what=What(kind), value=value, label=label)
    raise ValueError("another version, kind or set of fields than this reader knows")


def _check_count(document: cbor.Value, count: int) -> None:
    if not isinstance(document, dict) or len(document) != count or document["v"] is True:
        raise ValueError(f"want exactly {count} fields of version {ENTRY_VERSION}")


def _check_time(at: int) -> None:
    _check_uint("at", at, _UINT_MAX)


def _check_uint(name: str, value: int, maximum: int) -> None:
    if isinstance(value, bool) or not 0 <= value <= maximum:
        raise ValueError(f"{name} {value}, want a number from 0 to {maximum}")


def _check_value(value: bytes) -> None:
    if len(value) != 32:
        raise ValueError(f"value of {len(value)} bytes, want 32")


def _check_text(name: str, text: str) -> None:
    if not 0 < len(text.encode()) <= TEXT_MAX or not text.isprintable():
        raise ValueError(f"{name}: want 1 to {TEXT_MAX} bytes of printable text")
