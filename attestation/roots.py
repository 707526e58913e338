"""Vendor roots, pinned by the SHA-256 of their public key (SubjectPublicKeyInfo, DER).

The root certificate itself travels with the evidence; what counts is its key. `TrustedRoots` holds
nothing but the genuine roots below, so a verdict that names "intel" cannot stem from another key.
Simulated vendors have a type of their own, and the two never meet in one policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attestation.errors import PolicyError

VENDORS = ("intel", "amd", "nvidia")

INTEL_SGX_ROOT = bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")
AMD_ARK_MILAN = bytes.fromhex("9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9")
AMD_ARK_GENOA = bytes.fromhex("429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831")
AMD_ARK_TURIN = bytes.fromhex("4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08")
NVIDIA_DEVICE_ROOT = bytes.fromhex("a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4")
NVIDIA_RIM_ROOT = bytes.fromhex("dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3")  # signs manifests

_GENUINE = {
    "intel": frozenset({INTEL_SGX_ROOT}),
    "amd": frozenset({AMD_ARK_MILAN, AMD_ARK_GENOA, AMD_ARK_TURIN}),
    "nvidia": frozenset({NVIDIA_DEVICE_ROOT}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedRoots:
    """Genuine vendor roots a policy trusts; any subset of the pins in this module."""

    intel: frozenset[bytes] = frozenset()
    amd: frozenset[bytes] = frozenset()
    nvidia: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        for vendor in VENDORS:
            foreign = self.of(vendor) - _GENUINE[vendor]
            if foreign:
                raise PolicyError(f"{min(foreign).hex()} is no root of {vendor}; simulated roots have their own key")

    @staticmethod
    def none() -> TrustedRoots:
        """Return the empty set: no vendor is trusted."""
        return TrustedRoots()

    def of(self, vendor: str) -> frozenset[bytes]:
        """Return the pins of "intel", "amd" or "nvidia"."""
        return _of(self, vendor)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsafeSimulatedRoots:
    """Roots of simulated vendors. Evidence under them protects nobody: for demos and tests only."""

    intel: frozenset[bytes] = frozenset()
    amd: frozenset[bytes] = frozenset()
    nvidia: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        pins = self.intel | self.amd | self.nvidia
        if not pins or any(len(pin) != 32 for pin in pins):
            raise PolicyError("simulated roots: want at least one fingerprint of 32 bytes")
        if pins & frozenset().union(*_GENUINE.values()):
            raise PolicyError("a genuine vendor root is named as simulated")

    def of(self, vendor: str) -> frozenset[bytes]:
        """Return the pins of "intel", "amd" or "nvidia"."""
        return _of(self, vendor)


def _of(roots: TrustedRoots | UnsafeSimulatedRoots, vendor: str) -> frozenset[bytes]:
    return {"intel": roots.intel, "amd": roots.amd, "nvidia": roots.nvidia}[vendor]


PRODUCTION = TrustedRoots(intel=_GENUINE["intel"], amd=_GENUINE["amd"], nvidia=_GENUINE["nvidia"])


def trust_domain(vendor: str, pin: bytes) -> str:
    """Name whose word evidence under this root is: "intel", "amd", "nvidia", or "sim:" and 8 hex digits."""
    return vendor if pin in _GENUINE[vendor] else f"sim:{pin.hex()[:8]}"


def parse_pins(texts: Iterable[str]) -> frozenset[bytes]:
    """Read fingerprints written as hex.

    Raises:
        PolicyError: not 64 hex digits.
    """
    pins = set()
    for text in texts:
        try:
            pin = bytes.fromhex(text)
        except (TypeError, ValueError):
            pin = b""
        if len(pin) != 32:
            raise PolicyError(f"{text!r} is not a SHA-256 in hex (64 digits)")
        pins.add(pin)
    return frozenset(pins)
