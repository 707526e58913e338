"""What is known of a batch, on disk before it counts: one SQLite file beside the output.

A line waits, or was sent (its sealed bytes are kept until its outcome is known), or is done (its output line is kept).
Whatever moment the process dies at, the next one finds each line in exactly one of these states. Like input and output
the file is as secret as the prompts: mode 0600. A second process is refused while one has it open.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from attestation.sealing import SealedRequest
from billing.money import Nanotons
from client.batch_file import BatchLine, LineResult, parse_line, read_lines
from client.errors import BatchError, BatchInputError, BatchOutputError
from client.lease import Candidate, LeaseOffer
from client.transaction import transaction

FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS batch (format INTEGER NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lines (
    number INTEGER PRIMARY KEY, custom_id TEXT NOT NULL UNIQUE, start INTEGER NOT NULL, size INTEGER NOT NULL,
    status INTEGER, code TEXT, price INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, output BLOB);
CREATE INDEX IF NOT EXISTS lines_left ON lines (number) WHERE status IS NULL;
CREATE TABLE IF NOT EXISTS sent (
    number INTEGER PRIMARY KEY, request_hash BLOB NOT NULL, data BLOB NOT NULL, content_key BLOB NOT NULL,
    signed_grant BLOB NOT NULL, candidates TEXT NOT NULL, price_cap INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRequest:
    """What was sent for a line, and is needed to send it again and to read the answer."""

    sealed: SealedRequest
    signed_grant: bytes
    candidates: tuple[Candidate, ...]
    price_cap: Nanotons


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTotals:
    """Where a batch stands. Money in nanotons."""

    lines: int
    answered: int
    failed: int
    price: Nanotons  # receipts of all answers
    lost: Nanotons  # caps of requests that may have been charged although their answers never came

    @property
    def left(self) -> int:
        """Lines without an answer or an error."""
        return self.lines - self.answered - self.failed


class BatchJournal:
    """The lines of one input and what became of them."""

    def __init__(self, database: sqlite3.Connection, digest: bytes) -> None:
        self._database, self.digest = database, digest

    @classmethod
    def scan(cls, file: BinaryIO) -> BatchJournal:
        """Read an input into a private temporary file, to look at it only.

        Raises:
            BatchInputError: a line is not one of a batch.
        """
        return cls._fill(sqlite3.connect("", isolation_level=None), file)

    @classmethod
    def open(cls, output: Path, file: BinaryIO, *, kind: str = "") -> BatchJournal:
        """Take up the batch of this output, or begin it; `kind` says how it is asked, and may not change.

        Raises:
            BatchInputError: a line of the input is not one of a batch.
            BatchOutputError: output or journal are of another input or kind, in use, or not writable.
        """
        path = output.with_name(output.name + ".journal")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(path, isolation_level=None, timeout=0)
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                database.execute(f"PRAGMA {pragma}")
            database.executescript(_SCHEMA)
            row = database.execute("SELECT format, digest, size FROM batch").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise BatchOutputError(
                f"cannot use {path}: {error}; another process may be at this batch, else name another output"
            ) from error
        try:
            if row is not None:
                _check_kind(database, kind, output)
                return cls._take_up(database, row, file, output)
            _check_absent(output)
            database.execute("INSERT OR REPLACE INTO settings VALUES ('kind', ?)", (kind,))
            return cls._fill(database, file)
        except BaseException:
            database.close()
            if row is None:
                path.unlink(missing_ok=True)
            raise

    @classmethod
    def _take_up(
        cls, database: sqlite3.Connection, row: tuple[int, bytes, int], file: BinaryIO, output: Path
    ) -> BatchJournal:
        format_, digest, size = row
        if format_ != FORMAT:
            raise BatchOutputError(f"the journal of {output} has format {format_}, this program reads {FORMAT}")
        found = sha256()
        while part := file.read(1 << 20):
            found.update(part)
        if found.digest() != digest:
            raise BatchOutputError(
                f"{output} belongs to an input of {size} bytes with SHA-256 {digest.hex()}, this one has"
                f" {found.hexdigest()}: name another output"
            )
        return cls(database, digest)

    @classmethod
    def _fill(cls, database: sqlite3.Connection, file: BinaryIO) -> BatchJournal:
        database.executescript(_SCHEMA)
        digest, size = sha256(), 0
        database.execute("BEGIN IMMEDIATE")
        for raw in read_lines(file):
            line = parse_line(raw.number, raw.data)
            try:
                database.execute(
                    "INSERT INTO lines (number, custom_id, start, size) VALUES (?, ?, ?, ?)",
                    (line.number, line.custom_id, raw.start, len(raw.data)),
                )
            except sqlite3.IntegrityError:
                (first,) = database.execute(
                    "SELECT number FROM lines WHERE custom_id = ?", (line.custom_id,)
                ).fetchone()
                raise BatchInputError(
                    line.number, f"its custom_id is that of line {first}: give each its own"
                ) from None
        if not database.execute("SELECT count(*) FROM lines").fetchone()[0]:
            raise BatchError("the input has no lines: write one request on each")
        file.seek(0)
        while part := file.read(1 << 20):
            digest.update(part)
            size += len(part)
        database.execute("INSERT INTO batch VALUES (?, ?, ?)", (FORMAT, digest.digest(), size))
        database.execute("COMMIT")
        return cls(database, digest.digest())

    @property
    def database(self) -> sqlite3.Connection:
        """The file, for what else is kept of the batch."""
        return self._database

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def name(self, number: int) -> str:
        """Return the id of a line's request: always the same for this line of this input."""
        return f"req_{sha256(self.digest + number.to_bytes(8)).hexdigest()[:24]}"

    def lines_all(self, file: BinaryIO) -> Iterator[BatchLine]:
        """Yield every line as it stands in the input, which is read with it."""
        return self._lines(file, "SELECT number, start, size FROM lines WHERE number > ? ORDER BY number LIMIT 1")

    def lines_left(self, file: BinaryIO, begun: Collection[int] = ()) -> Iterator[BatchLine]:
        """Yield the lines without a result: those that were sent before, or are `begun`, come first, and once."""
        sent = {number for (number,) in self._database.execute("SELECT number FROM sent")} | set(begun)
        query = "SELECT number, start, size FROM lines WHERE number > ? AND status IS NULL ORDER BY number LIMIT 1"
        for number in sorted(sent):
            yield next(self._lines(file, query, after=number - 1))
        for line in self._lines(file, query):
            if line.number not in sent:
                yield line

    def _lines(self, file: BinaryIO, query: str, after: int = 0) -> Iterator[BatchLine]:
        while (row := self._database.execute(query, (after,)).fetchone()) is not None:
            after, start, size = row
            file.seek(start)
            yield parse_line(after, file.read(size))

    def sent_caps(self) -> Nanotons:
        """Return what all requests without an outcome may cost together."""
        return Nanotons(self._database.execute("SELECT coalesce(sum(price_cap), 0) FROM sent").fetchone()[0])

    def sent(self, number: int) -> SentRequest | None:
        """Return what was sent for a line and has no outcome yet."""
        row = self._database.execute(
            "SELECT request_hash, data, content_key, signed_grant, candidates, price_cap FROM sent WHERE number = ?",
            (number,),
        ).fetchone()
        if row is None:
            return None
        request_hash, data, content_key, grant, candidates, price_cap = row
        return SentRequest(
            sealed=SealedRequest(data=data, content_key=content_key, request_hash=request_hash),
            signed_grant=grant,
            candidates=tuple(
                Candidate(host_id=bytes.fromhex(host), url=url, ticket=ticket)
                for host, url, ticket in json.loads(candidates)
            ),
            price_cap=Nanotons(price_cap),
        )

    def keep_sent(self, number: int, offer: LeaseOffer, sealed: SealedRequest, price_cap: Nanotons) -> None:
        """Note what is about to be sent, in place of what was refused before."""
        candidates = json.dumps([(each.host_id.hex(), each.url, each.ticket) for each in offer.candidates])
        row = (number, sealed.request_hash, sealed.data, sealed.content_key, offer.signed_grant, candidates, price_cap)
        self._database.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def drop_sent(self, number: int, *, lost: Nanotons) -> None:
        """Forget what was sent; `lost` is what it may have cost, 0 when it was refused."""
        with transaction(self._database):
            self._database.execute("UPDATE lines SET lost = lost + ? WHERE number = ?", (lost, number))
            self._database.execute("DELETE FROM sent WHERE number = ?", (number,))

    def finish(self, number: int, result: LineResult) -> None:
        """Keep the one result of a line.

        Raises:
            RuntimeError: it has one.
        """
        with transaction(self._database):
            self.keep_result(number, result)

    def keep_result(self, number: int, result: LineResult) -> None:
        """As `finish`, inside the caller's transaction."""
        done = self._database.execute(
            "UPDATE lines SET status = ?, code = ?, price = ?, output = ? WHERE number = ? AND status IS NULL",
            (result.status, result.code, result.price, result.output, number),
        )
        self._database.execute("DELETE FROM sent WHERE number = ?", (number,))
        if done.rowcount != 1:
            raise RuntimeError(f"line {number} has its result already")

    def reopen_failed(self) -> int:
        """Let all lines that ended in an error be asked once more; returns how many."""
        return self._database.execute(
            "UPDATE lines SET status = NULL, code = NULL, output = NULL WHERE status IS NOT NULL AND status != 200"
        ).rowcount

    def totals(self) -> BatchTotals:
        """Return where the batch stands."""
        lines, answered, done, price, lost = self._database.execute(
            "SELECT count(*), coalesce(sum(status = 200), 0), count(status), coalesce(sum(price), 0),"
            " coalesce(sum(lost), 0) FROM lines"
        ).fetchone()
        return BatchTotals(
            lines=lines, answered=answered, failed=done - answered, price=Nanotons(price), lost=Nanotons(lost)
        )

    def failures(self) -> dict[str, int]:
        """Return how many lines ended in which error code."""
        rows = self._database.execute(
            "SELECT code, count(*) FROM lines WHERE status != 200 GROUP BY code ORDER BY code"
        )
        return dict(rows.fetchall())

    def write_output(self, output: Path) -> None:
        """Write the results that there are, in the order of the input, in one step.

        Raises:
            BatchOutputError: the output cannot be written; nothing is lost.
        """
        fresh = output.with_name(output.name + ".new")
        try:
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
                for (row,) in self._database.execute(
                    "SELECT output FROM lines WHERE output IS NOT NULL ORDER BY number"
                ):
                    out.write(row)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(output)
        except OSError as error:
            raise BatchOutputError(
                f"cannot write {output}: {error.strerror}; the results are in its journal: make room and start again"
            ) from error


def _check_kind(database: sqlite3.Connection, kind: str, output: Path) -> None:
    row = database.execute("SELECT value FROM settings WHERE name = 'kind'").fetchone()
    before = row[0] if row else ""
    if before != kind:
        raise BatchOutputError(
            f"{output} was begun {before or 'at attested hosts'}, not {kind or 'at attested hosts'}: say the same, or "
            "name another output"
        )


def _check_absent(output: Path) -> None:
    if output.exists():
        raise BatchOutputError(f"{output} is there and not the output of a batch: name another one")
