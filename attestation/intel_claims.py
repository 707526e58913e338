"""What the quote library says about a quote that held, as far as it is used here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryClaims:
    """The library's claims about the platform.

    Attributes:
        status: TCB status, the worst of platform, module and quoting enclave.
        advisories: Intel's names of known weaknesses at that level.
        ppid: the processor's provisioning id, 16 bytes.
        pce_id: provisioning enclave named in the PCK certificate, 2 bytes.
        expires: first expiry among the collateral.
    """

    status: str
    advisories: tuple[str, ...]
    ppid: bytes
    pce_id: bytes
    expires: datetime
    _text: str = field(repr=False)

    def levels(self) -> Iterator[tuple[str, datetime]]:
        """Yield status and date of the TCB levels of platform (the TDX module's included) and quoting enclave."""
        claims = json.loads(self._text)
        for part in (claims["platform"], claims["qe"]):
            level = part["tcb_level"]
            yield level["tcbStatus"], datetime.fromisoformat(level["tcbDate"])


def read_claims(text: str) -> LibraryClaims:
    """Return the claims in the library's JSON; most of it repeats the report and is left unread, which saves 20 us.

    Args:
        text: `QuoteClaims.to_json()` of dcap-qvl: one order, no spaces, and no text in it that a host could choose.

    Raises:
        ValueError: a field is missing: another version of the library.
    """
    tcb, pck = _find(text, "tcb"), _find(text, "pck")
    return LibraryClaims(
        status=tcb["status"],
        advisories=tuple(tcb["advisory_ids"]),
        ppid=bytes(pck["ppid"]),
        pce_id=bytes(pck["pce_id"]),
        expires=datetime.fromtimestamp(_find(text, "earliest_expiration_date"), UTC),
        _text=text,
    )


def _find(text: str, name: str) -> Any:  # noqa: ANN401  (JSON)
    """Return the value of the first field with this name."""
    key = f'"{name}":'
    return _DECODER.raw_decode(text, text.index(key) + len(key))[0]
