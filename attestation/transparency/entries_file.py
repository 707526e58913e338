"""Entries as people write them: a YAML list, one mapping for each.

- {allow: measurement, value: <sha256 hex>, label: enclave 0.1.0}     # measurement, rim or model
- {deny: platform, value: <sha256 hex>, reason: leaked key}           # platform, measurement, rim or model
- {floor: intel, evaluation: 17}
- {floor: milan, bootloader: 4, tee: 0, snp: 22, microcode: 213}      # milan, genoa or turin; fmc on Turin
- {release: enclave 0.1.0, digest: <sha256 hex>, source: https://...}
- {revoke: 3, reason: it was a mistake}
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attestation.errors import PolicyError
from attestation.roots import parse_pins
from attestation.snp_policy import SnpTcb
from attestation.transparency.entries import Allow, AmdFloor, Deny, Entry, IntelFloor, Release, Revoke, What
from attestation.yaml_values import load_yaml

FILE_SIZE_MAX = 256 * 1024  # characters
_VERSIONS = {"bootloader", "tee", "snp", "microcode"}


def parse_entries_file(text: str, *, now: datetime) -> tuple[Entry, ...]:
    """Read entries that are about to be logged.

    Raises:
        PolicyError: not YAML, no list, or an entry that is none; the text names it by its place, from 0.
    """
    document = load_yaml(text, what="the list of entries", size_max=FILE_SIZE_MAX)
    if not isinstance(document, list) or not document:
        raise PolicyError("want a list of entries")
    return tuple(_entry(item, index, int(now.timestamp())) for index, item in enumerate(document))


def _entry(item: object, index: int, at: int) -> Entry:
    try:
        return _read(item, at)
    except ValueError as error:
        raise PolicyError(f"entry {index}: {error}") from error


def _read(item: object, at: int) -> Entry:
    match item:
        case {"allow": str(what), "value": str(value), "label": str(label), **rest} if not rest:
            return Allow(at=at, what=What(what), value=_digest(value), label=label)
        case {"deny": str(what), "value": str(value), "reason": str(reason), **rest} if not rest:
            return Deny(at=at, what=What(what), value=_digest(value), reason=reason)
        case {"floor": "intel", "evaluation": int(evaluation), **rest} if not rest:
            return IntelFloor(at=at, evaluation=evaluation)
        case {"floor": str(product), "snp": snp, **versions}:
            return AmdFloor(at=at, product=product, tcb=_tcb({**versions, "snp": snp}))
        case {"release": str(name), "digest": str(digest), "source": str(source), **rest} if not rest:
            return Release(at=at, name=name, digest=_digest(digest), source=source)
        case {"revoke": int(number), "reason": str(reason), **rest} if not rest:
            return Revoke(at=at, index=number, reason=reason)
    raise ValueError("want exactly the keys of allow, deny, floor, release or revoke (quote hex digits)")


def _tcb(versions: Mapping[object, Any]) -> SnpTcb:
    if not _VERSIONS <= versions.keys() <= _VERSIONS | {"fmc"} or any(
        type(one) is not int for one in versions.values()
    ):
        raise ValueError("want bootloader, tee, snp and microcode (and fmc) as whole numbers")
    return SnpTcb(**{str(name): version for name, version in versions.items()})


def _digest(text: str) -> bytes:
    return min(parse_pins([text]))
