"""What a Python job wants, from one strict YAML file.

working_dir: ./code          # travels to the host as a bundle; relative to this file
requirement:                 # see cluster.model:JobRequirement; what is left out asks for nothing
  tier: confidential         # the least: open, confidential-cpu, confidential
  tees: [tdx]
  gpus: 1
  gpu_models: [GH100]
  gpu_cc: true
  location: eu               # orders, does not exclude
env: {MODE: fast}            # no secrets: it travels through Ray
timeout_s: 3600              # of the run
wait_s: 600                  # for a place
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from attestation.verdict import TeeKind, Tier
from cluster.errors import ConfigError
from cluster.model import JobRequirement

SPEC_SIZE_MAX = 64 << 10
ENV_MAX, ENV_VALUE_MAX = 64, 4096
TIME_MAX_S = 7 * 86_400
MEASURING = frozenset({TeeKind.TDX})
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE|(^|_)(API_?)?KEY($|_)", re.I)
_RESERVED = re.compile(r"RAY_|CHRYSALIS_|LD_|PYTHON|PATH$|HOME$", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job, but for what it runs."""

    working_dir: Path
    requirement: JobRequirement
    env: tuple[tuple[str, str], ...] = ()
    timeout_s: int = 3600
    wait_s: int = 600


def load_spec(path: Path) -> JobSpec:
    """Read a spec.

    Raises:
        ConfigError: not readable, a key that is unknown, or a value that cannot be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SPEC_SIZE_MAX + 1)
        if len(data) > SPEC_SIZE_MAX:
            raise ConfigError(f"{path} has more than {SPEC_SIZE_MAX} bytes")
        return parse_spec(yaml.safe_load(data), path.parent)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def measurable(spec: JobSpec) -> JobSpec:
    """The same job on hosts that can prove its code only: those with a runtime register.

    Raises:
        ConfigError: the spec asks for other hosts.
    """
    tees = spec.requirement.tees or MEASURING
    if not tees & MEASURING:
        raise ConfigError(
            "SEV-SNP has no register that would prove the job's code: write `tees: [tdx]`, or leave it out"
        )
    return replace(spec, requirement=replace(spec.requirement, tees=tees & MEASURING))


def parse_spec(raw: object, folder: Path) -> JobSpec:
    """Read the values of a spec; ValueError when one cannot be."""
    fields = _mapping(raw, "a job spec", {"working_dir", "requirement", "env", "timeout_s", "wait_s"})
    working_dir = fields.get("working_dir")
    if not isinstance(working_dir, str) or not working_dir:
        raise ValueError("working_dir must be a path: the folder that the job needs")
    timeout_s, wait_s = (_number(fields, name, 1, TIME_MAX_S, default) for name, default in _TIMES)
    return JobSpec(
        working_dir=folder / working_dir,
        requirement=_requirement(fields.get("requirement", {}), timeout_s),
        env=_env(fields.get("env", {})),
        timeout_s=timeout_s,
        wait_s=wait_s,
    )


_TIMES = (("timeout_s", 3600), ("wait_s", 600))
_REQUIREMENT = {"tier", "tees", "gpus", "gpu_models", "gpu_cc", "model", "location"}


def _requirement(raw: object, duration_s: int) -> JobRequirement:
    fields = _mapping(raw, "requirement", _REQUIREMENT)
    gpu_cc, location, model = fields.get("gpu_cc", False), fields.get("location", ""), fields.get("model")
    if not isinstance(gpu_cc, bool) or not isinstance(location, str):
        raise ValueError("requirement: gpu_cc must be true or false, location text")  # noqa: TRY004  of a file
    if model is not None and not (isinstance(model, str) and re.fullmatch(r"[0-9a-f]{64}", model)):
        raise ValueError("requirement: model must be a manifest root, 64 hex digits in quotes")
    return JobRequirement(
        model=bytes.fromhex(model) if model else None,
        tier=_named(Tier, fields.get("tier", Tier.CONFIDENTIAL.value), "tier"),
        tees=frozenset(_named(TeeKind, name, "tees") for name in _texts(fields, "tees")),
        gpus_min=_number(fields, "gpus", 0, 1024, 0),
        gpu_models=frozenset(_texts(fields, "gpu_models")),
        gpu_cc=gpu_cc,
        location=location,
        duration_s=duration_s,
    )


def _env(raw: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(raw, dict) or len(raw) > ENV_MAX:
        raise ValueError(f"env must be a mapping of at most {ENV_MAX} names")
    for name, value in raw.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise ValueError(f"env: {name!r} is not the name of a variable")
        if _SECRET.search(name):
            raise ValueError(f"env: {name} looks like a secret, and everything here travels through Ray in clear")
        if _RESERVED.match(name):
            raise ValueError(f"env: {name} is set by the host: choose another name")
        if not isinstance(value, str) or len(value) > ENV_VALUE_MAX:
            raise ValueError(f"env: {name} must be text of at most {ENV_VALUE_MAX} characters (quote numbers)")
    return tuple(sorted(raw.items()))


def _mapping(raw: object, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{what} must be a mapping")  # noqa: TRY004  of a file
    if unknown := sorted(map(str, raw.keys() - known)):
        raise ValueError(f"{what} has unknown keys: {', '.join(unknown)}")
    return raw


def _number(fields: dict[str, Any], name: str, least: int, most: int, default: int) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}")
    return value


def _texts(fields: dict[str, Any], name: str) -> list[str]:
    value = fields.get(name, [])
    if not isinstance(value, list) or len(value) > 32 or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"requirement: {name} must be a list of at most 32 texts")
    return value


def _named(kind: Any, name: object, what: str) -> Any:  # noqa: ANN401  an enumeration and its member
    names = [member.value for member in kind]
    if name not in names:
        raise ValueError(f"requirement: {what} must be of {', '.join(names)}, got {name!r}")
    return kind(name)
