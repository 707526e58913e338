"""The SEV-SNP part of a policy file.

    snp_floor: {milan: {bootloader: 4, tee: 0, snp: 24, microcode: 219}}   # fmc too for turin
    snp_signing_keys: [VCEK]         # VLEK: machines of a cloud provider
    snp_guest:                       # the guest policy: any, required or forbidden
      abi_min: "1.51"
      smt: any                       # and single_socket, mem_aes_256_xts, rapl_disabled, ciphertext_hiding,
      cxl: forbidden                 # page_swap_disabled
    snp_platform:                    # the machine: any, required or forbidden
      firmware_min: "1.55.39"
      alias_check_complete: required # and smt, tsme, ecc, rapl_disabled, ciphertext_hiding, tio
      mitigations: 0x3
    snp_identity:                    # the guest's ID block
      id_keys: [<sha384 hex>]        # and author_keys
      family_ids: [<16 bytes hex>]   # and image_ids
      svn_min: 2

A field left out has the default of its dataclass in `attestation.snp_policy`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final

from attestation.errors import PolicyError
from attestation.snp_policy import (
    IDENTITY_SIZE,
    KEY_DIGEST_SIZE,
    SnpGuestRules,
    SnpIdentityRules,
    SnpPlatformRules,
    SnpSigningKey,
    SnpTcb,
    SnpTcbFloor,
    Want,
)
from attestation.yaml_values import read_hexes, read_map, read_number, read_texts

_PARTS: Final = {"bootloader", "tee", "snp", "microcode"}
_SVN_MAX: Final = 255
_VERSION: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})*")


def read_floor(value: object, where: str = "snp_floor") -> SnpTcbFloor:
    """Read the lowest TCB of each product.

    Raises:
        PolicyError: an unknown product or part, a missing part, a value outside 0 to 255.
    """
    products = read_map(value, where, {"milan", "genoa", "turin"})
    return SnpTcbFloor(**{name: _read_tcb(tcb, f"{where}.{name}") for name, tcb in products.items()})


def _read_tcb(value: object, where: str) -> SnpTcb:
    want = _PARTS | {"fmc"} if where.endswith("turin") else _PARTS
    parts = read_map(value, where, _PARTS | {"fmc"})
    if set(parts) - {"fmc"} != _PARTS or not set(parts) <= want:
        raise PolicyError(f"{where}: want {', '.join(sorted(want))}")
    numbers = {name: read_number(number, f"{where}.{name}") for name, number in parts.items()}
    if not all(0 <= number <= _SVN_MAX for number in numbers.values()):
        raise PolicyError(f"{where}: security versions are numbers from 0 to {_SVN_MAX}")
    return SnpTcb(**numbers)


def read_guest(value: object) -> SnpGuestRules:
    """Read the rules for the guest policy; PolicyError for an unknown name or word."""
    return SnpGuestRules(**_read_rules(value, SnpGuestRules, "snp_guest", {"abi_min": _version_of(2)}))


def read_platform(value: object) -> SnpPlatformRules:
    """Read the rules for the machine; PolicyError for an unknown name or word."""
    readers = {"firmware_min": _version_of(3), "mitigations": read_number}
    return SnpPlatformRules(**_read_rules(value, SnpPlatformRules, "snp_platform", readers))


def read_identity(value: object) -> SnpIdentityRules:
    """Read the rules for the ID block; PolicyError for an unknown name or a value of another size."""
    readers: dict[str, Callable[[object, str], Any]] = {
        "id_keys": _hexes_of(KEY_DIGEST_SIZE),
        "author_keys": _hexes_of(KEY_DIGEST_SIZE),
        "family_ids": _hexes_of(IDENTITY_SIZE),
        "image_ids": _hexes_of(IDENTITY_SIZE),
        "svn_min": read_number,
    }
    return SnpIdentityRules(**_read_rules(value, SnpIdentityRules, "snp_identity", readers))


def read_signing_keys(value: object) -> frozenset[SnpSigningKey]:
    """Read the kinds of keys; PolicyError for another word than VCEK and VLEK."""
    words = read_texts(value, "snp_signing_keys")
    if not words or not set(words) <= set(SnpSigningKey):
        raise PolicyError(f"snp_signing_keys {words}: want VCEK, VLEK or both")
    return frozenset(SnpSigningKey(word) for word in words)


def _read_rules(
    value: object,
    kind: type[SnpGuestRules | SnpPlatformRules | SnpIdentityRules],
    where: str,
    readers: Mapping[str, Callable[[object, str], Any]],
) -> dict[str, Any]:
    """Read a map of a rule class's fields; those without a reader are words of `Want`."""
    given = read_map(value, where, {field.name for field in fields(kind)})
    return {name: readers.get(name, _read_want)(item, f"{where}.{name}") for name, item in given.items()}


def _read_want(value: object, where: str) -> Want:
    try:
        return Want(str(value))
    except ValueError:
        raise PolicyError(f"{where}: want {', '.join(Want)}, got {value!r}") from None


def _version_of(count: int) -> Callable[[object, str], tuple[int, ...]]:
    def read(value: object, where: str) -> tuple[int, ...]:
        parts = value.split(".") if isinstance(value, str) and _VERSION.fullmatch(value) else []
        if len(parts) != count:
            raise PolicyError(f"{where}: want a text of {count} numbers with dots between, got {value!r}")
        return tuple(map(int, parts))

    return read


def _hexes_of(size: int) -> Callable[[object, str], frozenset[bytes]]:
    def read(value: object, where: str) -> frozenset[bytes]:
        values = read_hexes(value, where, size)
        if not values:
            raise PolicyError(f"{where}: an empty list would ask nothing; leave the key out")
        return values

    return read
