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


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an enclave reports about its work, once a second. Unsigned: it orders hosts, it never admits one."""

    ready: bool = False
    running: int = 0
    waiting: int = 0
    served: int = 0
    output_tokens: int = 0
    models: frozenset[bytes] = field(default_factory=frozenset)  # loaded now

    @classmethod
    def from_health(cls, health: Mapping[str, Any]) -> "Load":
        """Read the JSON object of GET /health. ValueError when a field is missing or not what it should be."""
        try:
            counts = {name: health[name] for name in ("running", "waiting", "served", "output_tokens")}
            ready, models = health["ready"], frozenset(bytes.fromhex(root) for root in health["models"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"malformed health answer: {error}") from error
        if any(type(count) is not int or not 0 <= count <= COUNT_MAX for count in counts.values()):
            raise ValueError("health counters must be non-negative integers")
        if type(ready) is not bool or len(models) > LOADED_MAX or any(len(root) != ROOT_BYTES for root in models):
            raise ValueError(f"health: ready must be true or false, models at most {LOADED_MAX} hex roots of 32 bytes")
        return cls(ready=ready, models=models, **counts)

    @property
    def depth(self) -> int:
        """Requests the enclave has taken and not answered."""
        return self.running + self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequirement:
    """What a job asks of a host. Everything is compared with attested facts, except the asking price."""

    model: bytes  # manifest root, 32 bytes
    tier: Tier = Tier.CONFIDENTIAL  # the least; nothing falls back below it
    tees: frozenset[TeeKind] = frozenset()  # empty: any
    gpus_min: int = 0
    coefficient_max: int = COEFFICIENT_MAX
    hosts: int = 1  # how many are wanted at most
    loaded: bool = False  # only hosts that serve the model now

    def __post_init__(self) -> None:
        if len(self.model) != ROOT_BYTES:
            raise ValueError(f"model root of {len(self.model)} bytes, want {ROOT_BYTES}")
        if self.hosts < 1 or self.gpus_min < 0:
            raise ValueError("hosts must be at least 1 and gpus_min not negative")
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
