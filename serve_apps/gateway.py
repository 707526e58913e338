"""The gateway deployment: the lease interface on Ray Serve, deciding from pushed snapshots.

One actor call for each lease (the hold), none for anything else.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI

from billing.booked import read_statement
from billing.channel_book import AgreedClose
from billing.claim_proof import ClaimProof
from billing.errors import NoStatementError
from billing.grant import Grant
from billing.journal_place import JournalPlace
from billing.payment import CloseOrder
from billing.statement import Party
from billing.statement import Statement as PartyStatement
from billing.ton.channel_office import ChannelPolicy
from cluster.actors.handles import BILLING, REGISTRY, find
from cluster.actors.scheduler import follow_fleet
from cluster.config import NetworkConfig, read_secret
from cluster.errors import TroubleError
from cluster.fleet import FleetSnapshot
from serve_apps.lease_api import build_app, describe_payment
from serve_apps.loopback import keep_replica_on_loopback

BILLING_TIMEOUT_S = 10.0


class RayDesk:
    """The lease desk of one gateway replica."""

    def __init__(
        self,
        *,
        fleet: FleetSnapshot,
        relay: str,
        ticket_key: bytes,
        channels: ChannelPolicy,
        books: JournalPlace,
        network_id: int,
    ) -> None:
        self._channels, self._books = channels, books
        self._reading = asyncio.Lock()
        self.network_id = network_id
        self._treasury: str | None = None
        self.fleet = fleet
        self.relay = relay
        self.ticket_key = ticket_key

    def take(self, fleet: FleetSnapshot) -> None:
        """Decide from this snapshot from now on."""
        self.fleet = fleet

    async def place_hold(self, grant: Grant, order: Mapping[str, object]) -> bytes:
        """See serve_apps.lease_api.LeaseDesk."""
        signed: bytes = await _ask_billing("place_hold", grant, dict(order))
        return signed

    async def judge(self, verdict: bytes, receipts: Sequence[bytes]) -> None:
        """See serve_apps.lease_api.LeaseDesk."""
        await _ask_billing("judge", verdict, list(receipts))

    async def claim(self, payee: bytes) -> ClaimProof:
        """See serve_apps.lease_api.LeaseDesk."""
        proof: ClaimProof = await _ask_billing("claim", payee)
        return proof

    async def close_channel(self, order: CloseOrder) -> AgreedClose:
        """See serve_apps.lease_api.LeaseDesk."""
        agreed: AgreedClose = await _ask_billing("close_channel", order)
        return agreed

    async def statement(self, party: Party, *, start: int, end: int) -> PartyStatement:
        """See serve_apps.lease_api.LeaseDesk. Read beside the books' writer; one at a time, for all of it is read."""
        if not await _ask_billing("knows", party):
            raise NoStatementError(f"{party.role} {party.name.hex()}")
        if self._reading.locked():
            raise TroubleError("another statement is being made; send the same request again in a few seconds")
        async with self._reading:
            return await asyncio.to_thread(read_statement, self._books, party, start=start, end=end)

    async def payment_terms(self) -> dict[str, Any]:
        """See serve_apps.lease_api.LeaseDesk."""
        if self._treasury is None:
            self._treasury = await _ask_billing("ready")
        return describe_payment(self._treasury, self._channels)


async def _ask_billing(method: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever the method returns
    try:
        return await asyncio.wait_for(getattr(find(BILLING), method).remote(*arguments), BILLING_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:  # the actor's own refusal, wrapped with a traceback
        raise error.cause from None
    except (ValueError, TimeoutError, ray.exceptions.RayError) as error:
        raise TroubleError("billing does not answer now; send the same request again in a few seconds") from error


class Gateway:
    """Serve deployment; see `serve_apps.lease_api` for the interface."""

    async def __init__(self, config_path: str) -> None:  # type: ignore[misc]  # Serve awaits it
        keep_replica_on_loopback()
        config = NetworkConfig.load(Path(config_path))
        fleet: FleetSnapshot = await find(REGISTRY).snapshot.remote()
        self._desk = RayDesk(
            fleet=fleet,
            relay=f"http://{config.relay}",
            ticket_key=read_secret(config.ticket_key),
            channels=config.channels,
            books=config.books,
            network_id=config.chain.network_id,
        )
        self._following = asyncio.create_task(follow_fleet(self._desk.take, version=fleet.version))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._desk)

    async def check_health(self) -> None:
        """Serve replaces a replica whose snapshots stopped coming."""
        if self._following.done():
            self._following.result()
            raise RuntimeError("the fleet is not followed any more")
