"""The operator's settings for models, by name; a model without settings has the defaults.

models:
  translator: {min: 2, max: 8, gpus: 1, tier: confidential, depth_target: 8, tokens_per_s: 400}

Also up_after_s, down_after_s (`cluster.autoscale`), retire_after_s (`cluster.rollout`), spare_s (`cluster.placement`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from attestation.verdict import Tier
from cluster.autoscale import ScaleLimits
from cluster.errors import ConfigError
from cluster.model import JobRequirement
from cluster.rollout import RETIRE_MIN_S, RETIRE_S

SPARE_S = 3600
_OWN = {"gpus", "retire_after_s", "spare_s"}
_NUMBERS = {"min": "replicas_min", "max": "replicas_max"} | {
    name: name for name in ("depth_target", "tokens_per_s", "up_after_s", "down_after_s")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Where replicas of a model may be, and how many."""

    limits: ScaleLimits = field(default_factory=ScaleLimits)
    gpus: int = 0  # of each replica, on one host
    tier: Tier = Tier.CONFIDENTIAL  # the least
    retire_after_s: int = RETIRE_S  # how long a replica without new leases stays; less ends it before its leases end
    spare_s: int = SPARE_S  # how long a replica that is too much stays loaded; another model may need its room before

    def __post_init__(self) -> None:
        if self.retire_after_s < RETIRE_MIN_S:
            raise ValueError(f"retire_after_s must be {RETIRE_MIN_S} at least, else requests are lost")

    def requirement(self, root: bytes) -> JobRequirement:
        """What a replica of this manifest root asks of its host."""
        return JobRequirement(model=root, tier=self.tier, gpus_min=self.gpus)


def parse_models(value: object) -> dict[str, ModelSettings]:
    """Settings by model name. ConfigError says which key is wrong and what it may be."""
    if not isinstance(value, Mapping):
        raise ConfigError("models must hold settings as `name: {min: 1, max: 4}`")
    return {str(name): _parse(f"models.{name}", settings) for name, settings in value.items()}


def _parse(where: str, value: object) -> ModelSettings:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must hold settings as `key: value`")
    if unknown := value.keys() - _NUMBERS.keys() - _OWN - {"tier"}:
        raise ConfigError(f"{where} has keys this version does not know: {', '.join(sorted(map(str, unknown)))}")
    numbers = {key: value[key] for key in value.keys() - {"tier"}}
    if wrong := sorted(key for key, number in numbers.items() if type(number) is not int or number < 0):
        raise ConfigError(f"{where}.{wrong[0]} must be a whole number, not negative")
    try:
        tier = Tier(value.get("tier", Tier.CONFIDENTIAL))
        limits = ScaleLimits(**{_NUMBERS[key]: number for key, number in numbers.items() if key not in _OWN})
        return ModelSettings(limits=limits, tier=tier, **{key: numbers[key] for key in numbers.keys() & _OWN})
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
