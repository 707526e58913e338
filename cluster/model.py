"""The values that cluster decisions are made of: what a job needs, what a host reports, where work goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attestation.verdict import TeeKind, Tier
from billing.tariff import COEFFICIENT_MAX, COEFFICIENT_ONE, Tariff, check_coefficient

ROOT_BYTES = 32
NAME_LENGTH_MAX = 128
COUNT_MAX = 1 << 62
LOADED_MAX = 64  # models one host may report: every snapshot carries them
LOCATION, GPU_MEMORY = "location", "gpu-memory-gib"  # labels that requirements can ask for
_HEALTH_COUNTS = ("running", "waiting", "served", "failed", "abandoned", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOffer:
    """One model as the on-chain registry offers it."""

    root: bytes  # SHA-256 manifest root, 32 bytes
    name: str
    tariff: Tariff
    context: int  # tokens, prompt and answer together

    def __post_init__(self) -> None:
        if len(self.root) != ROOT_BYTES:
            raise ValueError(f"model root of {len(self.root)} bytes, want {ROOT_BYTES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHints:
    """What an owner says about a host. Shown to people and used as an asking price, never as a proof."""

    name: str = ""
    coefficient: int = COEFFICIENT_ONE  # least price the owner accepts, parts per thousand of the tariff
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_coefficient(self.coefficient)
        if len(self.name) > NAME_LENGTH_MAX or len(self.labels) > 32:
            raise ValueError(f"a host name has at most {NAME_LENGTH_MAX} characters and a host 32 labels")

    def label(self, name: str) -> str:
        """What the owner says under this name; empty when nothing."""
        return next((value for key, value in self.labels if key == name), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an enclave reports about its work, once a second. Unsigned: it orders hosts, it never admits one."""

    ready: bool = False
    loading: bool = False  # a model
    running: int = 0
    waiting: int = 0
    served: int = 0
    failed: int = 0
    abandoned: int = 0  # by the client
    output_tokens: int = 0
    models: frozenset[bytes] = field(default_factory=frozenset)  # loaded now

    @classmethod
    def from_health(cls, health: Mapping[str, Any]) -> "Load":
        """Read the JSON object of GET /health. ValueError when a field is missing or not what it should be."""
        try:
            counts = {name: health[name] for name in _HEALTH_COUNTS}
            ready, loading = health["ready"], health["loading"]
            models = frozenset(bytes.fromhex(root) for root in health["models"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"malformed health answer: {error}") from error
        if any(type(count) is not int or not 0 <= count <= COUNT_MAX for count in counts.values()):
            raise ValueError("health counters must be non-negative integers")
        if type(ready) is not bool or type(loading) is not bool:
            raise ValueError("health: ready and loading must be true or false")
        if len(models) > LOADED_MAX or any(len(root) != ROOT_BYTES for root in models):
            raise ValueError(f"health: models are at most {LOADED_MAX} hex roots of 32 bytes")
        return cls(ready=ready, loading=loading, models=models, **counts)

    @property
    def depth(self) -> int:
        """Requests the enclave has taken and not answered."""
        return self.running + self.waiting

    @property
    def ended(self) -> int:
        """Requests that came to an end of any kind since the enclave started."""
        return self.served + self.failed + self.abandoned


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequirement:
    """What a job asks of a host.

    Everything is compared with attested facts, except the asking price, the load, and the two that say `declared`: who
    asks for those takes the owner's word. `location` only orders.
    """

    model: bytes | None = None  # manifest root, 32 bytes; None: a job that brings no model
    tier: Tier = Tier.CONFIDENTIAL  # the least; nothing falls back below it
    tier_exact: bool = False  # no better tier either
    tees: frozenset[TeeKind] = frozenset()  # empty: any
    tcb_statuses: frozenset[str] = frozenset()  # words as in a verdict, "UpToDate"; empty: what admission accepts
    evidence_age_max_s: int | None = None  # how long ago the evidence was verified; None: as long as the verdict holds
    gpus_min: int = 0
    gpu_models: frozenset[str] = frozenset()  # as certificate or manifest names them, "GH100"; empty: any
    gpu_cc: bool = False  # every GPU proved that confidential computing is on
    declared_location: str = ""  # the owner says so; empty: anywhere
    declared_gpu_memory_gib: int = 0  # of each GPU; the owner says so: no evidence names it
    location: str = ""  # hosts that say so come first
    coefficient_max: int = COEFFICIENT_MAX
    owners_avoided: frozenset[bytes] = frozenset()  # payees, 33 bytes each
    owners_distinct: bool = False  # no owner twice; otherwise the same owner twice only when nobody else fits
    hosts: int = 1  # how many are wanted at most
    loaded: bool = False  # only hosts that serve the model now
    depth_max: int | None = None  # most requests a host may have before it; None: any number
    duration_s: int = 0  # how long the work lasts: no host whose maintenance begins before

    def __post_init__(self) -> None:
        if self.model is not None and len(self.model) != ROOT_BYTES:
            raise ValueError(f"model root of {len(self.model)} bytes, want {ROOT_BYTES}")
        if self.hosts < 1 or min(self.gpus_min, self.duration_s, self.declared_gpu_memory_gib) < 0:
            raise ValueError("hosts must be at least 1, gpus_min, duration_s and declared_gpu_memory_gib not negative")
        if min(self.evidence_age_max_s or 0, self.depth_max or 0) < 0:
            raise ValueError("evidence_age_max_s and depth_max must not be negative")
        if self.loaded and self.model is None:
            raise ValueError("loaded needs a model to be loaded")
        check_coefficient(self.coefficient_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One host chosen for a job."""

    host_id: bytes
    node_id: str | None  # Ray's; None while no node is bound to the host
    address: str  # host:port of the enclave
    coefficient: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why one host was not chosen: the first rule it lost, what it had and what was wanted."""

    host_id: bytes | None
    name: str
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the scheduler chose, and for every other host why not."""

    placements: tuple[Placement, ...]
    losses: tuple[Loss, ...]
