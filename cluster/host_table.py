"""The records of all hosts by address: events change them, the relay's map and the waiting gateways follow.

What an event does to a record is `cluster.host_state`; what follows for others is here. The actor's loop is the only
one that changes it.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from cluster.address_book import AddressBook
from cluster.errors import AdmissionRefusedError, TroubleError
from cluster.fleet import ENDED, ROUTED, HostRecord, HostState
from cluster.host_state import Action, Event, gone, step
from cluster.reputation import HostCounts

PAST_MAX = 64  # refused and replaced hosts that stay visible
_log = logging.getLogger(__name__)


class Routes(Protocol):
    """The relay: its map from host id to address, and what became of the requests."""

    async def set_hosts(self, hosts: Mapping[bytes, str], *, only: bool) -> None:
        """Make these hosts reachable, and `only` these."""
        ...

    async def outcomes(self) -> Mapping[bytes, HostCounts]:
        """How requests to each host ended since the relay started."""
        ...


class HostTable:
    """One record for each address, as one enclave listens there."""

    def __init__(self, book: AddressBook, routes: Routes, *, clock: Callable[[], datetime]) -> None:
        """Whoever can challenge a host sets `on_challenge`: it is called with the address, and must not wait."""
        self._book, self._routes, self._clock = book, routes, clock
        self._records: dict[str, HostRecord] = {}
        self._past: deque[HostRecord] = deque(maxlen=PAST_MAX)
        self._changed = asyncio.Condition()
        self.restoring = False  # until every known host was asked, the relay forgets none
        self.on_challenge: Callable[[str], None] = lambda _: None
        # versions must grow over restarts too, or a waiting gateway would take an old one for the newest
        self.version = int(clock().timestamp() * 1000)

    # --- reading -----------------------------------------------------------------------------------------------

    def all(self) -> tuple[HostRecord, ...]:
        """Present records, then those that others replaced."""
        return (*self._records.values(), *self._past)

    def present(self) -> tuple[HostRecord, ...]:
        """Present records, one for each address."""
        return tuple(self._records.values())

    def at(self, address: str) -> HostRecord | None:
        """The present record of an address."""
        return self._records.get(address)

    def current(self, *states: HostState) -> list[HostRecord]:
        """Present records in these states."""
        return [record for record in self._records.values() if record.state in states]

    def find(self, host_id: bytes, *states: HostState) -> HostRecord | None:
        """The present record of a host in one of these states."""
        return next((record for record in self.current(*states) if record.host_id == host_id), None)

    def record_of(self, host_id: bytes, *states: HostState) -> HostRecord:
        """As `find`; AdmissionRefusedError when there is none."""
        record = self.find(host_id, *states)
        if record is None:
            names = ", ".join(sorted(states))
            raise AdmissionRefusedError(f"host {host_id.hex()} is not {names}; see `chrysalis hosts`")
        return record

    async def wait(self, version: int, *, timeout_s: float) -> None:
        """Return once something is newer than `version`, or after `timeout_s`."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self.version > version), timeout_s)

    # --- changing ----------------------------------------------------------------------------------------------

    def put(self, record: HostRecord) -> HostRecord:
        """Store a record without an event; nobody is told."""
        self._records[record.address] = record
        return record

    async def apply(self, address: str, event: Event) -> HostRecord:
        """The record of this address after an event, and what follows from it."""
        before = self._records[address]
        after, actions = step(before, event)
        self._records[address] = after
        if Action.CHALLENGE in actions:
            self.on_challenge(address)
        if after.state in {HostState.REFUSED, HostState.BANNED} and after.host_id is not None:
            self._book.end(after.host_id, at=int(after.since.timestamp()))
        if after.state is not before.state:
            _log.info("host %s at %s is %s: %s", after.label, address, after.state, after.reason)
        if Action.OPEN_ROUTE in actions or Action.CLOSE_ROUTE in actions:
            await self.sync_routes()
        if after != replace(before, misses=after.misses, challenged_at=after.challenged_at):
            await self.publish()
        return after

    async def note(self, record: HostRecord, event: Event) -> None:
        """Apply an event about a host, unless its record was replaced while it was asked."""
        now = self._records.get(record.address)
        if now is not None and now.host_id == record.host_id and now.state not in ENDED:
            await self.apply(record.address, event)

    async def end(self, record: HostRecord, reason: str) -> None:
        """Let a host go: no route, no more challenges."""
        self.put(gone(record, reason, self._clock()))
        self._book.forget(record.address)
        self.prune()
        await self.sync_routes()
        await self.publish()

    def retire(self, record: HostRecord, now: datetime) -> None:
        """Move a record to the past; nobody is told."""
        del self._records[record.address]
        if record.state not in ENDED:
            record = gone(record, "another enclave took its place", now)
        self._past.append(record)

    def prune(self) -> None:
        """Keep the newest of the hosts that are refused or gone."""
        ended = self.current(*ENDED)
        for record in sorted(ended, key=lambda record: record.since)[:-PAST_MAX]:
            del self._records[record.address]

    async def sync_routes(self) -> None:
        """Tell the relay who is active; when it does not answer, the next round tries again."""
        hosts = {record.host_id: record.address for record in self.current(*ROUTED) if record.host_id}
        try:
            await self._routes.set_hosts(hosts, only=not self.restoring)
        except TroubleError as error:
            _log.warning("the relay did not take the host map: %s", error)

    async def publish(self) -> None:
        """Wake whoever waits for a change."""
        self.version += 1
        async with self._changed:
            self._changed.notify_all()
