"""The policy file: YAML, every key known, every value of its kind.

    reference:
      measurements: [<sha256 hex>, ...]
      rims: [<sha256 hex>, ...]
      models: [<sha256 hex>, ...]
    roots: production            # or none, or a map of vendor to fingerprints
    required_tier: confidential  # confidential-cpu, open
    max_age_s: 600
    tcb_statuses: [UpToDate]
    snp_floor: {milan: {bootloader: 4, tee: 0, snp: 22, microcode: 213}}

Only `reference` must be there, unless the values come from the registry: then it must not. The other keys are
the fields of `AppraisalPolicy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from attestation.errors import PolicyError
from attestation.policy import AppraisalPolicy, ReferenceValues, SnpTcb, SnpTcbFloor
from attestation.roots import PRODUCTION, VENDORS, TrustedRoots, UnsafeSimulatedRoots, parse_pins
from attestation.verdict import Tier

POLICY_SIZE_MAX = 256 * 1024  # characters


def parse_policy(text: str, reference: ReferenceValues | None = None) -> AppraisalPolicy:
    """Read a policy file; with `reference` given, one that leaves reference values to it.

    Raises:
        PolicyError: too large, not YAML, empty, an unknown key, a value of the wrong kind.
    """
    if len(text) > POLICY_SIZE_MAX:
        raise PolicyError(f"policy of {len(text)} characters, at most {POLICY_SIZE_MAX} are read")
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  (a SafeLoader that also refuses doubled keys)
    except yaml.YAMLError as error:
        raise PolicyError(f"not YAML: {error}") from error
    values = {name: _READERS[name](value) for name, value in _map(document, "the policy", set(_READERS)).items()}
    if reference is not None:
        if "reference" in values:
            raise PolicyError("reference values come from the registry here: remove 'reference:' from the policy")
        values["reference"] = reference
    if "reference" not in values:
        raise PolicyError("the policy names no reference values; add 'reference:' with measurements, rims and models")
    return AppraisalPolicy(**values)


def _reference(value: object) -> ReferenceValues:
    fields = _map(value, "reference", {"measurements", "rims", "models"})
    if "measurements" not in fields or "models" not in fields:
        raise PolicyError("reference: want measurements and models")
    return ReferenceValues(
        measurements=parse_pins(_texts(fields["measurements"], "reference.measurements")),
        rims=parse_pins(_texts(fields.get("rims", []), "reference.rims")),
        models=parse_pins(_texts(fields["models"], "reference.models")),
    )


def _roots(value: object) -> TrustedRoots:
    if value == "production":
        return PRODUCTION
    if value == "none":
        return TrustedRoots.none()
    return TrustedRoots(**_pins(value, "roots"))


def _simulated(value: object) -> UnsafeSimulatedRoots:
    return UnsafeSimulatedRoots(**_pins(value, "unsafe_simulated_roots"))


def _pins(value: object, where: str) -> dict[str, frozenset[bytes]]:
    fields = _map(value, where, set(VENDORS))
    return {vendor: parse_pins(_texts(pins, f"{where}.{vendor}")) for vendor, pins in fields.items()}


def _floor(value: object) -> SnpTcbFloor:
    products = _map(value, "snp_floor", {"milan", "genoa", "turin"})
    return SnpTcbFloor(**{name: _snp_tcb(tcb, f"snp_floor.{name}") for name, tcb in products.items()})


def _snp_tcb(value: object, where: str) -> SnpTcb:
    fields = _map(value, where, {"bootloader", "tee", "snp", "microcode", "fmc"})
    numbers = {name: _number(number, f"{where}.{name}") for name, number in fields.items()}
    if not {"bootloader", "tee", "snp", "microcode"} <= set(numbers):
        raise PolicyError(f"{where}: want bootloader, tee, snp and microcode")
    return SnpTcb(**numbers)


def _tier(value: object) -> Tier:
    try:
        return Tier(str(value))
    except ValueError:
        raise PolicyError(f"required_tier {value!r}: want one of {', '.join(Tier)}") from None


def _number(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise PolicyError(f"{where}: want a whole number, got {value!r}")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{where}: want true or false, got {value!r}")
    return value


def _only(value: object, where: str) -> frozenset[bytes]:
    """Read a list that restricts; an empty one would look like "none" and mean "any"."""
    pins = parse_pins(_texts(value, where))
    if not pins:
        raise PolicyError(f"{where}: an empty list would accept any; leave the key out to say so")
    return pins


def _map(value: object, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise PolicyError(f"{where} is empty or no map")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise PolicyError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return value


def _texts(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise PolicyError(f"{where}: want a list of texts (quote hex digits)")
    return value


_READERS: dict[str, Callable[[object], Any]] = {
    "reference": _reference,
    "roots": _roots,
    "unsafe_simulated_roots": _simulated,
    "required_tier": _tier,
    "max_age_s": lambda value: _number(value, "max_age_s"),
    "tcb_statuses": lambda value: frozenset(_texts(value, "tcb_statuses")),
    "tcb_age_max_s": lambda value: _number(value, "tcb_age_max_s"),
    "tcb_evaluation_min": lambda value: _number(value, "tcb_evaluation_min"),
    "snp_floor": _floor,
    "denied_platforms": lambda value: parse_pins(_texts(value, "denied_platforms")),
    "require_firmware_log": lambda value: _flag(value, "require_firmware_log"),
    "engines": lambda value: _only(value, "engines"),
    "image_configs": lambda value: _only(value, "image_configs"),
    "job_bundles": lambda value: parse_pins(_texts(value, "job_bundles")),
    "unsafe_accept_open_hosts": lambda value: _flag(value, "unsafe_accept_open_hosts"),
}


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML values; a key given twice is an error, not the last one wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return mapping
