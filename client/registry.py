"""The registry contract as the client sees it: read with proofs, refreshed, never acted on when too old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pytoniq_core import Address
from pytoniq_core.boc.address import AddressError

from attestation.errors import AttestationError, EndorsementFetchError, LogSplitViewError
from attestation.policy import ReferenceValues
from attestation.transparency.logged import LoggedValues
from attestation.transparency.reader import LogReader
from billing.errors import BillingError, ChainError, UnknownOperatorError
from billing.tariff import Tariff
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.registry import Operator, RegistryState, choose_operator, read_registry
from billing.ton.registry_entries import NO_DIGEST
from client.config import LiteServer
from client.errors import ConfigError, OperatorChoiceError, RegistryUnavailableError, UnknownModelError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOffer:
    """One model of the registry."""

    name: str
    root: bytes  # 32
    tariff: Tariff
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryView:
    """What governance says, at one moment."""

    seqno: int  # how often the owner changed something
    operators: Mapping[int, Operator]
    wanted: str  # the operator in the client's settings; empty for the only one
    offers: tuple[ModelOffer, ...]  # a name may stand for several roots while its operator changes from one to another
    models: Mapping[
        str, ModelOffer
    ]  # one for each name; at the prices of the operator that was chosen, or the models' own without one
    reference: ReferenceValues
    read_at: datetime
    policy_digest: bytes  # SHA-256 of the policy file that governance published; zeros for none
    log: LoggedValues | None = None  # what the transparency log says, where one is configured

    @property
    def unlogged(self) -> tuple[str, ...]:
        """What the registry allows and the log does not, in words."""
        return self.log.missing(self.reference) if self.log is not None else ()

    def model(self, name: str) -> ModelOffer:
        """Return a model's offer.

        Raises:
            UnknownModelError: the registry does not list it.
        """
        if name not in self.models:
            raise UnknownModelError(name, tuple(sorted(self.models)))
        return self.models[name]

    def offers_of(self, name: str) -> tuple[ModelOffer, ...]:
        """Every root that the registry lists under a name; the operator decides which of them a lease is for.

        Raises:
            UnknownModelError: the registry does not list it.
        """
        self.model(name)
        return tuple(offer for offer in self.offers if offer.name == name)

    def operator(self) -> Operator:
        """Return the operator to take leases from.

        Raises:
            OperatorChoiceError: none or several are meant, or the one that is meant takes no leases.
        """
        try:
            return choose_operator(self.operators, self.wanted)
        except UnknownOperatorError as error:
            raise OperatorChoiceError(str(error)) from error


def view_registry(
    state: RegistryState, *, now: datetime, log: LoggedValues | None = None, wanted: str = ""
) -> RegistryView:
    """Return the parts of a proved registry state that the client decides by."""
    try:
        operator: Operator | None = choose_operator(state.operators, wanted)
    except UnknownOperatorError:  # whoever asks for a lease is told; models are listed all the same
        operator = None
    offers = [
        ModelOffer(
            name=terms.name,
            root=root,
            tariff=operator.tariff(root, terms) if operator else terms.tariff,
            context=terms.context,
        )
        for root, terms in sorted(state.models.items())
    ]
    return RegistryView(
        seqno=state.seqno,
        operators=state.operators,
        wanted=wanted,
        offers=tuple(offers),
        models={offer.name: offer for offer in offers},
        reference=ReferenceValues(
            measurements=frozenset(state.measurements), rims=state.rims, models=frozenset(state.models)
        ),
        read_at=now,
        policy_digest=state.policy.digest,
        log=log,
    )


class RegistrySource(Protocol):
    """Reads the registry's state, proved."""

    async def read(self) -> RegistryState:
        """Return the current state; raises `ChainError` or `BillingError`."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class ChainRegistry:
    """The registry contract at one address, read through one lite-server."""

    def __init__(self, chain: ChainClient, address: Address) -> None:
        self._chain, self._address = chain, address

    @classmethod
    async def connect(cls, server: LiteServer, address: str) -> ChainRegistry:
        """Connect to the lite-server.

        Raises:
            ConfigError: the address or the server's key is not one.
            RegistryUnavailableError: it cannot be reached, or proves nothing.
        """
        try:
            contract = Address(address)
            config = ChainConfig(**asdict(server))
        except (AddressError, ValueError) as error:
            raise ConfigError(f"registry: {error}") from error
        try:
            return cls(await ChainClient.connect(config), contract)
        except (ChainError, BillingError) as error:
            raise RegistryUnavailableError(f"the chain cannot be read: {error}") from error

    @property
    def chain(self) -> ChainClient:
        """The connection, to read other accounts with; closed by `close`."""
        return self._chain

    async def read(self) -> RegistryState:
        """Return the state parsed from the proved account."""
        return await read_registry(self._chain, self._address)

    async def close(self) -> None:
        """Close the connection."""
        await self._chain.close()


class Registry:
    """Keeps the newest view and reads it again in the background."""

    def __init__(
        self,
        source: RegistrySource,
        *,
        clock: Callable[[], datetime],
        refresh_s: int,
        age_max_s: int,
        log: LogReader | None = None,
        operator: str = "",
    ) -> None:
        self._source, self._clock, self._log, self._operator = source, clock, log, operator
        self._policy_digest: bytes | None = None  # of our own policy file
        self._contradiction = ""  # why the log is not believed any more
        self._refresh_s, self._age_max_s = refresh_s, age_max_s
        self._view: RegistryView | None = None
        self._task: asyncio.Task[None] | None = None

    def compare_policy(self, digest: bytes) -> None:
        """Warn, at the next reading and at each change, when governance names another policy file than ours.

        Args:
            digest: SHA-256 of our policy file.
        """
        self._policy_digest = digest

    async def start(self) -> None:
        """Read once, then keep reading.

        Raises:
            RegistryUnavailableError: the first reading failed.
        """
        await self.refresh()
        self._task = asyncio.create_task(self._keep_reading())

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._source.close()

    async def refresh(self) -> RegistryView:
        """Read now and return the new view.

        Raises:
            RegistryUnavailableError: registry or log not readable, or an older state than one already seen.
        """
        try:
            state = await self._source.read()
        except (ChainError, BillingError) as error:
            raise RegistryUnavailableError(f"the registry cannot be read: {error}") from error
        if self._view is not None and state.seqno < self._view.seqno:
            raise RegistryUnavailableError(
                f"the lite-server shows registry change {state.seqno}, {self._view.seqno} was seen before: use another"
            )
        log = await self._read_log(state)
        before, self._view = self._view, view_registry(state, now=self._clock(), log=log, wanted=self._operator)
        if self._policy_digest is not None and (before is None or before.policy_digest != self._view.policy_digest):
            self._warn_of_policy(self._view.policy_digest)
        for missing in set(self._view.unlogged) - set(before.unlogged if before else ()):
            _log.warning("allowed by the registry, and not used: %s", missing)
        return self._view

    def _warn_of_policy(self, published: bytes) -> None:
        if published not in (NO_DIGEST, self._policy_digest):
            _log.warning(
                "governance names the policy file with SHA-256 %s, and yours is another: compare the two",
                published.hex(),
            )

    def view(self) -> RegistryView:
        """Return the newest view.

        Raises:
            RegistryUnavailableError: there is none, or it is too old to act on.
        """
        if self._contradiction:
            raise RegistryUnavailableError(self._contradiction)
        if self._view is None:
            raise RegistryUnavailableError("the registry was not read yet")
        age = self._clock() - self._view.read_at
        if age > timedelta(seconds=self._age_max_s):
            raise RegistryUnavailableError(
                f"the registry was last read {int(age.total_seconds())} s ago: check the connection to the lite-server"
            )
        return self._view

    async def _read_log(self, state: RegistryState) -> LoggedValues | None:
        if self._log is None:
            return None
        try:
            logged = await asyncio.to_thread(self._log.read, now=self._clock())
            if (seen := state.policy.checkpoint) is not None:
                self._log.check_contains(seen.log, size=seen.size, root=seen.root)
            return logged
        except LogSplitViewError as error:  # proof that the log lies: nothing is done by it any more
            self._contradiction = f"the transparency log cannot be believed: {error}"
            raise RegistryUnavailableError(self._contradiction) from error
        except (AttestationError, EndorsementFetchError, OSError) as error:
            raise RegistryUnavailableError(
                f"the transparency log cannot be used: {type(error).__name__}: {error}"
            ) from error

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except RegistryUnavailableError as error:
                _log.warning("%s", error)
            except Exception as error:  # noqa: BLE001  a server's strange answer must not end the reading for good
                _log.warning("the registry was not read: %s", type(error).__name__)
