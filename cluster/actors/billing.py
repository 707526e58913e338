"""Billing as an actor: the one writer of the books, on the head, rebuilt from its journal after a restart."""

import asyncio
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pytoniq_core import Address

from billing.channel_book import AgreedClose
from billing.claim_proof import ClaimProof
from billing.durable_file import replace_file
from billing.errors import BillingError, ChainError, JournalBusyError, JournalLostError
from billing.grant import Grant
from billing.payment import CloseOrder
from billing.statement import Party
from billing.ton.client import ChainClient
from billing.ton.settler import Settler, TickReport
from cluster.actors.handles import REGISTRY, find
from cluster.address_book import HostKey
from cluster.cashier import Cashier, Posted, Statement
from cluster.config import NetworkConfig, read_signing_key
from cluster.counter import Counter
from cluster.settlement_config import make_treasury

TICK_S = 1.0
LOCK_WAIT_S = 30.0  # for a predecessor that Ray has given up and that has not ended yet
_log = logging.getLogger(__name__)


class RegistryAdmissions:
    """The registry actor, asked anew each time: a host may have been refused a moment ago."""

    async def keys(self, host_ids: Collection[bytes]) -> Mapping[bytes, HostKey]:
        """See cluster.cashier.Admissions."""
        keys: Mapping[bytes, HostKey] = await find(REGISTRY).keys.remote(list(host_ids))
        return keys

    async def fee_permille(self) -> int:
        """See cluster.cashier.Admissions."""
        fee: int = await find(REGISTRY).fee_permille.remote()
        return fee


class BillingActor:
    """Serialises what touches money. All rules live in cluster.cashier and billing."""

    async def __init__(self, config_path: str) -> None:  # type: ignore[misc]  # Ray awaits it
        """Open the books. The chain is reached afterwards: Ray gives up for good an actor that fails here."""
        self._config = config = NetworkConfig.load(Path(config_path))
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = read_signing_key(config.treasury_key)
        self._wallet = make_treasury(
            config.settlement,
            public_key=self._key.public_key().public_bytes_raw(),
            network_id=config.chain.network_id,
            state=config.state,
        )
        self._cashier = await _open_books(config)
        self._counter = Counter(
            self._cashier,
            network_id=config.chain.network_id,
            payee=self._wallet.address,
            operator_key=read_signing_key(config.operator_key),
            policy=config.channels,
        )
        self._attaching = asyncio.Lock()
        self._attached = False
        self._following = asyncio.create_task(self._follow_chain())
        self._watching = asyncio.create_task(self._watch_channels())

    async def ready(self) -> str:
        """Returns (the treasury's address) once the books are open."""
        address: str = self._wallet.address.to_str(is_user_friendly=False)
        return address

    async def place_hold(self, grant: Grant, order: Mapping[str, object]) -> bytes:
        """Take the voucher beside a client's signed order, hold a lease's money, sign its grant; again, the same."""
        return await self._counter.place_hold(grant, order)

    async def close_channel(self, order: CloseOrder) -> AgreedClose:
        """Close a client's payment channel at once, as it signed; see `ChannelOffice.close`."""
        return await self._counter.office.close(order)

    async def post(self, receipts: Sequence[bytes]) -> tuple[Posted, ...]:
        """Pay for signed receipts, each once; refusals are final."""
        return await self._cashier.post(receipts)

    async def judge(self, signed: bytes, receipts: Sequence[bytes]) -> None:
        """Book a client's verdict on copies of one unit, with their receipts; see `Cashier.judge`."""
        await self._cashier.judge(signed, receipts)

    async def available(self, account: bytes) -> int:
        """What a client can still place holds with, nanotons."""
        return self._cashier.books.ledger.available(account)

    async def settle(self, force: bool = False, timeout_s: float = 60.0) -> TickReport:
        """Pay who is due (with `force`, everyone who is owed anything) and wait until the chain confirmed it."""
        await self._attach()
        await self._counter.watch.round(needed=self._cashier.shortfall(force=force))
        return await self._cashier.settle(force=force, timeout_s=timeout_s)

    async def tick(self) -> TickReport:
        """Book what the chain shows now."""
        await self._attach()
        return await self._cashier.tick()

    async def statement(self) -> Statement:
        """The books now."""
        return self._cashier.statement()

    async def knows(self, party: Party) -> bool:
        """Whether anything was ever booked for a client or a payee."""
        return self._cashier.knows(party)

    async def claim(self, payee: bytes) -> ClaimProof:
        """What a payee (33 bytes) may claim from the vault, and its proof, as of the last look at the chain."""
        return self._cashier.claim(payee)

    async def imbalance(self) -> int:
        """The sum of all accounts: 0."""
        return self._cashier.books.ledger.imbalance()

    async def _attach(self) -> None:
        """Reach the chain, unless it was reached before; ChainError when it does not answer."""
        async with self._attaching:
            if self._attached:
                return
            chain = await ChainClient.connect(self._config.chain)
            registry = Address(self._config.registry)
            books = self._cashier.books
            settings = self._config.settlement
            self._cashier.attach(
                Settler(
                    chain=chain,
                    books=books,
                    wallet=self._wallet,
                    key=self._key,
                    registry=registry,
                    limits=settings.limits,
                    acknowledged=settings.acknowledged,
                )
            )
            self._counter.attach(chain)
            self._attached = True

    async def _follow_chain(self) -> None:
        """Release holds, book what the chain shows, pay who is due; whatever goes wrong is tried again."""
        while True:
            try:
                self._cashier.books.check()
                self._cashier.release_expired()
                self._cashier.end_reviews()
                await self._keep_checkpoint()
                await self._attach()
                await self._cashier.tick()
                await self._cashier.plan_due(self._config.settlement.period_s)
            except JournalLostError:
                _log.critical("billing starts anew", exc_info=True)
                os._exit(1)  # Ray starts the actor again, and that reads the books as they are
            except (ChainError, BillingError) as error:
                _log.warning("the treasury was not read at %s: %s", datetime.now(UTC), error)
            except Exception:  # noqa: BLE001  a full disk, for example: this loop must not end unseen
                _log.exception("the treasury is not followed")
            await asyncio.sleep(TICK_S)

    async def _keep_checkpoint(self) -> None:
        """So that the next start need not read all of the journal."""
        if (encoded := self._cashier.books.due_checkpoint()) is not None:
            await asyncio.to_thread(replace_file, _checkpoint_of(self._config), encoded)

    async def _watch_channels(self) -> None:
        """Redeem vouchers in time, apart from settlement: trouble there must not keep a client's deadline waiting."""
        while True:
            try:
                await self._attach()
                report = await self._counter.watch.round(needed=self._cashier.shortfall())
                for trouble in report.trouble:
                    _log.warning(trouble)
            except (ChainError, BillingError) as error:
                _log.warning("payment channels were not watched at %s: %s", datetime.now(UTC), error)
            except Exception:  # noqa: BLE001  as above
                _log.exception("payment channels are not watched")
            await asyncio.sleep(TICK_S)


def _checkpoint_of(config: NetworkConfig) -> Path:
    return config.state / "books.checkpoint"


async def _open_books(config: NetworkConfig) -> Cashier:
    """The books, alone. JournalBusyError when another process keeps them open for LOCK_WAIT_S.

    A database that does not answer is waited for without end: Ray gives up for good an actor that cannot be made.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return Cashier(
                journal=config.books,
                checkpoint=_checkpoint_of(config),
                operator_key=read_signing_key(config.operator_key),
                admissions=RegistryAdmissions(),
                policy=config.settlement.policy,
            )
        except JournalBusyError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(TICK_S / 2)
        except JournalLostError as error:
            _log.warning("billing waits for its books: %s", error)
            deadline = time.monotonic() + LOCK_WAIT_S
            await asyncio.sleep(TICK_S)
