"""What open hosts have shown this user: results in a row that others agreed with, by host and owner. One SQLite file.

Verification happens on the user's own machine, so each user knows its own hosts only. A host that comes back with new
keys, or for another owner, begins anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from client.redundancy import Judgement, Standing, standings_after
from client.transaction import transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS standings (
    host BLOB NOT NULL, payee BLOB NOT NULL, valid_in_row INTEGER NOT NULL, PRIMARY KEY (host, payee)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judged (unit BLOB PRIMARY KEY) WITHOUT ROWID;
"""
HostName = tuple[bytes, bytes]  # host id, payee


class StandingStore:
    """The standings of all hosts ever checked; batches that run side by side share it."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.executescript(_SCHEMA)

    def get(self, host: HostName) -> Standing:
        """Return what a host has shown; one that was never checked, nothing."""
        row = self._database.execute("SELECT valid_in_row FROM standings WHERE host = ? AND payee = ?", host).fetchone()
        return Standing(valid_in_row=row[0] if row else 0)

    def judge(self, unit: bytes, judgement: Judgement, payees: Mapping[bytes, bytes]) -> None:
        """Count what was judged of a unit, once: the same unit again changes nothing. `payees` are by host id."""
        with transaction(self._database):
            if not self._database.execute("INSERT OR IGNORE INTO judged VALUES (?)", (unit,)).rowcount:
                return
            before = {host: self.get((host, payee)) for host, payee in payees.items()}
            for host, after in standings_after(before, judgement).items():
                row = (host, payees[host], after.valid_in_row)
                self._database.execute("INSERT OR REPLACE INTO standings VALUES (?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
