"""Challenges: a fresh nonce for an enclave, the appraisal of its answer, and what that makes of its record.

Genuine evidence at an address says that the enclave can be reached through it, not that it is there: whoever listens
there may pass challenges on. So it counts whose word the address is, see `Word`.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from attestation.floor_store import FloorStore
from attestation.policy import AppraisalPolicy
from cluster.address_book import AddressBook, HostKey
from cluster.admission import NetworkTerms, appraise
from cluster.capability import Capability
from cluster.enclave_client import EnclaveControlError, EnclaveGate
from cluster.errors import EnclaveUnreachableError
from cluster.fleet import ENDED, ROUTED, WAITING, HostRecord
from cluster.host_state import Admitted, HealthMissed, Quarantine, Refused, joining
from cluster.host_table import HostTable
from cluster.model import HostHints
from cluster.reputation import machine_of

CHALLENGES_MAX = 512  # of those who ask to join, at the same time; each may keep us waiting for seconds
EXAMINED_MAX = 1024
EXAMINED_FOR = timedelta(seconds=90)  # how long evidence of a host that joins waits for the enclave's word
_log = logging.getLogger(__name__)


class Word(Enum):
    """Who says that an enclave is at an address."""

    ENCLAVE = auto()  # it signed for the address itself, on its control socket
    OPERATOR = auto()
    NOBODY = auto()  # the address answers for another enclave than before


class Challenges:
    """Asks enclaves for evidence, and keeps it fresh."""

    def __init__(
        self,
        table: HostTable,
        *,
        gate: EnclaveGate,
        book: AddressBook,
        floors: FloorStore,
        policy: AppraisalPolicy,
        terms: NetworkTerms,
        clock: Callable[[], datetime],
    ) -> None:
        self._table, self._gate, self._book, self._floors = table, gate, book, floors
        self._policy, self._clock = policy, clock
        self.terms = terms  # what the on-chain registry says, as last read
        self._appraised = floors.floors
        self._challenging = asyncio.Semaphore(CHALLENGES_MAX)
        self._busy: set[str] = set()  # addresses under challenge now
        self._tasks: set[asyncio.Task[None]] = set()
        self._examined: dict[tuple[bytes, str], tuple[HostHints, Admitted]] = {}  # by host id and address
        table.on_challenge = self.renew_soon

    async def admit(self, address: str, hints: HostHints) -> HostRecord:
        """Challenge the enclave at an address, apply the outcome. EnclaveUnreachableError when it does not answer."""
        async with self._challenging:  # not for renewals: strangers must not keep members waiting
            event = await self._challenge(address)
        return await self._settle(address, hints, event, Word.OPERATOR)

    async def examine(self, address: str, hints: HostHints) -> Capability | HostRecord:
        """Challenge the enclave at an address: what it proved, for `take_in`, or the record of its refusal.

        Raises:
            EnclaveUnreachableError: it does not answer.
        """
        async with self._challenging:
            event = self._check_banned(await self._challenge(address))
        if isinstance(event, Refused):
            return await self._settle(address, hints, event, Word.NOBODY)
        self._forget_examined()
        self._examined[event.capability.host_id, address] = hints, event
        return event.capability

    async def take_in(self, host_id: bytes, address: str) -> HostRecord | None:
        """Apply an examination, now that the enclave has signed for the address.

        Returns:
            The record; None when no examination is open, as after a change of the terms.
        """
        self._forget_examined()
        examined = self._examined.pop((host_id, address), None)
        if examined is None:
            return None
        hints, event = examined
        return await self._settle(address, hints, event, Word.ENCLAVE)

    def use(self, terms: NetworkTerms) -> None:
        """Appraise by these terms from now on; what was examined by others has to be examined anew."""
        self.terms = terms
        self._examined.clear()

    async def renew(self, address: str) -> None:
        """Challenge the enclave at a known address once more; one challenge at a time for each address."""
        record = self._table.at(address)
        if record is None or address in self._busy:
            return
        self._busy.add(address)
        try:
            event = await self._challenge(address)
        except EnclaveUnreachableError as error:
            await self._table.note(record, HealthMissed(reason=str(error), at=self._clock()))
        else:
            await self._settle(address, record.hints, event, Word.NOBODY)
        finally:
            self._busy.discard(address)

    def renew_soon(self, address: str) -> None:
        """`renew`, in a task of its own."""
        self._background(self.renew(address))

    async def settled(self) -> None:
        """Return once no renewal is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def reappraise(self) -> None:
        """Challenge every host whose evidence rests on vendors' lists with a lower number than has been seen since."""
        floors = self._floors.floors
        if floors == self._appraised:
            return
        self._appraised = floors
        numbers = {mark.series: mark.number for mark in floors.marks}
        for record in self._table.current(*ROUTED):
            marks = record.capability.marks.marks if record.capability else ()
            if any(mark.number < numbers.get(mark.series, 0) for mark in marks):
                self.renew_soon(record.address)

    async def _challenge(self, address: str) -> Admitted | Refused:
        nonce = secrets.token_bytes(32)
        try:
            data = await self._gate.fetch_evidence(address, nonce)
        except EnclaveControlError as error:
            return Refused(error=type(error).__name__, reason=str(error), checks=(), at=self._clock())
        floors, now = self._floors.floors, self._clock()
        event = appraise(data, self._policy, self.terms, nonce=nonce, now=now, floors=floors)
        if isinstance(event, Admitted):
            self._floors.raise_by(event.capability.marks)  # nothing waited since they were read
        return event

    async def _settle(self, address: str, hints: HostHints, event: Admitted | Refused, word: Word) -> HostRecord:
        """Apply the outcome of a challenge to the record at `address`, or to a new one."""
        event = self._check_banned(event)
        twin = self._twin(address, event) if isinstance(event, Admitted) else None
        record = self._table.put(replace(self._record(address, hints, event), hints=hints))
        if isinstance(event, Refused):
            after = await self._table.apply(address, event)
        elif twin is not None:
            after = await self._meet_twin(record, twin, event, word)
        elif (held := self._book.hold_of(event.capability.host_id)) is not None:
            after = await self._quarantine(record, event, held)
        else:
            self._book.remember(address, hints, HostKey.of(event.capability))
            after = await self._table.apply(address, event)
        self._table.prune()
        return after

    def _record(self, address: str, hints: HostHints, event: Admitted | Refused) -> HostRecord:
        """The record that the outcome is about: the present one, or that of a newcomer in its place."""
        record = self._table.at(address)
        another = record is not None and isinstance(event, Admitted) and record.host_id != event.capability.host_id
        if record is not None and record.state not in ENDED and not another:
            return record
        if record is not None:
            self._table.retire(record, event.at)
        new = joining(address, hints, now=event.at, history=record.history if record is not None else ())
        return replace(new, window=self._book.window(address))

    def _check_banned(self, event: Admitted | Refused) -> Admitted | Refused:
        if isinstance(event, Admitted) and (reason := self._book.ban_of(machine_of(event.capability))) is not None:
            reason = f"machine {machine_of(event.capability)} is banned: {reason}; ask the operator"
            return Refused(error="AdmissionRefusedError", reason=reason, checks=(), at=event.at)
        return event

    def _twin(self, address: str, event: Admitted) -> HostRecord | None:
        """The record of the same enclave at another address, unless the enclave has moved away from there."""
        for other in self._table.present():
            if other.address == address or other.host_id != event.capability.host_id or other.state in ENDED:
                continue
            if other.state not in WAITING:
                return other
            self._table.retire(other, event.at)  # it moved
        return None

    async def _meet_twin(self, newcomer: HostRecord, twin: HostRecord, event: Admitted, word: Word) -> HostRecord:
        """One enclave answers at a second address.

        Where it signed for that address itself, its keys are in two places, or it was started twice: nobody can tell
        which is right, and both are out of traffic until the operator releases one. Without its word somebody may pass
        challenges on, and the newcomer is refused: else anybody who can reach an enclave could stop its traffic. Of
        two addresses that the operator named, the one beside which a Ray node proved to run stays; before any did,
        neither does.
        """
        reason = f"host {event.capability.host_id.hex()} answers at {twin.address} and at {newcomer.address}"
        if word is Word.NOBODY or (word is Word.OPERATOR and twin.node_id is not None):
            reason = f"{reason}; it is in at the first address, stop it there first"
            refused = Refused(error="AdmissionRefusedError", reason=reason, checks=(), at=event.at)
            return await self._table.apply(newcomer.address, refused)
        if word is Word.ENCLAVE:
            reason = f"{reason}, and signed for both: it runs twice, or somebody has its keys"
        reason = f"{reason}; end one, and ask the operator to release the other"
        self._book.hold(event.capability.host_id, reason)
        await self._table.apply(twin.address, Quarantine(reason=reason, at=event.at))
        return await self._quarantine(newcomer, event, reason)

    async def _quarantine(self, record: HostRecord, event: Admitted, reason: str) -> HostRecord:
        """Its evidence holds, and it gets no traffic before the operator releases it."""
        self._table.put(replace(record, capability=event.capability))
        return await self._table.apply(record.address, Quarantine(reason=reason, at=event.at))

    def _forget_examined(self) -> None:
        now = self._clock()
        fresh = {key: one for key, one in self._examined.items() if now - one[1].at <= EXAMINED_FOR}
        self._examined = dict([*fresh.items()][-EXAMINED_MAX:])

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a renewal failed", exc_info=task.exception())
