"""Which GPUs and switches make up one machine whose links may be trusted without encryption (protected PCIe).

In that mode GPUs speak to each other in the clear, through NVSwitches. It is worth something only when all of them are
attested, and no link leads out of the set: every GPU names exactly these switches, every switch exactly these GPUs.

Source: NVIDIA's verifier for protected PCIe compares what the GPUs say with the switches, and the switches with each
other (nvtrust, ppcie-verifier, validate_topology). That the GPUs which the switches name are the ones that reported is
checked here in addition: a GPU's identifier stands in its certificate (`nvidia_chain`).
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from attestation.errors import TopologyError
from attestation.gpu_policy import TOPOLOGIES, Topology
from attestation.nvidia import NvidiaClaims
from attestation.nvswitch import NvSwitchClaims
from attestation.verdict import CheckLog


def check_topology(
    gpus: Sequence[NvidiaClaims], switches: Sequence[NvSwitchClaims], *, allowed: Set[str], log: CheckLog
) -> str:
    """Check that GPUs and switches in protected PCIe are one complete machine.

    1. Their numbers are those of an allowed topology.
    2. Each has its own identifier.
    3. Every GPU is linked to exactly these switches.
    4. Every switch is linked to exactly these GPUs.

    Args:
        gpus: what accepted reports say.
        switches: likewise.
        allowed: names among `gpu_policy.TOPOLOGIES`.
        log: collects the checks.

    Returns:
        The name of the topology.

    Raises:
        TopologyError: they are not.
    """
    size = Topology(gpus=len(gpus), switches=len(switches))
    fitting = [name for name in sorted(allowed) if TOPOLOGIES[name] == size]  # (1)
    log.require(
        "topology",
        bool(fitting),
        seen=f"{size.gpus} GPUs and {size.switches} switches",
        required=" or ".join(sorted(allowed)) or "none: no topology is allowed",
        error=TopologyError,
    )
    own_gpus = {gpu.pdi for gpu in gpus if gpu.pdi is not None}
    own_switches = {switch.pdi for switch in switches}
    log.require(  # (2)
        "topology identifiers",
        len(own_gpus) == size.gpus and len(own_switches) == size.switches,
        seen=f"{len(own_gpus)} GPUs and {len(own_switches)} switches are told apart",
        required=f"{size.gpus} and {size.switches}",
        error=TopologyError,
    )
    for index, gpu in enumerate(gpus):
        _check_links(f"gpu {index} links", gpu.switches, own_switches, log)  # (3)
    for index, switch in enumerate(switches):
        _check_links(f"switch {index} links", switch.gpus, own_gpus, log)  # (4)
    return fitting[0]


def _check_links(name: str, ends: Set[bytes], own: Set[bytes], log: CheckLog) -> None:
    foreign, missing = _names(ends - own), _names(own - ends)
    log.require(
        name,
        ends == own,
        seen=f"{len(ends)} devices; foreign: {foreign}; missing: {missing}",
        required=f"exactly the {len(own)} attested ones",
        error=TopologyError,
    )


def _names(identifiers: Set[bytes]) -> str:
    return ", ".join(sorted(identifier.hex() for identifier in identifiers)) or "none"
