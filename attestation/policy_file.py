"""The policy file: YAML, every key known, every value of its kind.

    reference:
      measurements: [<sha256 hex>, ...]
      rims: [<sha256 hex>, ...]
      models: [<sha256 hex>, ...]
    roots: production            # or none, or a map of vendor to fingerprints
    required_tier: confidential  # confidential-cpu, open
    max_age_s: 600
    tcb_statuses: [UpToDate]
    images: [{name: v1.2, mr_td: <48 bytes hex>, rtmr0: <hex>, rtmr1: <hex>, rtmr2: <hex>}]   # explain refusals
    snp_floor: {milan: {bootloader: 4, tee: 0, snp: 22, microcode: 213}}   # and more: `attestation.snp_policy_file`
    gpu_modes: [spt, mpt, ppcie]
    gpu_topologies: [hgx-8x4]

Only `reference` must be there, unless the values come from the registry: then it must not. The other keys are
the fields of `AppraisalPolicy`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attestation.errors import PolicyError
from attestation.gpu_policy import read_modes, read_topologies
from attestation.policy import AppraisalPolicy, ReferenceValues, Revocation
from attestation.roots import PRODUCTION, VENDORS, TrustedRoots, UnsafeSimulatedRoots, parse_pins
from attestation.snp_policy import SnpTcbFloor
from attestation.snp_policy_file import read_floor, read_guest, read_identity, read_platform, read_signing_keys
from attestation.td_image import FIELDS as IMAGE_FIELDS
from attestation.td_image import ImageReference
from attestation.verdict import Tier
from attestation.yaml_values import load_yaml, read_flag, read_hexes, read_map, read_number, read_texts

POLICY_SIZE_MAX = 64 * 1024  # characters
MEASUREMENT_SIZE = 48  # SHA-384, as TDX measures


def parse_policy(
    text: str, reference: ReferenceValues | None = None, snp_floor: SnpTcbFloor | None = None
) -> AppraisalPolicy:
    """Read a policy file; with `reference` or `snp_floor` given, one that leaves these values to it.

    Raises:
        PolicyError: too large, too many values, not YAML, empty, an unknown key, a value of the wrong kind.
    """
    document = load_yaml(text, what="the policy", size_max=POLICY_SIZE_MAX)
    values = {name: _READERS[name](value) for name, value in read_map(document, "the policy", set(_READERS)).items()}
    if reference is not None:
        if "reference" in values:
            raise PolicyError("reference values come from the registry here: remove 'reference:' from the policy")
        values["reference"] = reference
    if snp_floor is not None:
        if "snp_floor" in values:
            raise PolicyError("the AMD floor comes from a floor file here: remove 'snp_floor:' from the policy")
        values["snp_floor"] = snp_floor
    if "reference" not in values:
        raise PolicyError("the policy names no reference values; add 'reference:' with measurements, rims and models")
    return AppraisalPolicy(**values)


def read_job_bundles(path: Path) -> frozenset[bytes]:
    """Return the `job_bundles` of a network's policy file, SHA-256 each.

    Raises:
        PolicyError: not readable, or no policy that leaves reference values to the registry.
    """
    none = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())
    try:
        return parse_policy(path.read_text(encoding="utf-8"), none).job_bundles
    except (OSError, UnicodeDecodeError, PolicyError) as error:
        raise PolicyError(f"the policy {path}: {error}") from error


def _reference(value: object) -> ReferenceValues:
    fields = read_map(value, "reference", {"measurements", "rims", "models"})
    if "measurements" not in fields or "models" not in fields:
        raise PolicyError("reference: want measurements and models")
    return ReferenceValues(
        measurements=parse_pins(read_texts(fields["measurements"], "reference.measurements")),
        rims=parse_pins(read_texts(fields.get("rims", []), "reference.rims")),
        models=parse_pins(read_texts(fields["models"], "reference.models")),
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
    fields = read_map(value, where, set(VENDORS))
    return {vendor: parse_pins(read_texts(pins, f"{where}.{vendor}")) for vendor, pins in fields.items()}


def _images(value: object) -> tuple[ImageReference, ...]:
    if not isinstance(value, list):
        raise PolicyError("images: want a list of maps")
    return tuple(_image(item, f"images[{place}]") for place, item in enumerate(value))


def _image(value: object, where: str) -> ImageReference:
    fields = read_map(value, where, {"name", *IMAGE_FIELDS})
    if not {"name", "mr_td", "rtmr0", "rtmr1", "rtmr2"} <= set(fields) or not isinstance(fields["name"], str):
        raise PolicyError(f"{where}: want name (a text), mr_td, rtmr0, rtmr1 and rtmr2")
    name = fields.pop("name")
    values = {field: read_hexes([text], f"{where}.{field}", MEASUREMENT_SIZE) for field, text in fields.items()}
    return ImageReference(name=name, **{field: min(value) for field, value in values.items()})


def _tier(value: object) -> Tier:
    try:
        return Tier(str(value))
    except ValueError:
        raise PolicyError(f"required_tier {value!r}: want one of {', '.join(Tier)}") from None


def _revocation(value: object) -> Revocation:
    try:
        return Revocation(str(value))
    except ValueError:
        raise PolicyError(f"gpu_revocation {value!r}: want one of {', '.join(Revocation)}") from None


def _only(value: object, where: str) -> frozenset[bytes]:
    """Read a list that restricts; an empty one would look like "none" and mean "any"."""
    pins = parse_pins(read_texts(value, where))
    if not pins:
        raise PolicyError(f"{where}: an empty list would accept any; leave the key out to say so")
    return pins


_READERS: dict[str, Callable[[object], Any]] = {
    "reference": _reference,
    "roots": _roots,
    "unsafe_simulated_roots": _simulated,
    "required_tier": _tier,
    "max_age_s": lambda value: read_number(value, "max_age_s"),
    "tcb_statuses": lambda value: frozenset(read_texts(value, "tcb_statuses")),
    "tcb_age_max_s": lambda value: read_number(value, "tcb_age_max_s"),
    "tcb_advisories_allowed": lambda value: frozenset(read_texts(value, "tcb_advisories_allowed")),
    "tcb_evaluation_min": lambda value: read_number(value, "tcb_evaluation_min"),
    "collateral_lag_max_s": lambda value: read_number(value, "collateral_lag_max_s"),
    "tdx_xfam_allowed": lambda value: read_number(value, "tdx_xfam_allowed"),
    "tdx_modules": lambda value: read_hexes(value, "tdx_modules", MEASUREMENT_SIZE),
    "images": _images,
    "snp_floor": read_floor,
    "snp_guest": read_guest,
    "snp_platform": read_platform,
    "snp_identity": read_identity,
    "snp_signing_keys": read_signing_keys,
    "gpu_revocation": _revocation,
    "gpu_modes": read_modes,
    "gpu_topologies": read_topologies,
    "denied_platforms": lambda value: parse_pins(read_texts(value, "denied_platforms")),
    "require_firmware_log": lambda value: read_flag(value, "require_firmware_log"),
    "engines": lambda value: _only(value, "engines"),
    "image_configs": lambda value: _only(value, "image_configs"),
    "job_bundles": lambda value: parse_pins(read_texts(value, "job_bundles")),
    "unsafe_accept_open_hosts": lambda value: read_flag(value, "unsafe_accept_open_hosts"),
}
