"""The registry as an actor: one for the network, on the head, rebuilt from fresh evidence after a restart."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import ray
from pytoniq_core import Address

from attestation.errors import AttestationError, EndorsementFetchError
from attestation.floor_store import FloorStore
from attestation.transparency.logged import LoggedValues
from attestation.transparency.reader import LogReader
from billing.errors import BillingError, ChainError, UnknownOperatorError
from billing.ton.client import ChainClient
from billing.ton.registry import RegistryState, read_registry
from cluster.actors.handles import RELAY, find
from cluster.address_book import AddressBook, HostKey
from cluster.admission import Admission, NetworkTerms
from cluster.config import NetworkConfig, read_signing_key
from cluster.enclave_client import HttpEnclaveGate
from cluster.errors import TroubleError
from cluster.fleet import FleetSnapshot, HostRecord, Window
from cluster.model import HostHints
from cluster.model_book import MODEL_BOOK, ModelBook
from cluster.registry import Registry
from cluster.reputation import HostCounts, RatingFile

TERMS_PERIOD_S = 5.0
SNAPSHOT_WAIT_S = 20.0
_LOG_ERRORS = (AttestationError, EndorsementFetchError, OSError)
_log = logging.getLogger(__name__)


class RelayRoutes:
    """The relay actor, found by name at each call: it may start later, or restart."""

    async def set_hosts(self, hosts: Mapping[bytes, str], *, only: bool) -> None:
        """See cluster.host_table.Routes."""
        try:
            await find(RELAY).set_hosts.remote(dict(hosts), only)
        except (ValueError, ray.exceptions.RayError) as error:  # no such actor, or it has just died
            raise TroubleError(f"the relay actor does not answer ({type(error).__name__})") from error

    async def outcomes(self) -> Mapping[bytes, HostCounts]:
        """See cluster.host_table.Routes."""
        try:
            counts: Mapping[bytes, HostCounts] = await find(RELAY).outcomes.remote()
        except (ValueError, ray.exceptions.RayError) as error:
            raise TroubleError(f"the relay actor does not answer ({type(error).__name__})") from error
        return counts


class RegistryActor:
    """Knows every host. All rules live in cluster.registry and below."""

    async def __init__(self, config_path: str) -> None:  # type: ignore[misc]  # Ray awaits it
        config = NetworkConfig.load(Path(config_path))
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._address = Address(config.registry)
        self._log = config.transparency.reader(config.state / "transparency") if config.transparency else None
        self._operator = read_signing_key(config.operator_key).public_key().public_bytes_raw()
        self._chain, terms = await _reach_registry(config, self._address, self._log, self._operator)
        self._registry = Registry(
            gate=HttpEnclaveGate(),
            routes=RelayRoutes(),
            book=AddressBook(config.state / "hosts.jsonl"),
            floors=FloorStore(config.state / "floors"),
            ratings=RatingFile(config.state / "reputation.json"),
            policy=config.policy,
            terms=terms,
        )
        in_use = ModelBook(config.state / MODEL_BOOK).load().values()
        await self._registry.prefer_models(frozenset(versions.root for versions in in_use))
        await self._registry.restore()
        self._loops = [asyncio.create_task(self._registry.run()), asyncio.create_task(self._follow_chain())]

    async def ready(self) -> int:
        """Returns (the registry contract's seqno) once the state is rebuilt."""
        self._check_loops()
        return self._registry.terms.seqno

    async def admit(self, address: str, hints: HostHints) -> Admission:
        """Challenge the enclave at host:port, verify, and take it in or say why not."""
        return await self._registry.admit(address, hints)

    async def examine(self, address: str, hints: HostHints) -> Admission:
        """Challenge the enclave of a host that joins; it is not in before `take_in`."""
        return await self._registry.examine(address, hints)

    async def take_in(self, host_id: bytes, address: str) -> Admission | None:
        """Take in a host that was examined and whose enclave has signed for the address since."""
        return await self._registry.take_in(host_id, address)

    async def snapshot(self) -> FleetSnapshot:
        """The fleet now."""
        self._check_loops()
        return self._registry.snapshot()

    async def wait_snapshot(self, version: int, timeout_s: float = SNAPSHOT_WAIT_S) -> FleetSnapshot:
        """The fleet once it is newer than `version`, or as it is after a while: a long poll."""
        self._check_loops()
        return await self._registry.wait_snapshot(version, timeout_s=timeout_s)

    async def keys(self, host_ids: Sequence[bytes]) -> dict[bytes, HostKey]:
        """Receipt keys and payees of those of these instances that were ever admitted."""
        found = ((host_id, self._registry.key(host_id)) for host_id in host_ids)
        return {host_id: key for host_id, key in found if key is not None}

    async def fee_permille(self) -> int:
        """The operator's share, as the chain says."""
        return self._registry.terms.fee_permille

    async def node_of(self, host_id: bytes) -> str | None:
        """The Ray node bound to a host; None when there is none, as after a restart of this actor."""
        host = self._registry.snapshot().host(host_id)
        return host.node_id if host else None

    async def challenge_node(self, host_id: bytes, node_id: str) -> bytes:
        """What the enclave's control socket has to sign for `bind_node`."""
        return self._registry.challenge_node(host_id, node_id)

    async def bind_node(self, host_id: bytes, node_id: str, proof: bytes) -> None:
        """Note that a Ray node runs beside this host's enclave; AdmissionRefusedError without a proof."""
        await self._registry.bind_node(host_id, node_id, proof)

    async def routed(self, host_id: bytes) -> HostRecord | None:
        """The host with this id that the relay sends requests to; None when there is none."""
        return self._registry.routed(host_id)

    async def records(self, host_id: bytes) -> tuple[HostRecord, ...]:
        """The records of this id, whatever their state."""
        return self._registry.records(host_id)

    async def leave(self, host_id: bytes, reason: str) -> None:
        """Let a host go that is in order."""
        await self._registry.leave(host_id, reason)

    async def expel(self, host_id: bytes, reason: str) -> None:
        """Ban a host and the machine it runs on."""
        await self._registry.expel(host_id, reason)

    async def release(self, host_id: bytes, reason: str, address: str = "") -> None:
        """Lift a quarantine or a ban."""
        await self._registry.release(host_id, reason, address=address)

    async def prefer_models(self, roots: frozenset[bytes]) -> None:
        """Say which roots leases are for, where a name has several."""
        await self._registry.prefer_models(roots)

    async def count_job(self, host_id: bytes, ok: bool) -> None:
        """Count how a job ended for its host's reputation."""
        await self._registry.count_job(host_id, ok=ok)

    async def plan(self, host_id: bytes, window: Window | None) -> HostRecord:
        """Announce maintenance, or (None) call it off; SoleSurvivorError when nobody else serves a model of it."""
        return await self._registry.plan(host_id, window)

    async def _follow_chain(self) -> None:
        while True:
            await asyncio.sleep(TERMS_PERIOD_S)
            try:
                await self._read_terms()
            except (ChainError, BillingError, *_LOG_ERRORS) as error:
                _log.warning("registry contract or log were not read, the last terms stay: %s", error)

    async def _read_terms(self) -> None:
        state = await read_registry(self._chain, self._address)
        log = await _read_log(self._log, state)
        try:
            terms = NetworkTerms.from_registry(state, log, operator=self._operator)
        except UnknownOperatorError as error:
            _log.error("no new leases are given: %s", error)
            terms = self._registry.terms.without_operator()
        await self._registry.update_terms(terms)

    def _check_loops(self) -> None:
        """A loop that died must not look like a quiet fleet."""
        for loop in self._loops:
            if loop.done():
                loop.result()
                raise RuntimeError("a loop of the registry ended")


async def _read_log(log: LogReader | None, state: RegistryState) -> LoggedValues | None:
    if log is None:
        return None
    logged = await asyncio.to_thread(log.read, now=datetime.now(UTC))
    if (seen := state.policy.checkpoint) is not None:
        log.check_contains(seen.log, size=seen.size, root=seen.root)
    return logged


async def _reach_registry(
    config: NetworkConfig, address: Address, log: LogReader | None, operator: bytes
) -> tuple[ChainClient, NetworkTerms]:
    """A connection to the chain, and what registry contract and log say.

    At the first start a chain that does not answer is an error, which the operator sees at once. After a restart it is
    waited for: Ray gives up for good an actor whose start fails.
    """
    again = ray.get_runtime_context().was_current_actor_reconstructed
    while True:
        try:
            chain = await ChainClient.connect(config.chain)
            try:
                state = await read_registry(chain, address)
                return chain, NetworkTerms.from_registry(state, await _read_log(log, state), operator=operator)
            except BaseException:
                await chain.close()
                raise
        except (ChainError, EndorsementFetchError) as error:
            if not again:
                raise
            _log.warning("the registry waits for chain and log: %s", error)
            await asyncio.sleep(TERMS_PERIOD_S)
