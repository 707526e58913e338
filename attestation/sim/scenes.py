"""Evidence of every kind of simulated host, honest and lying, each with policy, nonce and time to judge it by.

A scene needs nothing beside itself to be judged: mutations, the conformance kit and benchmarks start from these.
Names, keys and nonces follow from a seed; hardware signatures are as random as real ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import combinations, islice
from typing import Any, Self

from attestation.collect import Attestation, NoTee, extend_named
from attestation.errors import AttestationError
from attestation.eventlog import replay
from attestation.evidence import TdxEvidence, encode_evidence
from attestation.merkle import inclusion_proof, nonce_root
from attestation.sim.faults import SWITCH_FAULTS
from attestation.sim.gpu import NO_FAULTS
from attestation.sim.guest import image_config
from attestation.sim.snp import SIMULATED_TCB
from attestation.sim.snp_platform import SimulatedSnpPlatform
from attestation.sim.tdx import SimulatedTdxPlatform, TdxFaults, image_of
from attestation.sim.wrongs import (
    CANCELLING,
    COLLATERAL_FAULTS,
    GPU_FAULTS,
    OCSP_FAULTS,
    REASONS,
    SNP_FAULTS,
    TDX_FAULTS,
)
from attestation.simulate import Fault, SimulatedHost, SimulatedVendors, launch_digest
from attestation.snp_tcb import SnpProduct
from attestation.transcript import HPKE_KEY_SIZE, Transcript, gpu_nonce
from attestation.verdict import TeeKind, Tier

_TURIN_TCB = replace(SIMULATED_TCB, fmc=1)
_MODEL = hashlib.sha256(b"simulated model").digest()
_ENGINE = hashlib.sha256(b"simulated engine").digest()
_BATCH = 5  # nonces under one quote; ours stands in the middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One document and everything it is judged by.

    Attributes:
        name: unique, in words joined by hyphens.
        document: evidence.
        policy: the policy file's content; JSON is YAML too.
        nonce: the 32 bytes the verifier sent.
        at: the verifier's time.
        reason: the refusal expected; None when it must hold or the reason is left to the verifier.
        holds: whether it must hold.
        description: what is right or wrong with it, one sentence.
    """

    name: str
    document: bytes
    policy: dict[str, Any]
    nonce: bytes
    at: datetime
    reason: type[AttestationError] | None
    holds: bool
    description: str


@dataclass(frozen=True)
class Stage:
    """Simulated vendors and the hosts they endorse, for one seed.

    Attributes:
        vendors: whose roots the policies name.
        seed: from which nonces and keys follow.
        now: when everything is judged.
    """

    vendors: SimulatedVendors
    seed: int = 0

    @classmethod
    def create(cls, now: datetime, seed: int = 0) -> Self:
        """Return a stage with new vendors; AMD's keys take about a second."""
        return cls(SimulatedVendors.create(now), seed)

    @property
    def now(self) -> datetime:
        """When the vendors began and everything is judged."""
        return self.vendors.created

    @cached_property
    def nonces(self) -> tuple[bytes, ...]:
        """The batch of nonces every host answers."""
        return tuple(self._bytes("nonce", number) for number in range(_BATCH))

    @property
    def nonce(self) -> bytes:
        """Ours among them."""
        return self.nonces[_BATCH // 2]

    @cached_property
    def hosts(self) -> dict[str, SimulatedHost]:
        """Hosts of every kind, by name; a second call to the constructor makes others."""
        tdx, snp = TeeKind.TDX, TeeKind.SEV_SNP
        made = {"tdx": self._host(tdx), "tdx-2gpu": self._host(tdx, 2), "snp": self._host(snp)}
        made["snp-1gpu"] = self._host(snp, 1)
        made["tdx-hgx"] = self.vendors.make_host(tdx, gpus=8, switches=4, quote_latency_s=0)
        made["snp-vlek"] = self.vendors.make_host(snp, quote_latency_s=0, vlek=True)
        made["tdx-1gpu-ocsp"] = self.vendors.refresh(self._host(tdx, 1), now=self.now)
        for product, tcb in ((SnpProduct.GENOA, SIMULATED_TCB), (SnpProduct.TURIN, _TURIN_TCB)):
            platform = self.vendors.amd.make_platform(product=product, tcb=tcb)
            made[f"snp-{product.lower()}"] = replace(made["snp"], platform=platform)
        return made

    def honest(self) -> Iterator[Scene]:
        """One scene for each kind of host; all of them hold."""
        for name, host in self.hosts.items():
            attestation = self._attest(host, name)
            yield self._scene(name, host, attestation, holds=True, description="an honest host")
            if name == "tdx":
                for body_type in (2, 3):
                    again = self._quoted(host, attestation, version=5, body_type=body_type)
                    words = f"an honest host with a quote of version 5, body type {body_type}"
                    yield self._scene(f"tdx-v5-body{body_type}", host, again, holds=True, description=words)
        yield self._open()

    def faults(self) -> Iterator[Scene]:
        """Every fault a host can have, on both kinds of TEE; all are refused."""
        yield from self._liars((fault,) for fault in Fault)

    def fault_pairs(self, *, start: int = 0, step: int = 1) -> Iterator[Scene]:
        """Every two faults together that leave a lie, or every `step`-th from `start` on; all are refused."""
        pairs = (pair for pair in combinations(Fault, 2) if frozenset(pair) not in CANCELLING)
        yield from self._liars(islice(pairs, start, None, step))

    def _liars(self, lies: Iterable[tuple[Fault, ...]]) -> Iterator[Scene]:
        for faults in lies:
            for liar in (self._liar(kind, faults) for kind in TeeKind):
                if liar is not None:
                    yield self._faulty(liar)

    def device_faults(self) -> Iterator[Scene]:
        """Everything the simulated devices and vendors can get wrong, with good signatures; all are refused."""
        host = self.hosts["tdx"]
        attestation = self._attest(host, "tdx-devices")
        for what, (faults, reason) in TDX_FAULTS.items():
            version = 5 if faults.service_td != bytes(48) else 4
            liar = self._quoted(host, attestation, version=version, body_type=3, faults=faults)
            yield self._scene(f"tdx-{what}", host, liar, reason=reason, description=what.replace("-", " "))
        for what, (published, reason) in COLLATERAL_FAULTS.items():
            liar = self._attest(self.vendors.refresh(host, now=self.now, faults=published), "tdx-collateral")
            yield self._scene(f"collateral-{what}", host, liar, reason=reason, description=what.replace("-", " "))
        yield from self._snp_faults()
        yield from self._gpu_faults()
        yield from self._ocsp_faults()

    def transcript(self, name: str) -> Transcript:
        """Return what the host of this name signs before its GPUs reported."""
        hpke = b"".join(self._bytes(name, "hpke", number) for number in range(HPKE_KEY_SIZE // 32))
        return Transcript(
            nonce_root=nonce_root(self.nonces),
            hpke=hpke,
            receipt=self._bytes(name, "receipt"),
            payee=b"\0" + self._bytes(name, "payee"),
            models=(_MODEL,),
            engine=_ENGINE,
        )

    def policy(self, host: SimulatedHost | None) -> dict[str, Any]:
        """Return the policy file that accepts exactly this host's hardware and image; None for an open host."""
        roots = self.vendors.roots()
        pins = {vendor: sorted(pin.hex() for pin in roots.of(vendor)) for vendor in ("intel", "amd", "nvidia")}
        reference = {
            "measurements": [host.measurement_id().hex()] if host else [],
            "rims": sorted(digest.hex() for digest in host.rim_digests()) if host else [],
            "models": [_MODEL.hex()],
        }
        if host is None:
            return {"reference": reference, "roots": "none", "required_tier": "open", "unsafe_accept_open_hosts": True}
        tier = Tier.CONFIDENTIAL if host.gpus else Tier.CONFIDENTIAL_CPU
        floor = {part: getattr(SIMULATED_TCB, part) for part in ("bootloader", "tee", "snp", "microcode")}
        return {
            "reference": reference,
            "roots": "none",
            "unsafe_simulated_roots": pins,
            "required_tier": str(tier),
            "snp_floor": {"milan": floor, "genoa": floor, "turin": {**floor, "fmc": _TURIN_TCB.fmc}},
            "snp_signing_keys": ["VLEK" if getattr(host.platform, "vlek", False) else "VCEK"],
            "gpu_revocation": "required" if host.ocsp else "if-present",
            "engines": [_ENGINE.hex()],
            "image_configs": [image_config(host.image).hex()],
        }

    def _host(self, kind: TeeKind, gpus: int = 0) -> SimulatedHost:
        return self.vendors.make_host(kind, gpus=gpus, quote_latency_s=0)

    def _open(self) -> Scene:
        attestation = NoTee().attest(self.transcript("open"))
        words = "a host without a TEE, asked for by name"
        return self._scene("open", None, attestation, holds=True, description=words)

    def _liar(self, kind: TeeKind, faults: tuple[Fault, ...]) -> SimulatedHost | None:
        """Return a host that tells these lies, a complete machine if they are about switches; None if none can."""
        gpus, switches = (8, 4) if SWITCH_FAULTS & set(faults) else (2, 0)
        try:
            return self.vendors.make_host(kind, gpus=gpus, switches=switches, faults=faults, quote_latency_s=0)
        except ValueError:  # lies that hardware of this kind has no place for
            return None

    def _faulty(self, liar: SimulatedHost) -> Scene:
        faults = sorted(liar.faults)
        reason = REASONS.get(faults[0]) if len(faults) == 1 else None
        words = " and ".join(fault.replace("-", " ") for fault in faults)
        name = f"{liar.tee}-fault-{'-and-'.join(faults)}"
        return self._scene(name, liar, self._attest(liar, "liar"), reason=reason, description=words)

    def _attest(self, host: SimulatedHost, name: str) -> Attestation:
        """Return what the host shows after a fresh boot, once it logged what its transcript names."""
        base, guest = self.transcript(name), host.restarted()
        extend_named(guest, base)
        return guest.attest(base)

    def _snp_faults(self) -> Iterator[Scene]:
        host = self.hosts["snp"]
        attestation = self._attest(host, "snp-devices")
        assert isinstance(host.platform, SimulatedSnpPlatform)
        for what, (faults, reason) in SNP_FAULTS.items():
            report = host.platform.report(
                attestation.transcript.report_data(), measurement=launch_digest(host.image), faults=faults
            )
            liar = replace(attestation, cpu=host.platform.evidence(report))
            yield self._scene(f"snp-{what}", host, liar, reason=reason, description=what.replace("-", " "))

    def _gpu_faults(self) -> Iterator[Scene]:
        """One GPU's report is wrong before the CPU signs: only the GPU's own checks can notice."""
        host = self.hosts["tdx-2gpu"]
        attestation = self._attest(host, "gpu-devices")
        base = attestation.transcript.base()
        for what, (faults, reason) in GPU_FAULTS.items():
            devices = (NO_FAULTS, faults)
            gpus = tuple(
                gpu.attest(gpu_nonce(base.base_digest(), index), wrong)
                for index, (gpu, wrong) in enumerate(zip(host.gpus, devices, strict=True))
            )
            transcript = base.with_reports(tuple(gpu.report for gpu in gpus))
            liar = replace(attestation, transcript=transcript, gpus=gpus)
            yield self._scene(
                f"gpu-{what}", host, self._quoted(host, liar), reason=reason, description=what.replace("-", " ")
            )

    def _ocsp_faults(self) -> Iterator[Scene]:
        """NVIDIA's answers about a GPU are not what the policy requires."""
        host = self.hosts["tdx-1gpu-ocsp"]
        responder, chain = self.vendors.nvidia.responder, host.gpus[0].chain
        for what, (faults, reason) in OCSP_FAULTS.items():
            liar = replace(host, ocsp=responder.answers(chain, now=self.now, faults=faults))
            attestation = self._attest(liar, "gpu-ocsp")
            yield self._scene(f"ocsp-{what}", host, attestation, reason=reason, description=what.replace("-", " "))

    def _quoted(
        self,
        host: SimulatedHost,
        attestation: Attestation,
        *,
        version: int = 4,
        body_type: int = 2,
        faults: TdxFaults = TdxFaults(),  # noqa: B008  (a frozen value)
    ) -> Attestation:
        """Return the attestation under another quote of the same platform."""
        platform, cpu = host.platform, attestation.cpu
        assert isinstance(platform, SimulatedTdxPlatform) and isinstance(cpu, TdxEvidence)
        quote = platform.quote(
            attestation.transcript.report_data(),
            image=image_of(host.image).with_rtmr3(replay(cpu.log)),
            version=version,
            body_type=body_type,
            faults=faults,
        )
        return replace(attestation, cpu=replace(cpu, quote=quote))

    def _scene(
        self,
        name: str,
        host: SimulatedHost | None,
        attestation: Attestation,
        *,
        description: str,
        holds: bool = False,
        reason: type[AttestationError] | None = None,
    ) -> Scene:
        document = encode_evidence(attestation.evidence(inclusion_proof(self.nonces, _BATCH // 2)))
        return Scene(
            name=name,
            document=document,
            policy=self.policy(host),
            nonce=self.nonce,
            at=self.now,
            reason=reason,
            holds=holds,
            description=description,
        )

    def _bytes(self, *names: object) -> bytes:
        """Return 32 bytes that follow from the seed."""
        return hashlib.sha256(repr((self.seed, *map(str, names))).encode()).digest()
