"""Billing as an actor: the one writer of the books, on the head, rebuilt from its journal after a restart."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pytoniq_core import Address

from billing.errors import BillingError, ChainError
from billing.grant import Grant
from billing.ton.client import ChainClient
from billing.ton.highload import treasury_wallet
from billing.ton.settler import Settler, TickReport
from cluster.actors.handles import REGISTRY, find
from cluster.address_book import HostKey
from cluster.cashier import Cashier, Posted, Statement
from cluster.config import NetworkConfig, read_signing_key

TICK_S = 1.0
KEYS_MAX = 4096
_log = logging.getLogger(__name__)


class RegistryAdmissions:
    """The registry actor, asked once for each instance: its keys never change."""

    def __init__(self) -> None:
        self._keys: dict[bytes, HostKey] = {}

    async def key(self, host_id: bytes) -> HostKey | None:
        """See cluster.cashier.Admissions."""
        if host_id not in self._keys:
            key: HostKey | None = await find(REGISTRY).key.remote(host_id)
            if key is None:
                return None
            if len(self._keys) >= KEYS_MAX:
                self._keys.clear()
            self._keys[host_id] = key
        return self._keys[host_id]

    async def fee_permille(self) -> int:
        """See cluster.cashier.Admissions."""
        fee: int = await find(REGISTRY).fee_permille.remote()
        return fee


class BillingActor:
    """Serialises what touches money. All rules live in cluster.cashier and billing."""

    async def __init__(self, config_path: str) -> None:  # type: ignore[misc]  # Ray awaits it
        config = NetworkConfig.load(Path(config_path))
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cashier = Cashier(
            journal=config.state / "books.sqlite",
            operator_key=read_signing_key(config.operator_key),
            admissions=RegistryAdmissions(),
            policy=config.settlement,
        )
        key = read_signing_key(config.treasury_key)
        wallet = treasury_wallet(
            key.public_key().public_bytes_raw(), config.chain.network_id, timeout_s=config.treasury_timeout_s
        )
        settler = Settler(
            chain=await ChainClient.connect(config.chain),
            books=self._cashier.books,
            wallet=wallet,
            key=key,
            registry=Address(config.registry),
        )
        self._cashier.attach(settler)
        self._wallet: str = wallet.address.to_str(is_user_friendly=False)
        self._report: TickReport | None = None
        self._following = asyncio.create_task(self._follow_chain())

    async def ready(self) -> str:
        """Returns (the treasury's address) once the books are open."""
        return self._wallet

    async def place_hold(self, grant: Grant) -> bytes:
        """Hold a lease's money and sign its grant; asked again, the same. BillingError without funds."""
        return self._cashier.place_hold(grant)

    async def post(self, receipts: Sequence[bytes]) -> tuple[Posted, ...]:
        """Pay for signed receipts, each once; refusals are final."""
        return await self._cashier.post(receipts)

    async def available(self, account: bytes) -> int:
        """What a client can still place holds with, nanotons."""
        return self._cashier.books.ledger.available(account)

    async def settle(self, force: bool = False, timeout_s: float = 60.0) -> TickReport:
        """Pay who is due (with `force`, everyone who is owed anything) and wait until the chain confirmed it."""
        return await self._cashier.settle(force=force, timeout_s=timeout_s)

    async def tick(self) -> TickReport:
        """Book what the chain shows now."""
        return await self._cashier.tick()

    async def statement(self) -> Statement:
        """The books now."""
        return self._cashier.statement()

    async def imbalance(self) -> int:
        """The sum of all accounts: 0."""
        return self._cashier.books.ledger.imbalance()

    async def last_report(self) -> TickReport | None:
        """What the last look at the chain found, None before the first."""
        return self._report

    async def _follow_chain(self) -> None:
        while True:
            try:
                self._cashier.release_expired()
                self._report = await self._cashier.tick()
            except (ChainError, BillingError) as error:
                _log.warning("the treasury was not read at %s: %s", datetime.now(UTC), error)
            await asyncio.sleep(TICK_S)
