"""The GPUs and switches of one host, together: all that the transcript names, each genuine, and one machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hmac import compare_digest

from attestation import nvidia, nvswitch, ocsp
from attestation.chain_cache import ChainCache
from attestation.errors import GpuBindingError, GpuStateError, RevokedError, RimMismatchError, TopologyError
from attestation.evidence import Evidence, GpuEvidence, SwitchEvidence
from attestation.nvidia_facts import GpuFeature
from attestation.policy import AppraisalPolicy
from attestation.rim import Rim
from attestation.topology import check_topology
from attestation.transcript import CcState, gpu_nonce, report_digest, switch_nonce
from attestation.verdict import CheckLog


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClaims:
    """What the accepted reports of a host's devices say.

    Attributes:
        gpus: of each GPU, in transcript order.
        switches: of each NVSwitch, in transcript order.
    """

    gpus: tuple[nvidia.NvidiaClaims, ...]
    switches: tuple[nvswitch.NvSwitchClaims, ...]

    @property
    def roots(self) -> tuple[bytes, ...]:
        """SHA-256 of the root key behind each device."""
        return (*(gpu.root for gpu in self.gpus), *(switch.root for switch in self.switches))

    @property
    def ends(self) -> tuple[datetime, ...]:
        """When the first certificate of each device runs out."""
        return (*(gpu.not_after for gpu in self.gpus), *(switch.not_after for switch in self.switches))


NO_DEVICES = DeviceClaims(gpus=(), switches=())


def names_devices(evidence: Evidence) -> bool:
    """Whether evidence or transcript says anything about GPUs or switches."""
    transcript = evidence.transcript
    return bool(
        transcript.cc
        or transcript.gpus
        or transcript.switches
        or evidence.gpus
        or evidence.switches
        or evidence.rims
        or evidence.ocsp
    )


def check_devices(
    evidence: Evidence,
    policy: AppraisalPolicy,
    *,
    now: datetime,
    chains: ChainCache | None,
    log: CheckLog,
) -> DeviceClaims:
    """Appraise all GPUs and switches.

    1. There are as many reports as the transcript names, the same ones, in its order.
    2. Every manifest is allowed, and sent once.
    3. Each GPU is genuine, answers its own nonce, measures as a manifest says, is in confidential-computing mode, and
       was not revoked.
    4. Each switch likewise.
    5. No device reports twice.
    6. All GPUs run in one mode, which fits their number; with protected PCIe they and the switches are one complete
       machine (`topology.check_topology`), without there are no switches.

    Raises:
        AttestationError: a subclass named after what failed.
    """
    transcript = evidence.transcript
    _check_count("gpu", len(evidence.gpus), len(transcript.cc), log)
    _check_named("gpu", evidence.gpus, transcript.gpus, log)  # (1)
    _check_named("switch", evidence.switches, transcript.switches, log)
    if not evidence.gpus:
        log.skip("gpus", why="the host has none")
    chains = chains if chains is not None else ChainCache()
    terms = _Terms(
        base=transcript.base_digest() if transcript.cc else b"",
        rims=nvidia.load_rims(_check_rims(evidence, policy, log), chains),  # (2)
        answers=tuple(ocsp.parse_ocsp(answer) for answer in evidence.ocsp),
        policy=policy,
        now=now,
        chains=chains,
        log=log,
    )
    gpus = _check_gpus(evidence.gpus, transcript.cc, terms)  # (3)
    switches = _check_switches(evidence.switches, terms)  # (4)
    _check_distinct([*(gpu.device_id for gpu in gpus), *(switch.device_id for switch in switches)], log)  # (5)
    _check_machine(gpus, switches, policy, log)  # (6)
    return DeviceClaims(gpus=gpus, switches=switches)


def _check_count(kind: str, seen: int, required: int, log: CheckLog) -> None:
    log.require(
        f"{kind} count",
        seen == required,
        seen=f"{seen} reports",
        required=f"{required} as the transcript names",
        error=GpuBindingError,
    )


def _check_named(kind: str, devices: Sequence[GpuEvidence], digests: Sequence[bytes], log: CheckLog) -> None:
    _check_count(kind, len(devices), len(digests), log)
    for index, (device, digest) in enumerate(zip(devices, digests, strict=True)):
        seen = report_digest(device.report)
        log.require(
            f"{kind} {index} in transcript",
            compare_digest(seen, digest),
            seen=seen.hex()[:32],
            required=digest.hex()[:32],
            error=GpuBindingError,
        )


def _check_rims(evidence: Evidence, policy: AppraisalPolicy, log: CheckLog) -> dict[bytes, bytes]:
    """Return the manifests by digest; each must be allowed, and sent once."""
    rims = {hashlib.sha256(rim).digest(): rim for rim in evidence.rims}
    foreign = rims.keys() - policy.reference.rims
    log.require(
        "gpu manifests",
        not foreign and len(rims) == len(evidence.rims),
        seen=", ".join(sorted(digest.hex()[:16] for digest in rims)) or "none",
        required=f"each once, each among {len(policy.reference.rims)} allowed",
        error=RimMismatchError,
    )
    return rims


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What all devices of a host are judged by."""

    base: bytes
    rims: Sequence[Rim]
    answers: Sequence[ocsp.OcspResponse]
    policy: AppraisalPolicy
    now: datetime
    chains: ChainCache
    log: CheckLog

    @property
    def roots(self) -> frozenset[bytes]:
        return self.policy.pins("nvidia")

    def known_good(self, chain: Sequence[bytes], device: str, end: datetime) -> datetime:
        """Check that no certificate was revoked; return until when the device's claims hold, `end` at most."""
        policy = self.policy.gpu_revocation
        until = ocsp.check_revocation(chain, self.answers, policy=policy, now=self.now, log=self.log, device=device)
        return min(end, until or end)


def _check_gpus(
    gpus: Sequence[GpuEvidence], states: Sequence[CcState], terms: _Terms
) -> tuple[nvidia.NvidiaClaims, ...]:
    claims, log = [], terms.log
    for index, (gpu, state) in enumerate(zip(gpus, states, strict=True)):
        one = nvidia.check_report(
            gpu,
            nonce=gpu_nonce(terms.base, index),
            roots=terms.roots,
            rims=terms.rims,
            now=terms.now,
            features=terms.policy.gpu_modes,
            cache=terms.chains,
        )
        log.extend(one.checks)
        log.require(
            f"gpu {index} confidential computing",
            state is CcState.ON,
            seen=str(state),
            required="on",
            error=GpuStateError,
        )
        check_not_denied(f"gpu {index}", one.device_id, terms.policy, log)
        claims.append(replace(one, not_after=terms.known_good(gpu.chain, "GPU", one.not_after)))
    return tuple(claims)


def _check_switches(switches: Sequence[SwitchEvidence], terms: _Terms) -> tuple[nvswitch.NvSwitchClaims, ...]:
    claims, log = [], terms.log
    for index, switch in enumerate(switches):
        one = nvswitch.check_switch(
            switch,
            nonce=switch_nonce(terms.base, index),
            roots=terms.roots,
            rims=terms.rims,
            now=terms.now,
            cache=terms.chains,
        )
        log.extend(one.checks)
        check_not_denied(f"switch {index}", one.device_id, terms.policy, log)
        claims.append(replace(one, not_after=terms.known_good(switch.chain, "switch", one.not_after)))
    return tuple(claims)


def check_not_denied(what: str, identity: bytes, policy: AppraisalPolicy, log: CheckLog) -> None:
    """Check one identity against the policy's deny-list.

    Raises:
        RevokedError: it is on the list.
    """
    log.require(
        f"{what} not denied",
        identity not in policy.denied_platforms,
        seen=identity.hex()[:16],
        required=f"none of {len(policy.denied_platforms)} denied identities",
        error=RevokedError,
    )


def _check_distinct(identities: Sequence[bytes], log: CheckLog) -> None:
    distinct = len(set(identities))
    log.require(
        "device identities",
        distinct == len(identities),
        seen=f"{distinct} distinct",
        required=f"{len(identities)} distinct",
        error=GpuBindingError,
    )


def _check_machine(
    gpus: Sequence[nvidia.NvidiaClaims],
    switches: Sequence[nvswitch.NvSwitchClaims],
    policy: AppraisalPolicy,
    log: CheckLog,
) -> None:
    """Check mode and number together.

    A single GPU must be in single mode: in any other, it is one of a set whose other members are not in the evidence.
    Several in single mode have no link to each other, so they are several times one.
    """
    modes = sorted({gpu.feature for gpu in gpus})
    log.require(
        "gpu modes agree",
        len(modes) <= 1,
        seen=" and ".join(modes) or "no GPUs",
        required="one mode in one host",
        error=GpuStateError,
    )
    if modes == [GpuFeature.PPCIE]:
        check_topology(gpus, switches, allowed=policy.gpu_topologies, log=log)
        return
    log.require(
        "switches",
        not switches,
        seen=f"{len(switches)}",
        required="none: only protected PCIe goes through switches that are attested",
        error=TopologyError,
    )
    if len(gpus) == 1:
        log.require(
            "gpu mode of a single gpu",
            modes == [GpuFeature.SPT],
            seen=modes[0],
            required=f"{GpuFeature.SPT}: in another mode it is one of a set that is not in the evidence",
            error=GpuStateError,
        )
