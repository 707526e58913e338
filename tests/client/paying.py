"""An operator that takes vouchers: the real counter over real books and a devnet, before the test's relay."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.simulate import SimulatedHost, SimulatedVendors
from billing.errors import BillingError, ChainError
from billing.grant import Grant, HostSlice
from billing.lease_request import verify_lease_request
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.channel import ChannelTerms
from billing.ton.channel_office import ChannelPolicy
from billing.ton.client import ChainClient
from billing.ton.devnet import NETWORK_ID, Devnet, running_devnet
from billing.ton.settler import Settler
from billing.ton.wallet import Wallet as TonWallet
from client.config import ChannelSettings
from cluster.address_book import HostKey
from cluster.cashier import Cashier
from cluster.counter import Counter
from cluster.errors import ClusterError
from cluster.lease import LEASE_S, lease_id, split_budget
from serve_apps.refusals import answer_refusal
from tests.billing.ton.world import TON, TREASURY_KEY, chain_clock, config_of, fund, treasury
from tests.client.support import MODEL, TARIFF, Network, Operator, run_network

CLIENT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x55" * 32)
WALLET = TonWallet(public_key=CLIENT_KEY.public_key().public_bytes_raw(), network_id=NETWORK_ID)
FUNDS = 20 * TON
DEPOSIT = Nanotons(2 * TON)
DELAY = 86_400


@dataclass
class PayingOperator(Operator):
    """Leases are held by a cashier, and paid by vouchers."""

    devnet: Devnet = field(kw_only=True)
    chain: ChainClient = field(kw_only=True)
    folder: Path = field(kw_only=True)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lose_answers: int = 0  # so many leases are held, and their answers lost

    def __post_init__(self) -> None:
        clock = chain_clock(self.devnet)
        self.cashier = Cashier(
            journal=self.folder / "books.sqlite",
            operator_key=self.key,
            admissions=self,
            policy=SettlementPolicy(threshold=Nanotons(1), dust=Nanotons(1)),
            clock=clock,
        )
        self.cashier.attach(
            Settler(chain=self.chain, books=self.cashier.books, wallet=treasury(), key=TREASURY_KEY, clock=clock)
        )
        policy = ChannelPolicy(threshold=Nanotons(TON))
        self.counter = Counter(
            self.cashier,
            network_id=NETWORK_ID,
            payee=treasury().address,
            operator_key=self.key,
            policy=policy,
            clock=clock,
        )
        self.counter.attach(self.chain)

    async def keys(self, host_ids: Any) -> dict[bytes, HostKey]:
        return {
            e.host_id: HostKey(host_id=e.host_id, receipt=e.service.keys.receipt_public, payee=e.service._payee)
            for e in self.enclaves
            if e.host_id in host_ids
        }

    async def fee_permille(self) -> int:
        return 50

    async def _lease(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        try:
            order = verify_lease_request(body, operator=self.public_key)
            chosen = self.enclaves[: order.hosts]
            slices = split_budget(order.budget, len(chosen))
            grant = Grant(
                lease=lease_id(order),
                account=order.account,
                operator=self.public_key,
                model_root=MODEL,
                tariff=TARIFF,
                hosts=tuple(
                    HostSlice(host_id=e.host_id, slice=part, coefficient=1000)
                    for e, part in zip(chosen, slices, strict=True)
                ),
                not_after=order.issued_at + LEASE_S,
            )
            signed = await self.counter.place_hold(grant, body)
        except (BillingError, ChainError, ClusterError) as error:
            refused = await answer_refusal(None, error)  # type: ignore[arg-type]
            return web.Response(body=refused.body, status=refused.status_code, content_type="application/json")
        self.leases.append(grant)
        if self.lose_answers:
            self.lose_answers -= 1
            return web.Response(status=500)
        candidates = [
            {"host_id": e.host_id.hex(), "ticket": "a.b.c", "direct": e.address, "tier": "confidential"} for e in chosen
        ]
        answer = {"grant": base64.b64encode(signed).decode(), "relay": self.url, "candidates": candidates}
        return web.json_response(answer)

    @property
    def account(self) -> bytes:
        return CLIENT_KEY.public_key().public_bytes_raw()

    @property
    def available(self) -> int:
        return self.cashier.books.ledger.available(self.account)


@dataclass(kw_only=True)
class PaidNetwork:
    """What a test of paying talks to."""

    network: Network
    operator: PayingOperator
    devnet: Devnet
    chain: ChainClient

    @property
    def terms(self) -> ChannelTerms:
        return ChannelTerms(
            network_id=NETWORK_ID,
            client=WALLET.address,
            client_key=self.operator.account,
            operator=treasury().address,
            operator_key=self.operator.public_key,
            delay_s=DELAY,
            nonce=0,
        )

    def now(self) -> dict[str, Any]:
        return {"now": chain_clock(self.devnet)()}


@contextlib.asynccontextmanager
async def paid_world(
    folder: Path, *, offer: object = None
) -> AsyncIterator[tuple[Devnet, ChainClient, PayingOperator]]:
    """A devnet on which the client has money, and an operator."""
    async with running_devnet(folder / "net") as devnet:
        await fund(devnet, WALLET.address, FUNDS)
        async with await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
            operator = PayingOperator(devnet=devnet, chain=chain, folder=folder)
            operator.payment = offer or operator.payment
            try:
                yield devnet, chain, operator
            finally:
                operator.cashier.close()


@contextlib.asynccontextmanager
async def paid_network(
    folder: Path, vendors: SimulatedVendors, hosts: list[SimulatedHost], **changes: Any
) -> AsyncIterator[PaidNetwork]:
    """A client that opens its channel, hosts, and the operator between them."""
    settings = changes.pop("channel", ChannelSettings(deposit=DEPOSIT))
    offer = changes.pop("offer", None)
    clients = folder / f"client-{os.urandom(4).hex()}"
    clients.mkdir()
    async with (
        paid_world(folder, offer=offer) as (devnet, chain, operator),
        run_network(
            clients,
            vendors,
            hosts,
            operated_by=operator,
            operator_wallet=treasury().address,
            chain=chain,
            wallet_key=CLIENT_KEY,
            payment="channel",
            channel=settings,
            **changes,
        ) as network,
    ):
        yield PaidNetwork(network=network, operator=operator, devnet=devnet, chain=chain)
