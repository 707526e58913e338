"""The registry: every host's record, kept true by challenges and health checks. Plain asyncio; the actor wraps it.

Records and what follows from their changes: `cluster.host_table`. Evidence: `cluster.challenges`. Health, reputation
and time: `cluster.health_rounds`. Here is what the network and its operator ask for.
"""

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

from attestation.floor_store import FloorStore
from attestation.policy import AppraisalPolicy
from cluster.address_book import AddressBook, HostKey
from cluster.admission import Admission, NetworkTerms, check_node_proof, check_still_allowed, node_challenge
from cluster.challenges import Challenges
from cluster.enclave_client import EnclaveGate
from cluster.errors import AdmissionRefusedError, EnclaveUnreachableError, SoleSurvivorError
from cluster.fleet import ROUTED, WATCHED, FleetSnapshot, HostRecord, HostState, Window
from cluster.health_rounds import HealthRounds
from cluster.host_state import Ban, Bound, Planned, Released, sole_models
from cluster.host_table import HostTable, Routes
from cluster.model import HostHints
from cluster.reputation import RatingFile, key_of

NONCES_MAX = 1024


class Registry:
    """Records of all hosts, and the snapshots made of them."""

    def __init__(
        self,
        *,
        gate: EnclaveGate,
        routes: Routes,
        book: AddressBook,
        floors: FloorStore,
        policy: AppraisalPolicy,
        terms: NetworkTerms,
        ratings: RatingFile,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lateness: Callable[[], float] | None = None,
    ) -> None:
        self._book, self._clock = book, clock
        self._table = HostTable(book, routes, clock=clock)
        self._challenges = Challenges(
            self._table, gate=gate, book=book, floors=floors, policy=policy, terms=terms, clock=clock
        )
        self._rounds = HealthRounds(
            self._table, self._challenges, gate=gate, routes=routes, ratings=ratings, clock=clock, lateness=lateness
        )
        self._preferred: frozenset[bytes] = frozenset()
        self._nonces: dict[bytes, bytes] = {}  # host id -> open node challenge

    # --- reading -----------------------------------------------------------------------------------------------

    def snapshot(self) -> FleetSnapshot:
        """The fleet now."""
        return FleetSnapshot(
            version=self._table.version,
            at=self._clock(),
            hosts=self._table.all(),
            models=self.terms.models,
            preferred=self._preferred,
            operator=self.terms.operator,
            closed=self.terms.closed,
        )

    async def wait_snapshot(self, version: int, *, timeout_s: float) -> FleetSnapshot:
        """The fleet once it is newer than `version`, or as it is after `timeout_s`."""
        await self._table.wait(version, timeout_s=timeout_s)
        return self.snapshot()

    def key(self, host_id: bytes) -> HostKey | None:
        """Receipt key and payee of an instance that was admitted at some time; None for a stranger."""
        return self._book.key(host_id)

    @property
    def terms(self) -> NetworkTerms:
        """What the on-chain registry says, as last read."""
        return self._challenges.terms

    # --- changing ----------------------------------------------------------------------------------------------

    async def admit(self, address: str, hints: HostHints) -> Admission:
        """Challenge the enclave at `address` with a fresh nonce; take it in or say why not."""
        try:
            record = await self._challenges.admit(address, hints)
        except EnclaveUnreachableError as error:
            return Admission(address=address, accepted=False, reason=str(error), error=type(error).__name__)
        return Admission.of(record)

    async def examine(self, address: str, hints: HostHints) -> Admission:
        """Challenge the enclave at `address` for a host that joins; it is not in before `take_in`."""
        try:
            found = await self._challenges.examine(address, hints)
        except EnclaveUnreachableError as error:
            return Admission(address=address, accepted=False, reason=str(error), error=type(error).__name__)
        if isinstance(found, HostRecord):
            return Admission.of(found)
        return Admission(
            address=address,
            accepted=True,
            reason="its evidence holds",
            host_id=found.host_id,
            checks=found.checks,
            capability=found,
        )

    async def take_in(self, host_id: bytes, address: str) -> Admission | None:
        """Take in a host that was examined and whose enclave has signed for the address since.

        Returns:
            What came of it: it may be at another address too. None: no examination is open, ask for another one.
        """
        record = await self._challenges.take_in(host_id, address)
        return Admission.of(record) if record is not None else None

    async def restore(self) -> tuple[Admission, ...]:
        """Challenge every address of the address book anew; nothing is taken over without fresh evidence."""
        known = self._book.addresses()
        self._table.restoring = True
        try:
            return tuple(await asyncio.gather(*(self.admit(address, hints) for address, hints in known.items())))
        finally:
            self._table.restoring = False

    async def update_terms(self, terms: NetworkTerms) -> None:
        """Take over what chain and log say now.

        A host that was denied is refused at once, whether it answers or not. After a change of reference values, or of
        the log, every other one is challenged.
        """
        before = self.terms
        if terms == before:
            return
        self._challenges.use(terms)
        await self._table.publish()
        for record in self._table.current(*WATCHED):
            refused = check_still_allowed(record.capability, terms, now=self._clock()) if record.capability else None
            if refused is not None:
                await self._table.apply(record.address, refused)
        if (terms.reference, terms.log) != (before.reference, before.log):
            await asyncio.gather(*(self._challenges.renew(record.address) for record in self._table.current(*ROUTED)))

    async def prefer_models(self, roots: frozenset[bytes]) -> None:
        """Say which roots leases are for, where a name has several, see cluster.rollout."""
        if roots != self._preferred:
            self._preferred = roots
            await self._table.publish()

    async def round(self) -> None:
        """One health check of every host that is not at an end, and what follows from it."""
        await self._rounds.round()

    async def run(self) -> None:
        """Rounds, one a second, until cancelled."""
        await self._rounds.run()

    async def settled(self) -> None:
        """Return once no renewal is under way."""
        await self._challenges.settled()

    def challenge_node(self, host_id: bytes, node_id: str) -> bytes:
        """What the enclave's control socket has to sign for `bind_node`; AdmissionRefusedError for an unknown host."""
        self._table.record_of(host_id, *ROUTED)
        if len(self._nonces) >= NONCES_MAX:
            self._nonces.clear()
        self._nonces[host_id] = secrets.token_bytes(32)
        return node_challenge(self._nonces[host_id], node_id)

    async def bind_node(self, host_id: bytes, node_id: str, proof: bytes) -> None:
        """Note that a Ray node runs beside this host's enclave. AdmissionRefusedError when the proof does not hold."""
        record = self._table.record_of(host_id, *ROUTED)
        nonce = self._nonces.pop(host_id, None)
        if nonce is None or record.capability is None:
            raise AdmissionRefusedError(f"no challenge is open for host {host_id.hex()}: ask for one first")
        check_node_proof(record.capability, nonce=nonce, node_id=node_id, proof=proof)
        await self._table.apply(record.address, Bound(node_id=node_id))

    async def plan(self, host_id: bytes, window: Window | None) -> HostRecord:
        """Announce maintenance of a host, or (None) call it off; returns its record afterwards.

        A window that begins later waits then, if need be, for another host of each model; one that begins now is
        refused.

        Raises:
            AdmissionRefusedError: no such host.
            SoleSurvivorError: it would begin now, is not forced, and nobody else serves a model of this host.
        """
        record, now = self._table.record_of(host_id, *WATCHED), self._clock()
        if window is not None and window.covers(now) and not window.forced and record.state is HostState.ACTIVE:
            sole = sole_models(record, self._table.present())
            if sole:
                raise SoleSurvivorError(record.label, tuple(sorted(root.hex() for root in sole)))
        self._book.plan(record.address, window)
        return await self._table.apply(record.address, Planned(window=window, at=now))

    async def count_job(self, host_id: bytes, *, ok: bool) -> None:
        """Count how a job ended for its host's reputation; a host that has left in between is passed over."""
        if (record := self.routed(host_id)) is not None:
            await self._rounds.count_job(record, ok=ok)

    def routed(self, host_id: bytes) -> HostRecord | None:
        """The host with this id that the relay sends requests to; None when there is none."""
        return self._table.find(host_id, *ROUTED)

    def records(self, host_id: bytes) -> tuple[HostRecord, ...]:
        """The records of this id, whatever their state: one for each address."""
        return tuple(record for record in self._table.present() if record.host_id == host_id)

    async def leave(self, host_id: bytes, reason: str) -> None:
        """Let a host go that is in order: no route, no more challenges. Nothing happens when there is none."""
        if (record := self.routed(host_id)) is not None:
            await self._table.end(record, reason)

    async def expel(self, host_id: bytes, reason: str) -> None:
        """Ban a host and the machine it runs on, for a reason the operator gives; `release` lifts it."""
        record = self._table.record_of(host_id, *WATCHED)
        self._book.ban(key_of(record), reason)
        await self._table.apply(record.address, Ban(reason=reason, at=self._clock()))
        self._book.forget(record.address)

    async def release(self, host_id: bytes, reason: str, *, address: str = "") -> None:
        """Lift a quarantine, after which the host is challenged anew, or a ban, after which it may join again.

        Args:
            host_id: whose, also when the registry knows no host of it now; or then the banned machine's id.
            reason: for its owner to read.
            address: where the right one is, when the same host is quarantined at two; the other one's record ends.
        """
        released = (HostState.QUARANTINED, HostState.BANNED)
        same = [record for record in self._table.current(*released) if record.host_id == host_id]
        if not same and (self._book.ban_of(host_id.hex()) is not None or self._book.hold_of(host_id) is not None):
            self._book.pardon(host_id.hex())
            self._book.unhold(host_id)
            return
        chosen = [record for record in same if address in {"", record.address}]
        if len(chosen) != 1:
            places = ", ".join(record.address for record in same) or "nowhere"
            raise AdmissionRefusedError(f"host {host_id.hex()} is quarantined or banned at {places}: name one address")
        (record,), now = chosen, self._clock()
        for other in same:
            if other is not record:
                self._table.retire(other, now)
        self._book.pardon(key_of(record))
        self._book.unhold(host_id)
        await self._table.apply(record.address, Released(reason=reason, at=now))
