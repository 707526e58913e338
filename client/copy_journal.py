"""The copies of a batch's lines at open hosts, in the batch's journal: durable before they are sent.

A line of an open batch is a unit. Each of its copies was sent (its sealed bytes are kept), or is done (answer and
receipt are kept), or was lost (it may have been charged, its answer never came). The unit's verdict is kept with the
line's result and until the operator's books have it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from attestation.sealing import SealedRequest
from billing.money import Nanotons
from client.batch_file import LineResult
from client.batch_journal import BatchJournal, SentRequest
from client.lease import Candidate, LeaseOffer
from client.transaction import transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS units (
    number INTEGER PRIMARY KEY, unit BLOB NOT NULL UNIQUE, host BLOB NOT NULL, checked INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS copies (
    id INTEGER PRIMARY KEY, number INTEGER NOT NULL, host BLOB NOT NULL, payee BLOB NOT NULL, state TEXT NOT NULL,
    request_hash BLOB NOT NULL UNIQUE, data BLOB NOT NULL, content_key BLOB NOT NULL, signed_grant BLOB NOT NULL,
    candidate TEXT NOT NULL, price_cap INTEGER NOT NULL, answer BLOB, receipt BLOB, price INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS copies_of ON copies (number);
CREATE TABLE IF NOT EXISTS verdicts (
    unit BLOB PRIMARY KEY, number INTEGER NOT NULL, signed BLOB NOT NULL, receipts TEXT NOT NULL, refused TEXT NOT NULL,
    refused_price INTEGER NOT NULL, delivered INTEGER NOT NULL DEFAULT 0);
"""
_ZERO = Nanotons(0)


class CopyState(StrEnum):
    """Where a copy stands."""

    SENT = "sent"
    DONE = "done"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A line's work: its id in verdicts, and whether its first host is checked, drawn after that host was chosen."""

    id: bytes  # 16
    host: bytes  # 8, the one that was drawn for
    checked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of a unit at one host."""

    id: int
    host: bytes  # 8
    payee: bytes  # 33
    state: CopyState
    sent: SentRequest
    answer: bytes = b""  # of a done copy: one JSON object
    receipt: bytes = b""  # of a done copy, signed
    price: Nanotons = _ZERO

    @property
    def request_hash(self) -> bytes:
        """The hash of its sealed request, 32 bytes."""
        return self.sent.sealed.request_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVerdict:
    """A signed verdict that the operator's books do not have yet."""

    unit: bytes
    number: int
    signed: bytes
    receipts: tuple[bytes, ...]
    refused: tuple[bytes, ...]  # request hashes
    refused_price: Nanotons  # of those of them that have receipts


class CopyJournal:
    """Units, copies and verdicts of one batch."""

    def __init__(self, journal: BatchJournal) -> None:
        self._journal, self._database = journal, journal.database
        self._database.executescript(_SCHEMA)

    def unit(self, number: int) -> Unit | None:
        """Return the unit of a line, None before its first copy."""
        row = self._database.execute("SELECT unit, host, checked FROM units WHERE number = ?", (number,)).fetchone()
        return None if row is None else Unit(id=row[0], host=row[1], checked=bool(row[2]))

    def keep_unit(self, number: int, unit: Unit) -> None:
        """Keep what a line's unit is called and whether it is checked, in place of what was drawn for another host."""
        row = (number, unit.id, unit.host, unit.checked)
        self._database.execute("INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?)", row)

    def copies(self, number: int) -> list[Copy]:
        """Return all copies of a line, the oldest first."""
        rows = self._database.execute(
            "SELECT id, host, payee, state, request_hash, data, content_key, signed_grant, candidate, price_cap,"
            " answer, receipt, price FROM copies WHERE number = ? ORDER BY id",
            (number,),
        )
        return [_copy(row) for row in rows]

    def keep_sent(
        self,
        number: int,
        *,
        copy: int,
        host: tuple[bytes, bytes],
        offer: LeaseOffer,
        sealed: SealedRequest,
        price_cap: Nanotons,
    ) -> int:
        """Note what is about to be sent to a host (id, payee), in place of `copy`, which it refused (0: nothing was).

        Returns the copy's id.
        """
        candidate = next(each for each in offer.candidates if each.host_id == host[0])
        where = json.dumps([candidate.url, candidate.ticket])
        row = (sealed.request_hash, sealed.data, sealed.content_key, offer.signed_grant, where, price_cap)
        if copy:
            self._database.execute(
                "UPDATE copies SET request_hash = ?, data = ?, content_key = ?, signed_grant = ?, candidate = ?,"
                " price_cap = ? WHERE id = ?",
                (*row, copy),
            )
            return copy
        done = self._database.execute(
            "INSERT INTO copies (number, host, payee, state, request_hash, data, content_key, signed_grant, candidate,"
            " price_cap) VALUES (?, ?, ?, 'sent', ?, ?, ?, ?, ?, ?)",
            (number, *host, *row),
        )
        assert done.lastrowid is not None
        return done.lastrowid

    def answered(self, copy: int, answer: bytes, receipt: bytes, price: Nanotons) -> None:
        """Keep a copy's answer and receipt; it is never asked again."""
        self._database.execute(
            "UPDATE copies SET state = 'done', answer = ?, receipt = ?, price = ? WHERE id = ?",
            (answer, receipt, price, copy),
        )

    def lose(self, copy: int, number: int, cap: Nanotons) -> None:
        """Note that nobody will answer a copy, which may have been charged."""
        with transaction(self._database):
            self._database.execute("UPDATE copies SET state = 'lost' WHERE id = ?", (copy,))
            self._database.execute("UPDATE lines SET lost = lost + ? WHERE number = ?", (cap, number))

    def drop(self, copy: int) -> None:
        """Forget a copy that its host refused: it costs nothing."""
        self._database.execute("DELETE FROM copies WHERE id = ?", (copy,))

    def finish(self, number: int, result: LineResult, verdict: KeptVerdict | None, *, unjudged: Nanotons) -> None:
        """Keep the one result of a line and its verdict, all or nothing; copies are needed no more.

        `unjudged` is the price of answers that have no verdict: they will be paid when their review is over.
        """
        with transaction(self._database):
            self._journal.keep_result(number, result)
            self._database.execute("UPDATE lines SET lost = lost + ? WHERE number = ?", (unjudged, number))
            self._database.execute("DELETE FROM copies WHERE number = ?", (number,))
            self._database.execute("DELETE FROM units WHERE number = ?", (number,))
            if verdict is not None:
                self._database.execute(
                    "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, 0)",
                    (
                        verdict.unit,
                        number,
                        verdict.signed,
                        _encode(verdict.receipts),
                        _encode(verdict.refused),
                        verdict.refused_price,
                    ),
                )

    def waiting(self) -> list[KeptVerdict]:
        """Return the verdicts that the books do not have yet."""
        rows = self._database.execute(
            "SELECT unit, number, signed, receipts, refused, refused_price FROM verdicts WHERE NOT delivered"
            " ORDER BY number"
        )
        return [
            KeptVerdict(
                unit=unit,
                number=number,
                signed=signed,
                receipts=_decode(receipts),
                refused=_decode(refused),
                refused_price=Nanotons(price),
            )
            for unit, number, signed, receipts, refused, price in rows
        ]

    def delivered(self, verdict: KeptVerdict, *, taken: bool) -> None:
        """Note that the books have a verdict, or refuse it for good: what it refuses will be paid then."""
        with transaction(self._database):
            self._database.execute("UPDATE verdicts SET delivered = 1 WHERE unit = ?", (verdict.unit,))
            if not taken:
                self._database.execute(
                    "UPDATE lines SET lost = lost + ? WHERE number = ?", (verdict.refused_price, verdict.number)
                )

    def spent(self) -> Nanotons:
        """Return what answers cost whose lines have no result yet."""
        return Nanotons(self._database.execute("SELECT coalesce(sum(price), 0) FROM copies").fetchone()[0])

    def sent_caps(self) -> Nanotons:
        """Return what all copies without an outcome may cost together."""
        query = "SELECT coalesce(sum(price_cap), 0) FROM copies WHERE state = 'sent'"
        return Nanotons(self._database.execute(query).fetchone()[0])

    def begun(self) -> frozenset[int]:
        """Return the lines that have copies and no result."""
        return frozenset(number for (number,) in self._database.execute("SELECT DISTINCT number FROM copies"))


def _copy(row: tuple[Any, ...]) -> Copy:
    id_, host, payee, state, request_hash, data, content_key, grant, candidate, cap, answer, receipt, price = row
    url, ticket = json.loads(candidate)
    sealed = SealedRequest(data=data, content_key=content_key, request_hash=request_hash)
    return Copy(
        id=id_,
        host=host,
        payee=payee,
        state=CopyState(state),
        sent=SentRequest(
            sealed=sealed,
            signed_grant=grant,
            candidates=(Candidate(host_id=host, url=url, ticket=ticket),),
            price_cap=Nanotons(cap),
        ),
        answer=answer or b"",
        receipt=receipt or b"",
        price=Nanotons(price),
    )


def _encode(parts: tuple[bytes, ...]) -> str:
    return json.dumps([part.hex() for part in parts])


def _decode(text: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(part) for part in json.loads(text))
