"""A gateway's desk that knows statements only, over books that somebody else writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from billing.booked import read_statement
from billing.statement import Party, Statement
from tests.cluster.fleets import fleet


class StatementDesk:
    """Gives statements of the books at `place`."""

    network_id = -777

    def __init__(self, place: Path, operator: bytes) -> None:
        self.fleet = replace(fleet(), operator=operator)
        self._place = place

    async def statement(self, party: Party, *, start: int, end: int) -> Statement:
        return read_statement(self._place, party, start=start, end=end)
