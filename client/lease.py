"""What the gateway grants, checked against what was asked for and what the registry says. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from billing.errors import BillingError
from billing.grant import Grant, verify_grant
from billing.lease_request import OPEN_TIER, LeaseRequest
from client.errors import LeaseMismatchError
from client.registry import ModelOffer

LEASE_AGE_MAX_S = 86_400
URL_SIZE_MAX = 512

_HOST_ID = re.compile(r"[0-9a-f]{16}")
_TICKET = re.compile(r"[A-Za-z0-9_.=-]{1,2048}")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]{1,256}(/[A-Za-z0-9._~/-]*)?")
_ADDRESS = re.compile(r"[A-Za-z0-9.\[\]:_-]{1,256}:[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One host the gateway offers: nothing but its id and how to reach it is taken from the gateway's word."""

    host_id: bytes  # 8
    url: str  # of the host behind the relay, or of the host itself; /sealed and /evidence follow
    ticket: str
    attested: bool = False  # the url is of the host's attested TLS: who answers there is verified in the handshake


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOffer:
    """A lease whose grant is genuine and says what was asked for. Its hosts are not verified yet."""

    model: ModelOffer
    grant: Grant
    signed_grant: bytes
    candidates: tuple[Candidate, ...]

    @property
    def ends_at(self) -> datetime:
        """When the last request of this lease may start."""
        return datetime.fromtimestamp(self.grant.not_after, tz=UTC)


def check_lease(
    answer: object,
    request: LeaseRequest,
    offers: Sequence[ModelOffer],
    *,
    coefficient_max: int,
    direct: bool,
    now: datetime,
) -> LeaseOffer:
    """Return the gateway's lease if it is what was asked for.

    (1) the grant is signed by the operator of the registry (2) it is for this account, at the price of one of the
    model's `offers` in the registry, and reviewed if open hosts were asked for, else not (3) it holds no
    more than the budget and ends in time (4) its hosts are as many as asked for at most, none too dear (5) every
    candidate is in the grant.

    Raises:
        LeaseMismatchError: it is not.
    """
    body = _mapping(answer, "the lease")
    signed = _unbase64(body.get("grant"))
    try:
        grant = verify_grant(signed, request.operator)  # (1)
    except BillingError as error:
        raise LeaseMismatchError(f"the lease has no grant of this registry's operator: {error}") from error
    model = _check_terms(grant, request, offers)  # (2)
    _check_limits(grant, request, coefficient_max, int(now.timestamp()))  # (3) (4)
    candidates = _read_candidates(body, direct=direct)
    named = {host.host_id for host in grant.hosts}
    if not {candidate.host_id for candidate in candidates} <= named:  # (5)
        raise LeaseMismatchError("the gateway offers a host that its grant does not name")
    return LeaseOffer(model=model, grant=grant, signed_grant=signed, candidates=candidates)


def _check_terms(grant: Grant, request: LeaseRequest, offers: Sequence[ModelOffer]) -> ModelOffer:
    if grant.account != request.account:
        raise LeaseMismatchError("the grant is for another account")
    if grant.review != (request.tier == OPEN_TIER):
        raise LeaseMismatchError(
            f"the grant is for {'open' if grant.review else 'attested'} hosts, asked for {request.tier}"
        )
    model = next((offer for offer in offers if offer.root == grant.model_root), None)
    if model is None:
        roots = " or ".join(offer.root.hex() for offer in offers)
        raise LeaseMismatchError(f"the grant is for model root {grant.model_root.hex()}, asked for {roots}")
    if grant.tariff != model.tariff:
        raise LeaseMismatchError(f"the grant's prices {grant.tariff} are not the registry's {model.tariff}")
    return model


def _check_limits(grant: Grant, request: LeaseRequest, coefficient_max: int, now: int) -> None:
    if grant.amount > request.budget:
        raise LeaseMismatchError(f"the grant holds {grant.amount} nanoton, the budget was {request.budget}")
    if not now < grant.not_after <= now + LEASE_AGE_MAX_S:
        raise LeaseMismatchError(f"the grant ends at {grant.not_after}, now is {now}")
    if len(grant.hosts) > request.hosts:
        raise LeaseMismatchError(f"the grant names {len(grant.hosts)} hosts, asked for {request.hosts}")
    dearest = max(host.coefficient for host in grant.hosts)
    if dearest > coefficient_max:
        raise LeaseMismatchError(
            f"a host asks {dearest} thousandths of the tariff, at most {coefficient_max} is allowed"
        )


def _read_candidates(body: Mapping[str, Any], *, direct: bool) -> tuple[Candidate, ...]:
    relay = body.get("relay")
    if not direct and (not isinstance(relay, str) or len(relay) > URL_SIZE_MAX or not _URL.fullmatch(relay)):
        raise LeaseMismatchError("the lease names no relay")
    listed = body.get("candidates")
    if not isinstance(listed, list):
        raise LeaseMismatchError("the lease lists no candidates")
    candidates = tuple(_read_candidate(_mapping(item, "a candidate"), relay, direct=direct) for item in listed)
    if not candidates or len({candidate.host_id for candidate in candidates}) != len(candidates):
        raise LeaseMismatchError("the lease lists no candidate, or one twice")
    return candidates


def _read_candidate(item: Mapping[str, Any], relay: object, *, direct: bool) -> Candidate:
    host_id, ticket, address = item.get("host_id"), item.get("ticket"), item.get("direct")
    if not isinstance(host_id, str) or not _HOST_ID.fullmatch(host_id):
        raise LeaseMismatchError("a candidate has no host id")
    if not isinstance(ticket, str) or not _TICKET.fullmatch(ticket):
        raise LeaseMismatchError(f"candidate {host_id} has no ticket")
    if not direct:
        return Candidate(host_id=bytes.fromhex(host_id), url=f"{str(relay).rstrip('/')}/h/{host_id}", ticket=ticket)
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise LeaseMismatchError(f"candidate {host_id} has no direct address: use the relay")
    return Candidate(host_id=bytes.fromhex(host_id), url=f"http://{address}", ticket=ticket)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise LeaseMismatchError(f"{what} is not a JSON object")
    return value


def _unbase64(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise LeaseMismatchError("the grant is not base64") from error
