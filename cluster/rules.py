"""The rules of placement, each a sentence when it is lost. One table: deciding and explaining read the same."""

from collections.abc import Callable, Hashable, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from attestation.transcript import CcState
from cluster.capability import Capability
from cluster.fleet import HostRecord, HostState
from cluster.model import GPU_MEMORY, LOCATION, JobRequirement, Loss

Rule = Callable[[HostRecord, Capability, JobRequirement], str]  # "" when it holds, else what was seen and wanted
TimedRule = Callable[[HostRecord, Capability, JobRequirement, datetime], str]


class Profile(NamedTuple):
    """Everything that the rules of `SHARED` look at: hosts of one profile win or lose them together."""

    facts: Hashable
    models: frozenset[bytes]
    loaded: frozenset[bytes]
    labels: tuple[str, str]


def proved_facts(capability: Capability) -> Hashable:
    """The part of a profile that comes from evidence and changes only with it."""
    gpus = capability.gpus
    kinds = frozenset(gpu.model for gpu in gpus)
    cc = all(gpu.cc is CcState.ON for gpu in gpus)
    return capability.tier, capability.tee, capability.tcb_status, len(gpus), kinds, cc


def profile_of(host: HostRecord, capability: Capability, facts: Hashable) -> Profile:
    """The profile of a host; `facts` are its `proved_facts`."""
    loaded = host.load.models if host.load.ready else frozenset()
    labels = (host.hints.label(LOCATION), host.hints.label(GPU_MEMORY)) if host.hints.labels else ("", "")
    return Profile(facts=facts, models=capability.models, loaded=loaded, labels=labels)


def first_loss(host: HostRecord, requirement: JobRequirement, *, now: datetime) -> Loss | None:
    """The first rule this host loses; None when it may do the job."""
    capability = host.capability
    if host.state is not HostState.ACTIVE or capability is None:
        return lost(host, "state", f"it is {host.state}: {host.reason}")
    return first_shared_loss(host, capability, requirement) or first_own_loss(host, capability, requirement, now=now)


def first_shared_loss(host: HostRecord, capability: Capability, requirement: JobRequirement) -> Loss | None:
    """The first rule that this host and all others of its profile lose."""
    for name, rule in SHARED:
        if detail := rule(host, capability, requirement):
            return lost(host, name, detail)
    return None


def first_own_loss(
    host: HostRecord, capability: Capability, requirement: JobRequirement, *, now: datetime
) -> Loss | None:
    """The first rule about time, price, load and owner that an active host loses."""
    for name, rule in OWN:
        if detail := rule(host, capability, requirement, now):
            return lost(host, name, detail)
    return None


def summary(losses: Iterable[Loss]) -> str:
    """Losses in one sentence: how many hosts lost each rule, with one of them as an example."""
    counts: dict[str, int] = {}
    examples: dict[str, Loss] = {}
    for loss in losses:
        counts[loss.rule] = counts.get(loss.rule, 0) + 1
        examples.setdefault(loss.rule, loss)
    if not counts:
        return "no host has joined yet"
    words = (
        f"{count} of them by {rule} ({examples[rule].name}: {examples[rule].detail})" for rule, count in counts.items()
    )
    return f"{sum(counts.values())} hosts do not take it, {', '.join(words)}"


def lost(host: HostRecord, rule: str, detail: str) -> Loss:
    """A loss of this host, for people."""
    return Loss(host_id=host.host_id, name=host.label, rule=rule, detail=detail)


def _tier(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if requirement.tier_exact and capability.tier is not requirement.tier:
        return f"it is {capability.tier}, only {requirement.tier} is wanted"
    if capability.tier.satisfies(requirement.tier):
        return ""
    return f"it is {capability.tier}, {requirement.tier} is required"


def _tee(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if not requirement.tees or capability.tee in requirement.tees:
        return ""
    return f"it has {capability.tee or 'no TEE'}, wanted {' or '.join(sorted(requirement.tees))}"


def _tcb(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if not requirement.tcb_statuses or capability.tcb_status in requirement.tcb_statuses:
        return ""
    return f"its firmware is {capability.tcb_status}, wanted {' or '.join(sorted(requirement.tcb_statuses))}"


def _gpus(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if len(capability.gpus) >= requirement.gpus_min:
        return ""
    return f"it proved {len(capability.gpus)} GPUs, {requirement.gpus_min} are required"


def _gpu_model(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    wanted = requirement.gpu_models
    others = sorted({gpu.model for gpu in capability.gpus} - wanted)
    if not wanted or (capability.gpus and not others):
        return ""
    return f"it has {' and '.join(others) or 'no GPU'}, wanted only {' or '.join(sorted(wanted))}"


def _gpu_cc(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if not requirement.gpu_cc or (capability.gpus and all(gpu.cc is CcState.ON for gpu in capability.gpus)):
        return ""
    return "not every GPU proved confidential computing, or it has none"


def _model(_: HostRecord, capability: Capability, requirement: JobRequirement) -> str:
    if requirement.model is None or requirement.model in capability.models:
        return ""
    return "its evidence does not name the model"


def _loaded(host: HostRecord, _: Capability, requirement: JobRequirement) -> str:
    if not requirement.loaded or (host.load.ready and requirement.model in host.load.models):
        return ""
    return "it has not loaded the model"


def _location(host: HostRecord, _: Capability, requirement: JobRequirement) -> str:
    wanted, said = requirement.declared_location, host.hints.label(LOCATION)
    if not wanted or said == wanted:
        return ""
    return f"its owner says {said or 'nothing'} about where it is, wanted {wanted}"


def _gpu_memory(host: HostRecord, _: Capability, requirement: JobRequirement) -> str:
    wanted, said = requirement.declared_gpu_memory_gib, host.hints.label(GPU_MEMORY)
    if not wanted or (said.isascii() and said.isdigit() and len(said) < 7 and int(said) >= wanted):
        return ""
    return f"its owner says {said[:16] or 'nothing'} about GPU memory, wanted {wanted} GiB"


def _evidence(_: HostRecord, capability: Capability, requirement: JobRequirement, now: datetime) -> str:
    if not capability.valid_at(now):
        return f"it expired at {capability.not_after:%H:%M:%S} UTC"
    age, limit = now - capability.verified_at, requirement.evidence_age_max_s
    if limit is not None and age > timedelta(seconds=limit):
        return f"it was verified {age.total_seconds():.0f} s ago, at most {limit} s are accepted"
    return ""


def _maintenance(host: HostRecord, _: Capability, requirement: JobRequirement, now: datetime) -> str:
    window = host.window
    if window is None or window.over(now) or now + timedelta(seconds=requirement.duration_s) < window.start:
        return ""
    if not requirement.duration_s:
        return ""  # active although it has begun: it waits for another host, and serves until then
    return f"its maintenance begins at {window.start:%H:%M:%S} UTC: {window.reason}"


def _price(host: HostRecord, _: Capability, requirement: JobRequirement, __: datetime) -> str:
    if host.hints.coefficient <= requirement.coefficient_max:
        return ""
    return f"its owner asks {host.hints.coefficient}/1000 of the tariff, at most {requirement.coefficient_max} is paid"


def _queue(host: HostRecord, _: Capability, requirement: JobRequirement, __: datetime) -> str:
    if requirement.depth_max is None or host.load.depth <= requirement.depth_max:
        return ""
    return f"{host.load.depth} requests are before it, at most {requirement.depth_max} are accepted"


def _owner(_: HostRecord, capability: Capability, requirement: JobRequirement, __: datetime) -> str:
    return "its owner is avoided" if capability.payee in requirement.owners_avoided else ""


SHARED: tuple[tuple[str, Rule], ...] = (
    ("tier", _tier),
    ("tee", _tee),
    ("tcb", _tcb),
    ("gpus", _gpus),
    ("gpu model", _gpu_model),
    ("gpu cc", _gpu_cc),
    ("model", _model),
    ("loaded", _loaded),
    ("location", _location),
    ("gpu memory", _gpu_memory),
)
OWN: tuple[tuple[str, TimedRule], ...] = (
    ("evidence", _evidence),
    ("price", _price),
    ("maintenance", _maintenance),
    ("queue", _queue),
    ("owner", _owner),
)
