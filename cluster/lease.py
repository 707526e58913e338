"""Planning a lease: which hosts a client may use, for how much, until when. Pure."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from attestation.verdict import Tier
from billing.grant import Grant, HostSlice
from billing.lease_request import LeaseRequest, lease_request_bytes
from billing.money import Nanotons
from cluster.errors import (
    LeaseRequestError,
    NoEligibleHostError,
    OperatorClosedError,
    StaleRequestError,
    UnknownModelError,
)
from cluster.fleet import FleetSnapshot, HostRecord
from cluster.fleet_index import FleetIndex
from cluster.model import JobRequirement, ModelOffer
from cluster.scheduler import choose, explain

LEASE_S = 600
FRESHNESS_S = 60  # how far a request's time may be from ours, both ways
BUDGET_MIN = 1_000  # nanotons; below this not even one token of anything sensible fits
_LEASE_TAG = b"chrysalis/1 lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePlan:
    """A lease that may be granted once the money is held."""

    grant: Grant
    model: ModelOffer
    candidates: tuple[HostRecord, ...]  # in the order the client should try them


def lease_id(request: LeaseRequest) -> bytes:
    """The lease this signed request asks for, 16 bytes: the same request again names the same lease."""
    return sha256(_LEASE_TAG + lease_request_bytes(request)).digest()[:16]


def check_fresh(issued_at: int, *, now: datetime) -> None:
    """Raise StaleRequestError when a request that was signed at `issued_at` is older or newer than FRESHNESS_S."""
    age = int(now.timestamp()) - issued_at
    if abs(age) > FRESHNESS_S:
        raise StaleRequestError(
            f"the request is {age} s old, at most {FRESHNESS_S} s either way is accepted: check the clock, sign anew"
        )


def plan_lease(request: LeaseRequest, fleet: FleetSnapshot, *, now: datetime) -> LeasePlan:
    """Choose hosts for a verified request and divide its budget among them.

    The slices sum to the budget; each host may earn only its own, so that no two hosts can spend the same money.

    Raises:
        StaleRequestError: not of this minute.
        OperatorClosedError: governance lets the operator take no new leases.
        LeaseRequestError: of an unknown tier, or with too small a budget.
        UnknownModelError: the registry does not list the model.
        NoEligibleHostError: no host fits; it names the rule that each lost.
    """
    check_fresh(request.issued_at, now=now)
    if fleet.closed:
        raise OperatorClosedError(fleet.closed)
    model = fleet.model(request.model)
    if model is None:
        raise UnknownModelError(request.model, tuple(offer.name for offer in fleet.models))
    if request.budget < BUDGET_MIN:
        raise LeaseRequestError(f"a budget of {request.budget} nanoton is too small: at least {BUDGET_MIN} is needed")
    requirement = _requirement(request, model)
    lease = lease_id(request)
    outlasting = replace(requirement, duration_s=LEASE_S)  # rather hosts whose maintenance begins after it
    placements = choose(outlasting, fleet, now=now, salt=lease) or choose(requirement, fleet, now=now, salt=lease)
    if not placements:
        losses = explain(requirement, fleet, now=now)
        raise NoEligibleHostError(model.name, tuple((loss.name, str(loss)) for loss in losses))
    slices = split_budget(request.budget, len(placements))
    grant = Grant(
        lease=lease,
        account=request.account,
        operator=request.operator,
        model_root=model.root,
        tariff=model.tariff,
        hosts=tuple(
            HostSlice(host_id=placement.host_id, slice=part, coefficient=placement.coefficient)
            for placement, part in zip(placements, slices, strict=True)
        ),
        not_after=int((now + timedelta(seconds=LEASE_S)).timestamp()),
        review=requirement.tier is Tier.OPEN,
    )
    return LeasePlan(grant=grant, model=model, candidates=candidates_of(grant, fleet))


def check_ordered(grant: Grant, request: LeaseRequest) -> None:
    """Check that a grant costs its account no more than the account signed for, verified before.

    Raises:
        LeaseRequestError: it is for another lease or account, goes beyond the budget, hosts or time asked for, or its
            receipts would be reviewed although attested hosts were asked for, or the other way round.
    """
    if (grant.lease, grant.account) != (lease_id(request), request.account):
        raise LeaseRequestError("the grant is not for the lease that the client signed for")
    if grant.review != (_tier(request.tier) is Tier.OPEN):
        raise LeaseRequestError(f"the client asked for tier {request.tier}: receipts are reviewed of open hosts only")
    latest = request.issued_at + FRESHNESS_S + LEASE_S
    if grant.amount > request.budget or len(grant.hosts) > request.hosts or grant.not_after > latest:
        raise LeaseRequestError(
            f"the grant is for {grant.amount} nanoton, {len(grant.hosts)} hosts, until {grant.not_after}; the client "
            f"signed for {request.budget} nanoton, {request.hosts} hosts, until {latest} at most"
        )


def candidates_of(grant: Grant, fleet: FleetSnapshot) -> tuple[HostRecord, ...]:
    """The grant's hosts that the fleet still knows, in the grant's order."""
    index = FleetIndex.of(fleet)
    found = (index.host(part.host_id) for part in grant.hosts)
    return tuple(host for host in found if host is not None)


def split_budget(budget: Nanotons, parts: int) -> tuple[Nanotons, ...]:
    """Divide a budget into equal slices that sum to it; the first ones get the odd nanotons."""
    share, rest = divmod(budget, parts)
    return tuple(Nanotons(share + (1 if index < rest else 0)) for index in range(parts))


def expires_at(grant: Grant) -> datetime:
    """When the lease ends, UTC."""
    return datetime.fromtimestamp(grant.not_after, tz=UTC)


def _requirement(request: LeaseRequest, model: ModelOffer) -> JobRequirement:
    """What the hosts of a lease must be. Copies of one unit go to open hosts of different owners, nowhere else."""
    tier = _tier(request.tier)
    apart = tier is Tier.OPEN
    return JobRequirement(
        model=model.root, tier=tier, tier_exact=apart, owners_distinct=apart, hosts=request.hosts, loaded=True
    )


def _tier(name: str) -> Tier:
    try:
        return Tier(name)
    except ValueError:
        raise LeaseRequestError(f"tier {name!r} does not exist: ask for one of {', '.join(Tier)}") from None
