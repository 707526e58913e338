"""The head's side of joining: evidence first, then a certificate and Ray's token, then the host's orders.

Everything here is plain asyncio; registry and Ray are behind two small protocols, and time and nonces are arguments.
Nobody is trusted before (3): what is checked earlier is cheap, and how often it may be asked is limited.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.admission import Admission
from cluster.capability import Capability
from cluster.certificates import Authority, parse_ip
from cluster.errors import ConfigError, JoinLaterError, JoinRefusedError
from cluster.fleet import HostRecord, Window
from cluster.join_checks import check_accepted, check_hints, check_peer, check_proof, check_request, check_worth
from cluster.join_messages import (
    CertificateRequest,
    ChallengeRequest,
    Credentials,
    Order,
    OrderRequest,
    check_clock,
    malformed,
)
from cluster.model import HostHints
from cluster.rate_limit import Buckets, Rate
from cluster.relay import parse_address

LEAVING = "its owner takes it out"  # why a host drains; this window is lifted when it binds again
PENDING_MAX = 256
PENDING_S = 60.0
CHALLENGES_MAX = 8  # at the same time: each is an appraisal of some ten milliseconds, and an answer to wait for
BINDINGS_MAX = 4
PEERS_MAX = 4096
CHALLENGE_RATE = Rate(burst=6, period_s=10.0)  # of one address
ALL_CHALLENGES_RATE = Rate(burst=60, period_s=1.0)  # of everybody together
ORDER_RATE = Rate(burst=60, period_s=1.0)  # of one address: other requests than for a challenge
_log = logging.getLogger(__name__)


class Members(Protocol):
    """The registry, as joining needs it; see cluster.registry."""

    async def examine(self, address: str, hints: HostHints) -> Admission:
        """Challenge and appraise the enclave at an address; it is not in yet."""
        ...

    async def take_in(self, host_id: bytes, address: str) -> Admission | None:
        """Take in a host that was examined and that signed for the address; None: examine it anew."""
        ...

    async def routed(self, host_id: bytes) -> HostRecord | None:
        """The active or draining host of this id."""
        ...

    async def records(self, host_id: bytes) -> tuple[HostRecord, ...]:
        """The records of this id, whatever their state: one for each address."""
        ...

    async def plan(self, host_id: bytes, window: Window | None) -> HostRecord:
        """Announce or call off maintenance."""
        ...

    async def leave(self, host_id: bytes, reason: str) -> None:
        """Let a host go."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNode:
    """A Ray node that is alive."""

    node_id: str
    labels: Mapping[str, str]


class Nodes(Protocol):
    """Ray, as joining needs it."""

    async def find(self, name: str, ip: str) -> FoundNode | None:
        """The node of this name that is alive at this address."""
        ...

    async def bind(self, host_id: bytes, node_id: str, control: str) -> None:
        """Start the host's actor on its node, which proves that it runs beside the enclave."""
        ...

    async def release(self, host_id: bytes) -> None:
        """End the host's actor."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuing:
    """What the head hands out, read from its files when it is needed."""

    authority: Callable[[], Authority]  # the joining CA
    token: Callable[[], str]
    life: timedelta  # of a certificate
    ray_address: str
    settings: Mapping[str, str]
    note: Callable[[str, datetime, datetime], None]  # an address that gets a certificate, from when until when


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    capability: Capability
    address: str
    peer: str
    began: datetime


class JoinDesk:
    """Answers hosts that join. `peer` is the IP address that a request comes from."""

    def __init__(
        self,
        members: Members,
        nodes: Nodes,
        issuing: Issuing,
        *,
        pin: bytes,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
    ) -> None:
        self._members, self._nodes, self._issuing, self._pin = members, nodes, issuing, pin
        self._clock, self._random = clock, random
        self._pending: dict[bytes, _Pending] = {}
        self._challenges, self._bindings = asyncio.Semaphore(CHALLENGES_MAX), asyncio.Semaphore(BINDINGS_MAX)
        self._challenge_rate = Buckets(CHALLENGE_RATE, askers_max=PEERS_MAX)
        self._all_rate = Buckets(ALL_CHALLENGES_RATE, askers_max=1)
        self._order_rate = Buckets(ORDER_RATE, askers_max=PEERS_MAX)

    async def challenge(self, peer: str, body: bytes) -> tuple[bytes, bytes]:
        """(1) cheap checks (2) the registry challenges the enclave (3) what its evidence says must be enough to join.

        Returns:
            Host id (8 bytes) and a nonce (32 bytes) for `certify`.

        Raises:
            JoinRefusedError: asked, and no.
            JoinLaterError: too much at once, or the enclave does not answer.
        """
        self._take(self._challenge_rate, peer)  # (1)
        request, began = ChallengeRequest.parse(body), self._clock()
        check_peer(request.ip, peer)
        check_clock(request.time, now=began)
        self._take(self._all_rate, "")
        self._pending = {nonce: one for nonce, one in self._pending.items() if self._age_s(one) <= PENDING_S}
        if self._challenges.locked() or len(self._pending) >= PENDING_MAX:
            raise JoinLaterError("try_again", "many hosts join now: try again in a few seconds")
        async with self._challenges:  # (2)
            hints = HostHints(name=request.name, labels=tuple(request.labels.items()))
            admission = await self._members.examine(request.address, hints)
        capability = check_accepted(admission)
        check_worth(capability)  # (3)
        check_hints(request.labels, capability)
        nonce = self._random(32)
        self._pending[nonce] = _Pending(capability=capability, address=request.address, peer=peer, began=began)
        return capability.host_id, nonce

    async def certify(self, peer: str, body: bytes) -> Credentials:
        """(1) our nonce, once (2) the enclave's word for key and address (3) for this machine (4) sign (5) take it in.

        Nobody is in before (5), so there is nothing to undo for who does not come so far.

        Raises:
            JoinRefusedError, JoinLaterError: as `challenge`; also when the host is at another address too.
        """
        self._take(self._order_rate, peer)
        request = CertificateRequest.parse(body)
        pending = self._pending.pop(request.nonce, None)  # (1)
        if pending is None or pending.peer != peer or self._age_s(pending) > PENDING_S:
            raise JoinRefusedError(
                "unknown_challenge", "no challenge with this nonce is open for this address: ask for a new one"
            )
        key = check_request(request, pending.capability, address=pending.address, pin=self._pin)  # (2), (3)
        credentials = self._sign(key, peer)  # (4)
        admission = await self._members.take_in(pending.capability.host_id, pending.address)  # (5)
        if admission is None:
            raise JoinLaterError("try_again", "the registry began anew or has new terms: ask for another challenge")
        check_accepted(admission)
        return credentials

    async def order(self, peer: str, order: Order, body: bytes) -> str:
        """Carry out what a host that joined asks for; returns the id of its Ray node, or nothing.

        Raises:
            JoinRefusedError: asked, and no.
            JoinLaterError: to bind: its Ray node is not alive yet.
        """
        self._take(self._order_rate, peer)
        request = OrderRequest.parse(body)
        check_clock(request.time, now=self._clock())
        record = await self._members.routed(request.host_id)
        if record is None or record.capability is None:
            raise JoinRefusedError("unknown_host", "the registry knows no such host in order: join first")
        check_peer(str(parse_address(record.address).ip), peer)
        check_proof(record.capability, request.statement(order, self._pin), request.proof)
        if order is Order.BIND:
            return await self._bind(record, record.capability, request, peer)
        if order is Order.DRAIN:
            window = Window(start=self._clock(), end=None, reason=LEAVING, forced=True)
            await self._members.plan(request.host_id, window)
        else:
            await self._members.leave(request.host_id, LEAVING)
            await self._nodes.release(request.host_id)
        return ""

    async def standing(self, peer: str, body: bytes) -> tuple[str, str]:
        """State and reason of the host at this address, whatever they are, for its owner to read; raises as `order`."""
        self._take(self._order_rate, peer)
        request = OrderRequest.parse(body)
        check_clock(request.time, now=self._clock())
        for record in await self._members.records(request.host_id):
            if record.capability is not None and parse_address(record.address).ip == parse_ip(peer):
                check_proof(record.capability, request.statement(Order.STANDING, self._pin), request.proof)
                return record.state.value, record.reason
        raise JoinRefusedError("unknown_host", f"the registry knows no such host at {peer}: join first")

    def time(self) -> int:
        """Unix seconds by the head's clock, for the host to compare."""
        return int(self._clock().timestamp())

    async def _bind(self, record: HostRecord, capability: Capability, request: OrderRequest, peer: str) -> str:
        if not request.node_name or not request.control:
            raise malformed("to bind, name the Ray node and the control socket")
        node = await self._nodes.find(request.node_name, peer)
        if node is None:
            raise JoinLaterError("node_not_alive", f"no Ray node {request.node_name} is alive at {peer} yet")
        check_hints(node.labels, capability)
        if self._bindings.locked():
            raise JoinLaterError("try_again", "many hosts join now: try again in a few seconds")
        async with self._bindings:
            await self._nodes.bind(request.host_id, node.node_id, request.control)
        if record.window is not None and record.window.reason == LEAVING:
            await self._members.plan(request.host_id, None)
        return node.node_id

    def _sign(self, key: ec.EllipticCurvePublicKey, ip: str) -> Credentials:
        now, issuing = self._clock(), self._issuing
        try:
            authority, token = issuing.authority(), issuing.token()
            certificate = authority.sign(key, ip, now=now, life=issuing.life)
            issuing.note(ip, now, certificate.not_valid_after_utc)
        except (ConfigError, OSError) as error:
            _log.error("nobody can join: %s; run `chrysalis cluster certs`", error)
            raise JoinLaterError("joining_closed", "the head cannot sign certificates now: tell the operator") from None
        chain = (certificate, authority.certificate)
        _log.info("a certificate for %s until %s", ip, certificate.not_valid_after_utc)
        return Credentials(
            certificate="".join(one.public_bytes(Encoding.PEM).decode() for one in chain),
            token=token,
            not_after=certificate.not_valid_after_utc,
            ray_address=issuing.ray_address,
            settings=issuing.settings,
        )

    def _age_s(self, pending: _Pending) -> float:
        return (self._clock() - pending.began).total_seconds()

    def _take(self, buckets: Buckets, peer: str) -> None:
        if wait_s := buckets.take(_asker(peer), now_s=self._clock().timestamp()):
            raise JoinLaterError("rate_limited", f"too many requests: wait {wait_s:.0f} s and try again")


def _asker(peer: str) -> str:
    """Who shares a bucket: one IPv4 address, or a network of /64, of which anybody has more addresses than we count."""
    if ":" not in peer:
        return peer
    return str(parse_ip(peer).exploded[:19])
