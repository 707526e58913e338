"""A log with a key of its own, and entries to put into it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.snp_policy import SnpTcb
from attestation.transparency.checkpoint import LogTrust
from attestation.transparency.entries import Allow, AmdFloor, Deny, Entry, IntelFloor, Release, Revoke, What
from attestation.transparency.note import KeyKind, NoteKey
from attestation.transparency.store import LogStore

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp())
ORIGIN = "example.org/log"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
TRUST = LogTrust(key=NoteKey(name=ORIGIN, kind=KeyKind.SIGNER, public_key=KEY.public_key().public_bytes_raw()))


def value(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def allow(name: str, what: What = What.MEASUREMENT) -> Allow:
    return Allow(at=AT, what=what, value=value(name), label=name)


def deny(name: str, what: What = What.MEASUREMENT) -> Deny:
    return Deny(at=AT, what=what, value=value(name), reason="a leak")


def revoke(index: int) -> Revoke:
    return Revoke(at=AT, index=index, reason="a mistake")


TCB = SnpTcb(bootloader=4, tee=0, snp=22, microcode=213)
EVERY_KIND: tuple[Entry, ...] = (
    allow("image"),
    allow("rim", What.RIM),
    allow("model", What.MODEL),
    IntelFloor(at=AT, evaluation=17),
    AmdFloor(at=AT, product="milan", tcb=TCB),
    deny("host", What.PLATFORM),
    Release(at=AT, name="enclave 0.1.0", digest=value("artefact"), source="https://example.org/source@v0.1.0"),
    revoke(2),
)


def make_log(folder: Path, *entries: Entry, key: Ed25519PrivateKey = KEY, now: datetime = NOW) -> None:
    with LogStore.create(folder, key, origin=ORIGIN, now=now) as store:
        store.append(entries, now=now)


def extend_log(folder: Path, *entries: Entry, after: timedelta = timedelta(0)) -> None:
    with LogStore.open(folder, KEY) as store:
        store.append(entries, now=NOW + after)
