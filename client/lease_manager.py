"""Leases in use: their hosts verified before anything is sealed to them, the next one taken before they are used up."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from attestation.sealing import Random
from attestation.session import SessionSender
from attestation.verdict import Tier, Verdict
from attestation.xwing import Recipient
from billing.lease_request import LeaseRequest, sign_lease_request
from billing.money import Nanotons
from billing.receipt import Receipt
from billing.ton.registry import Operator
from client.channel import ChannelPayer
from client.errors import GatewayError, LeaseRefusedError, NoHostError
from client.lease import Candidate, LeaseOffer, check_lease
from client.lease_ahead import LeasesAhead
from client.registry import ModelOffer, Registry
from client.transport import HostUnreachableError, Transport
from client.verify import HostUnverifiedError, Verifier
from client.wallet import Wallet

RENEW_BEFORE = timedelta(seconds=30)
NEW_FOR = timedelta(seconds=10)
USED_MAX = 4096  # hosts whose use is remembered
UNREACHABLE_S = 5  # how long a host that gave no answer is tried last
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedHost:
    """A host of a lease that this client has verified itself."""

    candidate: Candidate
    verdict: Verdict

    @property
    def id(self) -> bytes:
        """The host id, 8 bytes."""
        return self.candidate.host_id

    @property
    def name(self) -> str:
        """The host id in hex."""
        return self.candidate.host_id.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease with the hosts that hold, and the sender that seals to exactly those."""

    offer: LeaseOffer
    hosts: tuple[LeasedHost, ...]
    sender: SessionSender
    taken_at: datetime
    ends_at: datetime  # of the grant, or of the first verdict that ends
    refused: dict[str, str] = field(default_factory=dict)  # host id -> why it is not among the hosts
    alone: Mapping[bytes, SessionSender] = field(default_factory=dict)  # open hosts: a sender that seals to each alone

    def only(self, host: LeasedHost) -> Lease:
        """Return the lease as if it had this open host alone: a copy is sealed to nobody else."""
        return replace(self, hosts=(host,), sender=self.alone[host.id], refused={})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """What the client asks for in every lease."""

    gateway: str  # empty: the operator's endpoints in the registry
    direct: bool
    tls: bool
    hosts: int
    budget: Nanotons
    coefficient_max: int
    avoid_s: int
    tier: Tier


class LeaseManager:
    """Gives out the current lease of a model."""

    def __init__(
        self,
        terms: LeaseTerms,
        wallet: Wallet,
        registry: Registry,
        verifier: Verifier,
        transport: Transport,
        *,
        clock: Callable[[], datetime],
        random: Random,
        payer: ChannelPayer | None = None,
        background: set[asyncio.Task[None]],
    ) -> None:
        """`payer` pays by vouchers; without one, leases are paid from what was deposited in the operator's treasury.

        `background` gets the tasks that take leases in advance: whoever closes the transport cancels them first.
        """
        self._terms, self._wallet, self._registry = terms, wallet, registry
        self._verifier, self._transport = verifier, transport
        self._clock, self._random, self._payer = clock, random, payer
        self._leases: dict[str, Lease] = {}
        self._ahead = LeasesAhead(clock=clock, random=random, background=background)
        self._paid: dict[tuple[bytes, bytes], int] = {}  # by lease in use and host: nanotons, by verified receipts
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._avoided: dict[bytes, datetime] = {}
        self._unreachable: dict[bytes, datetime] = {}
        self._running: defaultdict[bytes, int] = defaultdict(int)
        self._used: defaultdict[bytes, int] = defaultdict(int)

    async def current(self, model: str, *, instead_of: Lease | None = None) -> Lease:
        """Return a lease for the model; never `instead_of`, which the caller found used up.

        Raises:
            ClientError: the registry is not readable or names no operator that is meant, the gateway gives no lease, or
                no host of it holds.
        """
        view = self._registry.view()
        offers, operator = view.offers_of(model), view.operator()
        self._verifier.use_reference(view.reference, view.log)

        def is_fresh(offer: LeaseOffer) -> bool:
            return self._is_fresh(offer, offers, operator)

        async with self._locks[model]:
            lease = self._leases.get(model)
            if lease is not None and lease is not instead_of and is_fresh(lease.offer):
                if self._is_half_used(lease):
                    self._ahead.begin(model, lambda: self._take(operator, offers), is_fresh=is_fresh)
                if self._is_usable(lease):
                    return lease
                lease = await self._verify_hosts(lease.offer, lease.taken_at)
            elif (taken := await self._ahead.pop(model, is_fresh=is_fresh)) is not None:
                lease = await self._verify_hosts(*taken)
            else:
                lease = await self._verify_hosts(await self._take(operator, offers), self._clock())
            if not lease.hosts:
                self._leases.pop(model, None)
                raise NoHostError(model, lease.refused)
            self._leases[model] = lease
            in_use = {one.offer.grant.lease for one in self._leases.values()}
            self._paid = {key: paid for key, paid in self._paid.items() if key[0] in in_use}
            return lease

    async def verify_again(self, offer: LeaseOffer) -> Lease:
        """Return a lease taken earlier, perhaps by a process that is no more, with those hosts that hold now.

        Raises:
            ClientError: the registry is not readable, or no host of it holds.
        """
        view = self._registry.view()
        self._verifier.use_reference(view.reference, view.log)
        lease = await self._verify_hosts(offer, self._clock())
        if not lease.hosts:
            raise NoHostError(offer.model.name, lease.refused)
        return lease

    def in_order(self, lease: Lease) -> Iterable[LeasedHost]:
        """Return the hosts to try: least busy first, then the one used least; those that gave no answer lately last."""
        now = self._clock()
        usable = [host for host in lease.hosts if not self._is_avoided(host.id)]
        return sorted(
            usable,
            key=lambda host: (
                self._is_unreachable(host.id, now),
                self._running.get(host.id, 0),
                self._used.get(host.id, 0),
            ),
        )

    def paid(self, receipt: Receipt) -> None:
        """Count what a verified receipt takes from its host's slice of the lease."""
        key = receipt.lease, receipt.host_id
        self._paid[key] = self._paid.get(key, 0) + receipt.price

    def is_new(self, lease: Lease) -> bool:
        """Tell whether the gateway named these hosts so lately that it would name no others now."""
        return self._clock() - lease.taken_at < NEW_FOR

    def started(self, host: LeasedHost) -> None:
        """Count a request that is on its way to a host, or runs there."""
        if len(self._used) > USED_MAX:
            self._used.clear()
        self._running[host.id] += 1
        self._used[host.id] += 1

    def ended(self, host: LeasedHost) -> None:
        """Count it no longer."""
        self._running[host.id] -= 1
        if self._running[host.id] <= 0:
            del self._running[host.id]

    def avoid(self, host_id: bytes, why: str) -> None:
        """Seal nothing to this host for a while: it cheated or could not prove itself."""
        _log.warning("host %s is avoided for %d s: %s", host_id.hex(), self._terms.avoid_s, why)
        self._avoided[host_id] = self._clock() + timedelta(seconds=self._terms.avoid_s)

    def unreachable(self, host_id: bytes) -> None:
        """Try this host last for some seconds."""
        self._unreachable[host_id] = self._clock() + timedelta(seconds=UNREACHABLE_S)

    def _is_avoided(self, host_id: bytes) -> bool:
        return self._avoided.get(host_id, self._clock()) > self._clock()

    def _is_fresh(self, offer: LeaseOffer, offers: Sequence[ModelOffer], operator: Operator) -> bool:
        same = offer.model in offers and offer.grant.operator == operator.terms.public_key
        return same and offer.ends_at > self._clock() + RENEW_BEFORE

    def _is_unreachable(self, host_id: bytes, now: datetime) -> bool:
        return self._unreachable.get(host_id, now) > now

    def _is_half_used(self, lease: Lease) -> bool:
        """Half of its time is over, or half of its budget is used or held for hosts that do not answer."""
        now, grant = self._clock(), lease.offer.grant
        answering = {host.id for host in lease.hosts if not self._is_unreachable(host.id, now)}
        slices = (one for one in grant.hosts if one.host_id in answering)
        left = sum(one.slice - self._paid.get((grant.lease, one.host_id), 0) for one in slices)
        return now >= lease.taken_at + (lease.offer.ends_at - lease.taken_at) / 2 or 2 * left <= grant.amount

    def _is_usable(self, lease: Lease) -> bool:
        return lease.ends_at > self._clock() + RENEW_BEFORE and all(
            not self._is_avoided(host.id) and self._verifier.held(host.id) is not None for host in lease.hosts
        )

    async def _take(self, operator: Operator, offers: Sequence[ModelOffer]) -> LeaseOffer:
        now, terms = self._clock(), self._terms
        request = LeaseRequest(
            operator=operator.terms.public_key,
            account=self._wallet.account,
            model=offers[0].name,
            tier=terms.tier.value,
            hosts=terms.hosts,
            budget=terms.budget,
            request_id=self._random(16),
            issued_at=int(now.timestamp()),
        )
        order = sign_lease_request(request, self._wallet.key)
        gateways = (terms.gateway,) if terms.gateway else operator.terms.endpoints

        async def send(more: Mapping[str, object]) -> object:
            return await self._ask(gateways, {**order, **more})

        answer = await (send({}) if self._payer is None else self._payer.pay(operator, request, send))
        lease = check_lease(
            answer, request, offers, coefficient_max=terms.coefficient_max, direct=terms.direct, now=self._clock()
        )
        if self._payer is not None:
            self._payer.granted(request, lease.grant)
        return lease

    async def _ask(self, gateways: Sequence[str], order: Mapping[str, Any]) -> object:
        """Ask the first gateway that answers; a refusal is an answer, and the same order books one lease at most."""
        for gateway in gateways[:-1]:
            try:
                return await self._transport.take_lease(gateway, order)
            except LeaseRefusedError:
                raise
            except GatewayError as error:
                _log.warning("%s; the operator's next gateway is asked", error)
        return await self._transport.take_lease(gateways[-1], order)

    async def _verify_hosts(self, offer: LeaseOffer, taken_at: datetime) -> Lease:
        """Verify every candidate and make a sender for those that hold, with new sessions."""
        results = await asyncio.gather(*(self._verify_host(candidate, offer) for candidate in offer.candidates))
        hosts = tuple(result for result in results if isinstance(result, LeasedHost))
        return Lease(
            offer=offer,
            hosts=hosts,
            sender=self._sender(offer, hosts),
            alone={host.id: self._sender(offer, [host]) for host in hosts} if offer.grant.review else {},
            taken_at=taken_at,
            ends_at=min([offer.ends_at, *(host.verdict.not_after for host in hosts)]),
            refused={
                candidate.host_id.hex(): result
                for candidate, result in zip(offer.candidates, results, strict=True)
                if isinstance(result, str)
            },
        )

    def _sender(self, offer: LeaseOffer, hosts: Sequence[LeasedHost]) -> SessionSender:
        return SessionSender(
            model=offer.model.root,
            lease=offer.grant.lease,
            expires=offer.grant.not_after,
            grant=offer.signed_grant,
            account_key=self._wallet.key,
            recipients=[Recipient(host.id, host.verdict.hpke) for host in hosts],
            random=self._random,
        )

    async def _verify_host(self, candidate: Candidate, offer: LeaseOffer) -> LeasedHost | str:
        if self._is_avoided(candidate.host_id):
            return "it is avoided for what it did before"

        async def fetch(nonce: bytes) -> bytes:
            return await self._transport.fetch_evidence(candidate, nonce)

        try:
            if self._terms.tls:
                candidate = await self._transport.find_attested(candidate)
            verdict = await self._verifier.verdict(candidate.host_id, offer.model.root, fetch)
        except HostUnverifiedError as error:
            self.avoid(candidate.host_id, error.why)
            return error.why
        except HostUnreachableError as error:
            self.unreachable(candidate.host_id)
            return f"no evidence: {error}"
        if (verdict.tier is Tier.OPEN) != offer.grant.review:
            return f"it is {verdict.tier}, and the grant is for {'open' if offer.grant.review else 'attested'} hosts"
        return LeasedHost(candidate=candidate, verdict=verdict)
