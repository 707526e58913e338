"""Which modes GPUs may run in, and how many of them with how many switches make up one machine."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.errors import PolicyError
from attestation.nvidia_facts import GpuFeature
from attestation.yaml_values import read_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """How many devices make up one machine."""

    gpus: int
    switches: int


TOPOLOGIES = {"hgx-8x4": Topology(gpus=8, switches=4)}  # HGX H100 and H200


def check_topology_names(names: frozenset[str]) -> None:
    """Raise PolicyError unless every name is one of `TOPOLOGIES`."""
    unknown = sorted(names - TOPOLOGIES.keys())
    if unknown:
        raise PolicyError(f"gpu_topologies: unknown {unknown[0]!r}, want any of {', '.join(TOPOLOGIES)}")


def read_modes(value: object) -> frozenset[GpuFeature]:
    """Read `gpu_modes` of a policy file: any of spt, mpt, ppcie; an empty list accepts no GPU."""
    texts = read_texts(value, "gpu_modes")
    try:
        return frozenset(map(GpuFeature, texts))
    except ValueError:
        raise PolicyError(f"gpu_modes {value!r}: want any of {', '.join(GpuFeature)}") from None


def read_topologies(value: object) -> frozenset[str]:
    """Read `gpu_topologies` of a policy file: names among `TOPOLOGIES`; an empty list accepts no protected PCIe."""
    return frozenset(read_texts(value, "gpu_topologies"))
