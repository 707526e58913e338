"""How new vendors' signed lists have been: what was seen once may not be older the next time.

A list stays correctly signed and valid for weeks after a newer one says worse. Whoever verifies for long therefore
keeps, for each series of lists, the highest number and the latest date seen in evidence that held, and refuses older
ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from itertools import pairwise
from typing import TYPE_CHECKING

from attestation import cbor
from attestation.errors import EndorsementRollbackError, MalformedEvidenceError

if TYPE_CHECKING:
    from attestation.verdict import CheckLog

MARKS_MAX = 4096  # a vendor makes a few dozen processor families
SERIES_SIZE_MAX = 256  # characters
FLOORS_SIZE_MAX = cbor.SIZE_MAX
_FLOORS_VERSION = 1
_FLOORS_TAG = b"chrysalis/1 floors"
_DIGEST_SIZE = 32
_NUMBER_MAX = (1 << 64) - 1
_TIME_MAX = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How new one signed list is.

    Attributes:
        series: which list: vendor, SPKI pin of the root, and what of it.
        number: the number the vendor raises with its content (TCB evaluation data number, CRL number); 0 without one.
        issued: when it was signed, UTC, whole seconds.
    """

    series: str
    number: int
    issued: datetime

    def __post_init__(self) -> None:
        if not 0 < len(self.series) <= SERIES_SIZE_MAX or not 0 <= self.number <= _NUMBER_MAX:
            raise ValueError(f"mark {self.series[:64]!r} {self.number}: want a short name and 64 bits")
        if self.issued.tzinfo is not UTC or self.issued.microsecond or self.issued.timestamp() < 0:
            raise ValueError(f"mark issued {self.issued}: want whole seconds, UTC, since 1970")


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """The newest of each series that was seen; a value that only `raised_by` changes, and only upwards.

    Attributes:
        marks: sorted by series, each series once.
    """

    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        names = [mark.series for mark in self.marks]
        if len(names) > MARKS_MAX or any(one >= two for one, two in pairwise(names)):
            raise ValueError(f"{len(names)} marks: want at most {MARKS_MAX}, sorted, each series once")

    @classmethod
    def of(cls, marks: Iterable[Mark]) -> Floors:
        """Return floors at these marks; the higher counts where a series is named twice."""
        highest: dict[str, Mark] = {}
        for mark in marks:
            known = highest.get(mark.series, mark)
            number, issued = max(known.number, mark.number), max(known.issued, mark.issued)
            highest[mark.series] = Mark(series=mark.series, number=number, issued=issued)
        return cls(marks=tuple(highest[series] for series in sorted(highest)))

    def raised_by(self, seen: Floors) -> Floors:
        """Return the floors after these marks were seen as well."""
        return self if not seen.marks else Floors.of((*self.marks, *seen.marks))

    def check(self, seen: Floors, *, lag_max_s: int, log: CheckLog) -> None:
        """Refuse lists that are older than ones of their series already seen.

        Args:
            seen: marks of the evidence at hand.
            lag_max_s: how much earlier than the newest a list may have been signed, seconds; hosts fetch at different
                hours. Its number must not be lower at all.
            log: where the check goes.

        Raises:
            EndorsementRollbackError: at least one is.
        """
        known = {mark.series: mark for mark in self.marks}
        older = [
            f"{mark.series} {mark.number} of {mark.issued:%Y-%m-%dT%H:%M:%SZ}, "
            f"after {floor.number} of {floor.issued:%Y-%m-%dT%H:%M:%SZ}"
            for mark in seen.marks
            if (floor := known.get(mark.series))
            and (mark.number < floor.number or (floor.issued - mark.issued).total_seconds() > lag_max_s)
        ]
        log.require(
            "endorsements not rolled back",
            not older,
            seen="; ".join(older) or f"{len(seen.marks)} signed lists",
            required=f"no lower number, nor signed over {lag_max_s} s before the newest of {len(known)} seen",
            error=EndorsementRollbackError,
        )


NO_FLOORS = Floors()


def encode_floors(floors: Floors) -> bytes:
    """Return floors for a file: a SHA-256 over the rest, then CBOR."""
    marks: list[cbor.Value] = [[mark.series, mark.number, int(mark.issued.timestamp())] for mark in floors.marks]
    body = cbor.encode({"v": _FLOORS_VERSION, "marks": marks})
    return _digest(body) + body


def parse_floors(data: bytes) -> Floors:
    """Read what `encode_floors` wrote.

    Raises:
        MalformedEvidenceError: damaged, another version, not the one encoding.
    """
    digest, body = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    if not compare_digest(digest, _digest(body)):
        raise MalformedEvidenceError("floors: the checksum does not match")
    match cbor.decode(body, size_max=FLOORS_SIZE_MAX):
        case {"v": 1, "marks": [*marks], **rest} if not rest:
            try:
                return Floors(marks=tuple(map(_parse_mark, marks)))
            except ValueError as error:
                raise MalformedEvidenceError(f"floors: {error}") from error
    raise MalformedEvidenceError("floors: want a map of version 1 and marks")


def _parse_mark(value: cbor.Value) -> Mark:
    match value:
        case [str(series), int(number), int(issued)] if (
            bool not in (type(number), type(issued)) and issued <= _TIME_MAX
        ):
            return Mark(series=series, number=number, issued=datetime.fromtimestamp(issued, UTC))
    raise MalformedEvidenceError("floors: a mark is not series, number and time")


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(_FLOORS_TAG + body).digest()
