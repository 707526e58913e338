"""Puts the parts together from settings, and serves the sidecar until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from attestation.errors import FloorFileError
from attestation.floor_store import FloorStore
from attestation.verdict import Tier
from billing.lease_request import OPEN_HOSTS_MAX
from billing.ton.channel import ChannelState
from billing.ton.client import ChainClient
from client.asking import Client, now_utc
from client.channel import ChannelPayer
from client.comebacks import Comebacks
from client.config import ClientConfig
from client.errors import ConfigError
from client.idempotency import IdempotencyCache
from client.lease_manager import LeaseManager, LeaseTerms
from client.receipts import ReceiptStore
from client.registry import ChainRegistry, Registry, RegistrySource
from client.sidecar import Sidecar, SidecarOptions
from client.top_up import TopUps
from client.top_up_store import TopUpStore
from client.transport import Transport
from client.verify import Verifier, load_policy
from client.vouchers import VoucherStore
from client.wallet import Wallet

RECEIPTS, VOUCHERS, TOP_UPS = "receipts.sqlite", "vouchers.sqlite", "top_ups.sqlite"  # in the state folder
KEEP_ALIVE_S = 75  # longer than callers keep idle connections: one that is closed as it is used again fails a request


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientParts:
    """What one user's programs share: one registry, one verifier, one book of receipts."""

    config: ClientConfig
    wallet: Wallet
    registry: Registry
    verifier: Verifier
    transport: Transport
    receipts: ReceiptStore
    payer: ChannelPayer | None  # pays for leases by vouchers, where the settings name a channel
    clock: Callable[[], datetime]
    background: set[asyncio.Task[None]]  # ended before the transport is closed

    def make_client(self) -> Client:
        """Return a client with leases of its own."""
        config = self.config
        terms = LeaseTerms(
            gateway=config.gateway,
            direct=config.direct,
            tls=config.tls,
            hosts=OPEN_HOSTS_MAX if self.verifier.policy.open_only else config.hosts,
            budget=config.budget,
            coefficient_max=config.coefficient_max,
            avoid_s=config.avoid_s,
            tier=self.verifier.policy.required_tier,
        )
        leases = LeaseManager(
            terms,
            self.wallet,
            self.registry,
            self.verifier,
            self.transport,
            clock=self.clock,
            random=os.urandom,
            payer=self.payer,
            background=self.background,
        )
        return Client(leases, self.transport, self.receipts, clock=self.clock)


@asynccontextmanager
async def open_parts(
    config: ClientConfig,
    wallet: Wallet,
    source: RegistrySource,
    *,
    chain: ChainClient | None = None,
    clock: Callable[[], datetime] = now_utc,
    tier: Tier | None = None,
) -> AsyncIterator[ClientParts]:
    """Give the parts once the registry was read; closes everything at the end but `chain`, which reads the channel.

    `tier` open asks for hosts without a TEE, whose owners read the prompts; otherwise the policy's tier is asked for.

    Raises:
        ConfigError: the policy cannot be used.
        ChannelUnusableError: leases are to be paid from a payment channel that is not open, or closed.
        OperatorChoiceError: the settings mean no operator of the registry that takes leases.
        RegistryUnavailableError: the registry cannot be read.
    """
    async with AsyncExitStack() as stack:
        registry = Registry(
            source,
            clock=clock,
            refresh_s=config.registry_refresh_s,
            age_max_s=config.registry_age_max_s,
            log=config.transparency.reader(config.state / "transparency") if config.transparency else None,
            operator=config.operator,
        )
        stack.push_async_callback(registry.close)
        try:
            text = config.policy.read_bytes()
            policy = load_policy(text.decode(), network_id=config.lite_server.network_id, tier=tier)
        except OSError as error:
            raise ConfigError(f"cannot read the policy {config.policy}: {error.strerror}") from error
        registry.compare_policy(sha256(text).digest())
        await registry.start()
        registry.view().operator()  # settings that mean no operator are said now, not at the first request
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        verifier = Verifier(policy, floors=_open_floors(config.state), clock=clock, random=os.urandom)
        transport = Transport(read_timeout_s=config.read_timeout_s, attested=verifier.tls_context)
        stack.push_async_callback(transport.close)
        receipts = ReceiptStore(config.state / RECEIPTS)
        stack.callback(receipts.close)
        payer = None
        if config.channel is not None:
            if chain is None:
                raise RuntimeError("a payment channel needs the chain")
            vouchers = VoucherStore(config.state / VOUCHERS)
            stack.callback(vouchers.close)
            top_ups = TopUpStore(config.state / TOP_UPS)
            stack.callback(top_ups.close)
            payer = ChannelPayer(
                config.channel,
                wallet,
                chain,
                vouchers,
                receipts,
                clock=clock,
                top_ups=TopUps(config.channel, wallet, chain, top_ups, clock=clock),
            )
            stack.push_async_callback(payer.stop)
            operator = registry.view().operator()
            gateway = config.gateway or operator.terms.endpoints[0]
            await payer.start(operator, lambda: transport.payment_terms(gateway))
            await payer.keep_up(operator, payer.account(operator).promised)
        background = set[asyncio.Task[None]]()
        stack.push_async_callback(_cancel, background)
        yield ClientParts(
            config=config,
            wallet=wallet,
            registry=registry,
            verifier=verifier,
            transport=transport,
            receipts=receipts,
            payer=payer,
            clock=clock,
            background=background,
        )


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def open_client(
    config: ClientConfig,
    wallet: Wallet,
    source: RegistrySource,
    *,
    chain: ChainClient | None = None,
    clock: Callable[[], datetime] = now_utc,
) -> AsyncIterator[Sidecar]:
    """Give a sidecar; raises as `open_parts`."""
    async with open_parts(config, wallet, source, chain=chain, clock=clock) as parts:
        yield Sidecar(
            parts.make_client(),
            SidecarOptions(price_cap=config.price_cap, body_max=config.body_max, api_key=config.api_key),
            registry=parts.registry,
            verifier=parts.verifier,
            receipts=parts.receipts,
            kept=IdempotencyCache(clock),
            comebacks=Comebacks(clock_s=time.monotonic, random=os.urandom),
            random=os.urandom,
        )


async def close_channel(config: ClientConfig, *, clock: Callable[[], datetime] = now_utc) -> ChannelState:
    """Close the payment channel of the settings at once, together with the operator; returns its last state.

    Raises:
        ConfigError: the settings name none.
        ClientError: as `ChannelPayer.close`; or the registry cannot be read.
    """
    if config.channel is None:
        raise ConfigError("the settings name no payment channel: nothing to close")
    wallet, source = Wallet.open(config.wallet), await ChainRegistry.connect(config.lite_server, config.registry)
    async with AsyncExitStack() as stack:
        registry = Registry(
            source,
            clock=clock,
            refresh_s=config.registry_refresh_s,
            age_max_s=config.registry_age_max_s,
            operator=config.operator,
        )
        stack.push_async_callback(registry.close)
        operator = (await registry.refresh()).operator()
        transport = Transport(read_timeout_s=config.read_timeout_s)
        stack.push_async_callback(transport.close)
        receipts = ReceiptStore(config.state / RECEIPTS)
        stack.callback(receipts.close)
        vouchers = VoucherStore(config.state / VOUCHERS)
        stack.callback(vouchers.close)
        payer = ChannelPayer(config.channel, wallet, source.chain, vouchers, receipts, clock=clock)
        gateway = config.gateway or operator.terms.endpoints[0]
        return await payer.close(operator, lambda order: transport.close_channel(gateway, order))


def _open_floors(state: Path) -> FloorStore:
    try:
        return FloorStore(state / "floors")
    except FloorFileError as error:
        raise ConfigError(str(error)) from error


def bind(listen: tuple[str, int]) -> socket.socket:
    """Take the address, or say what to do.

    Raises:
        ConfigError: it is taken.
    """
    family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(listen)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror}; choose another port") from error
    return listener


def make_server(app: Starlette) -> uvicorn.Server:
    """Return an HTTP server for the app; it writes no access log."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=5,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )


async def run_sidecar(config: ClientConfig, ready: Callable[[str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready(url, account)` is called once callers can connect."""
    wallet = Wallet.open_or_create(config.wallet)
    source = await ChainRegistry.connect(config.lite_server, config.registry)
    async with open_client(config, wallet, source, chain=source.chain) as sidecar:
        listener = bind(config.listen)
        host, port = listener.getsockname()[:2]
        listener.listen(128)
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}", wallet.account.hex())
        await make_server(sidecar.app).serve(sockets=[listener])
