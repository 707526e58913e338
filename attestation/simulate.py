"""Simulated hosts: real evidence formats, real signatures, roots nobody else trusts.

Vendors are made once for a test network. A host gets one file with its own keys, chains and collateral, and
no vendor key. The verifying code is the production code; a verdict over such evidence says "sim:" in its
trust domains. Faults make a host lie in one way each, the way an attacker would.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from attestation import cbor, snp, tdx
from attestation.collect import NAMED, Attestation
from attestation.errors import NoRegisterError
from attestation.eventlog import LogEvent
from attestation.evidence import SnpEvidence, TdxEvidence
from attestation.roots import UnsafeSimulatedRoots
from attestation.sim.collateral import GOOD, LIFE, CollateralFaults
from attestation.sim.devices import SimulatedDevices
from attestation.sim.faults import FIRMWARE_LOG_FAULTS, NEEDS_GPUS, RUNTIME_LOG_FAULTS, SNP_FAULTS, SWITCH_FAULTS, Fault
from attestation.sim.gpu import SimulatedGpu
from attestation.sim.guest import SimulatedGuest, sent_firmware_log, sent_runtime_log
from attestation.sim.intel import SimulatedIntel
from attestation.sim.nvidia import SimulatedNvidia
from attestation.sim.sealing import sealing_key
from attestation.sim.snp import SIMULATED_TCB, SimulatedAmd
from attestation.sim.snp_platform import SimulatedSnpPlatform, SnpFaults
from attestation.sim.switch import SimulatedSwitch
from attestation.sim.tdx import DEBUG_GUEST, NO_FAULTS, SimulatedTdxPlatform, image_of
from attestation.snp_policy import SnpTcb, SnpTcbFloor
from attestation.tdx_quote import parse_quote
from attestation.transcript import Transcript
from attestation.verdict import TeeKind

__all__ = [
    "DEFAULT_IMAGE",
    "QUOTE_LATENCY_S",
    "SIMULATED_FLOOR",
    "Fault",
    "SimulatedHost",
    "SimulatedVendors",
]

QUOTE_LATENCY_S = 0.039  # a TDX quote on a cloud machine, one at a time whatever the number of callers
DEFAULT_IMAGE = hashlib.sha256(b"simulated image").digest()
SIMULATED_FLOOR = SnpTcbFloor(milan=SIMULATED_TCB)
_SNP_MARK = b"SIMULATED SNP\0\0\0"  # first 16 bytes of every simulated launch digest
_OLD_TCB = SnpTcb(bootloader=3, tee=0, snp=8, microcode=115)
_FILE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedHost:
    """One host's hardware; implements `attestation.collect.Attester`.

    Attributes:
        platform: the CPU.
        gpus: the GPUs, in device order.
        switches: the switches between them, in device order; with any, the GPUs are in protected PCIe.
        image: SHA-256 standing for the image the guest booted.
        ocsp: the vendor's answers whether GPUs and switches were revoked.
        faults: what is wrong with the host.
        quote_latency_s: seconds a CPU report takes; reports of one host wait for each other.
    """

    platform: SimulatedTdxPlatform | SimulatedSnpPlatform
    gpus: tuple[SimulatedGpu, ...] = ()
    switches: tuple[SimulatedSwitch, ...] = ()
    image: bytes = DEFAULT_IMAGE
    ocsp: tuple[bytes, ...] = ()
    faults: frozenset[Fault] = frozenset()
    quote_latency_s: float = QUOTE_LATENCY_S
    _device: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    _guest: SimulatedGuest = field(default_factory=SimulatedGuest, repr=False, compare=False)

    def __post_init__(self) -> None:
        for fault in self.faults:
            if len(self.gpus) < NEEDS_GPUS.get(fault, 0):
                raise ValueError(f"fault {fault} needs {NEEDS_GPUS[fault]} GPUs, the host has {len(self.gpus)}")
            if not self.switches and fault in SWITCH_FAULTS:
                raise ValueError(f"fault {fault} needs switches, the host has none")
            if self.tee is not TeeKind.TDX and fault in FIRMWARE_LOG_FAULTS | RUNTIME_LOG_FAULTS:
                raise ValueError(f"fault {fault} needs a TDX host: {self.tee} has no log to lie about")
            if self.tee is not TeeKind.SEV_SNP and fault in SNP_FAULTS:
                raise ValueError(f"fault {fault} needs an SEV-SNP host: a {self.tee} quote does not say it")

    @property
    def tee(self) -> TeeKind:
        """Kind of TEE."""
        return TeeKind.TDX if isinstance(self.platform, SimulatedTdxPlatform) else TeeKind.SEV_SNP

    def measurement_id(self) -> bytes:
        """Return the measurement id of the host's image, 32 bytes: what governance would allow."""
        report_data = bytes(64)
        if isinstance(self.platform, SimulatedTdxPlatform):
            return tdx.measurement_id(parse_quote(self.platform.quote(report_data, image=image_of(self.image))).body)
        report = self.platform.report(report_data, measurement=launch_digest(self.image))
        return snp.measurement_id(snp.parse_report(report))

    def rims(self) -> tuple[bytes, ...]:
        """Return the reference manifests of the host's GPUs and switches, each once, in ascending order."""
        sets = (*(gpu.rims for gpu in self.gpus), *(switch.rims for switch in self.switches))
        return tuple(sorted({rim for rims in sets for rim in rims}))

    def rim_digests(self) -> frozenset[bytes]:
        """Return the SHA-256 of those manifests: what governance would allow."""
        return frozenset(hashlib.sha256(rim).digest() for rim in self.rims())

    def with_faults(self, *faults: Fault) -> Self:
        """Return the host lying in these ways; endorsement faults need `SimulatedVendors.refresh`."""
        return replace(self, faults=frozenset(faults))

    def restarted(self) -> Self:
        """Return the host with its guest booted again: an empty log, its register at zero."""
        return replace(self, _guest=SimulatedGuest())

    def extend(self, event: LogEvent) -> None:
        """Log what is about to be loaded; SEV-SNP has no register to log it in.

        Raises:
            RestartNeededError: log and register differ; use `restarted`.
            NoRegisterError: the event is one that SEV-SNP cannot prove.
            AttesterError: the log is full.
        """
        if self.tee is TeeKind.TDX:
            self._guest.log(self.image).add(event)
        elif event.kind not in NAMED:
            raise NoRegisterError(f"{self.tee} has no runtime register: nothing would prove {event}")

    def attest(self, base: Transcript) -> Attestation:
        """Sign a transcript as real hardware would, faults included. Blocks for `quote_latency_s`."""
        devices = SimulatedDevices(gpus=self.gpus, switches=self.switches, faults=self.faults)
        base = replace(base.base(), cc=devices.cc())
        signed_base = base
        if self.faults & {Fault.WRONG_NONCE, Fault.REPLAYED_QUOTE}:
            signed_base = replace(base, nonce_root=secrets.token_bytes(32))
        reports = devices.ask(signed_base.base_digest())
        signed = signed_base.with_reports(
            tuple(gpu.report for gpu in reports.gpus), tuple(switch.report for switch in reports.switches)
        )
        with self._device:
            time.sleep(self.quote_latency_s)
            cpu = self._ask_cpu(signed.report_data())
        sent = replace(signed, nonce_root=base.nonce_root) if self._lies(Fault.REPLAYED_QUOTE) else signed
        if self._lies(Fault.SWAPPED_KEYS):
            sent = replace(sent, hpke=secrets.token_bytes(len(base.hpke)))
        reports = devices.tamper(reports, signed_base.base_digest())
        return Attestation(
            transcript=sent, cpu=cpu, gpus=reports.gpus, switches=reports.switches, rims=self.rims(), ocsp=self.ocsp
        )

    def sealing_key(self, context: bytes) -> bytes:
        """See `attestation.sealed_state.SealingKeySource`; a lying host gets the key of what it really runs."""
        platform = self.platform
        chip = platform.pck_key if isinstance(platform, SimulatedTdxPlatform) else platform.key
        return sealing_key(chip, self._ask_cpu(bytes(64)), context)

    def save(self, path: Path) -> None:
        """Write the host's one file, readable by its owner only."""
        document: dict[str, cbor.Value] = {
            "v": _FILE_VERSION,
            "tee": str(self.tee),
            "platform": self.platform.to_bytes(),
            "gpus": [gpu.to_bytes() for gpu in self.gpus],
            "switches": [switch.to_bytes() for switch in self.switches],
            "image": self.image,
            "ocsp": list(self.ocsp),
            "faults": sorted(self.faults),
            "quote_latency_us": round(self.quote_latency_s * 1e6),
        }
        _write_secret(path, cbor.encode(document))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            OSError: no such file.
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode(path.read_bytes()):
            case {
                "v": 1,
                "tee": str(tee),
                "platform": bytes(platform),
                "gpus": [*gpus],
                "switches": [*switches],
                "image": bytes(image),
                "ocsp": [*ocsp],
                "faults": [*faults],
                "quote_latency_us": int(latency),
            }:
                kind = SimulatedTdxPlatform if TeeKind(tee) is TeeKind.TDX else SimulatedSnpPlatform
                return cls(
                    platform=kind.from_bytes(platform),
                    gpus=tuple(SimulatedGpu.from_bytes(gpu) for gpu in gpus if isinstance(gpu, bytes)),
                    switches=tuple(SimulatedSwitch.from_bytes(one) for one in switches if isinstance(one, bytes)),
                    image=image,
                    ocsp=tuple(answer for answer in ocsp if isinstance(answer, bytes)),
                    faults=frozenset(Fault(str(fault)) for fault in faults),
                    quote_latency_s=latency / 1e6,
                )
        raise ValueError(f"{path} is not a saved simulated host; make a new one")

    def _ask_cpu(self, report_data: bytes) -> TdxEvidence | SnpEvidence:
        image = (
            hashlib.sha256(b"foreign" + self.image).digest() if self._lies(Fault.FOREIGN_MEASUREMENT) else self.image
        )
        debug = self._lies(Fault.DEBUG_GUEST)
        if isinstance(self.platform, SimulatedTdxPlatform):
            faults = DEBUG_GUEST if debug else NO_FAULTS
            with self._guest.log(self.image).held() as events:
                rtmr3, log = sent_runtime_log(events, self.faults)
                quote = self.platform.quote(report_data, image=image_of(image).with_rtmr3(rtmr3), faults=faults)
            return self.platform.evidence(quote, ccel=sent_firmware_log(self.image, self.faults), log=log)
        lies = SnpFaults(
            debug=debug,
            platform_info=0 if self._lies(Fault.MEMORY_ALIASES) else None,
            mask_chip_id=self._lies(Fault.MASKED_CHIP),
            vmpl=1 if self._lies(Fault.LOWER_PRIVILEGE) else 0,
        )
        return self.platform.evidence(self.platform.report(report_data, measurement=launch_digest(image), faults=lies))

    def _lies(self, fault: Fault) -> bool:
        return fault in self.faults


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedVendors:
    """An Intel, an AMD and an NVIDIA of one's own, private keys included.

    Attributes:
        created: when they began; hosts are made and endorsed at this time unless told otherwise.
    """

    created: datetime
    intel: SimulatedIntel
    amd: SimulatedAmd
    nvidia: SimulatedNvidia

    @classmethod
    def create(cls, now: datetime) -> Self:
        """Make new vendors; AMD's two RSA-4096 keys take about a second."""
        now = now.astimezone(UTC).replace(microsecond=0)
        return cls(
            created=now,
            intel=SimulatedIntel.create(now),
            amd=SimulatedAmd.create(now),
            nvidia=SimulatedNvidia.create(now),
        )

    def roots(self) -> UnsafeSimulatedRoots:
        """Return the pins a policy names to believe these vendors, and no others."""
        return UnsafeSimulatedRoots(
            intel=frozenset({self.intel.root}),
            amd=frozenset({self.amd.root}),
            nvidia=frozenset({self.nvidia.root}),
        )

    def make_host(
        self,
        kind: TeeKind,
        *,
        gpus: int = 0,
        switches: int = 0,
        image: bytes = DEFAULT_IMAGE,
        faults: Iterable[Fault] = (),
        quote_latency_s: float = QUOTE_LATENCY_S,
        now: datetime | None = None,
        vlek: bool = False,
    ) -> SimulatedHost:
        """Make a host with new hardware.

        Args:
            kind: TEE of the CPU.
            gpus: number of GPUs.
            switches: number of NVSwitches between them.
            image: SHA-256 of what the guest boots; the measurement follows from it.
            faults: what is to be wrong.
            quote_latency_s: seconds a CPU report takes.
            now: when it is endorsed; the vendors' beginning by default.
            vlek: an SEV-SNP host of a cloud provider, which signs with a key lent to the provider.
        """
        wrong = frozenset(faults)
        moment = now or self.created
        devices = [self.nvidia.make_gpu() for _ in range(gpus)]
        if devices and Fault.FOREIGN_GPU in wrong:
            devices[-1] = SimulatedNvidia.create(moment).make_gpu()
        between = [self.nvidia.make_switch() for _ in range(switches + (Fault.EXTRA_SWITCH in wrong))]
        if between and Fault.FOREIGN_SWITCH in wrong:
            between[-1] = SimulatedNvidia.create(moment).make_switch()
        return SimulatedHost(
            platform=self._make_tdx(moment, wrong) if kind is TeeKind.TDX else self._make_snp(moment, wrong, vlek),
            gpus=tuple(devices),
            switches=tuple(between),
            image=image,
            faults=wrong,
            quote_latency_s=quote_latency_s,
        )

    def refresh(self, host: SimulatedHost, *, now: datetime, faults: CollateralFaults = GOOD) -> SimulatedHost:
        """Return the host after it fetched endorsements published at `now`.

        Its GPUs get answers that they were not revoked. With faults this is a TCB recovery or a revocation that hits a
        running host. AMD publishes no status: there, `faults` can only make the list stale by its age.
        """
        chains = (*(gpu.chain for gpu in host.gpus), *(switch.chain for switch in host.switches))
        host = replace(host, ocsp=tuple(sorted(self.nvidia.responder.answers(*chains, now=now))))
        if isinstance(host.platform, SimulatedTdxPlatform):
            collateral = self.intel.collateral(host.platform, now, faults)
            return replace(host, platform=host.platform.with_collateral(collateral))
        crl = self.amd.make_crl(product=host.platform.product, issued=now - faults.age)
        return replace(host, platform=host.platform.with_crl(crl))

    def save(self, folder: Path) -> None:
        """Write the vendors with their private keys; keep the folder away from hosts."""
        folder.mkdir(parents=True, exist_ok=True)
        document: dict[str, cbor.Value] = {
            "v": _FILE_VERSION,
            "created": int(self.created.timestamp()),
            "intel": self.intel.to_bytes(),
            "amd": self.amd.to_bytes(),
            "nvidia": self.nvidia.to_bytes(),
        }
        _write_secret(folder / "vendors.cbor", cbor.encode(document))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            OSError: no such file.
            ValueError, AttestationError: it is something else.
        """
        match cbor.decode((folder / "vendors.cbor").read_bytes()):
            case {"v": 1, "created": int(created), "intel": bytes(intel), "amd": bytes(amd), "nvidia": bytes(nvidia)}:
                return cls(
                    created=datetime.fromtimestamp(created, UTC),
                    intel=SimulatedIntel.from_bytes(intel),
                    amd=SimulatedAmd.from_bytes(amd),
                    nvidia=SimulatedNvidia.from_bytes(nvidia),
                )
        raise ValueError(f"{folder} holds no simulated vendors; make new ones")

    def _make_tdx(self, now: datetime, wrong: frozenset[Fault]) -> SimulatedTdxPlatform:
        return self.intel.make_platform(
            now,
            CollateralFaults(
                age=LIFE + timedelta(days=1) if Fault.STALE_COLLATERAL in wrong else timedelta(0),
                tcb_status="OutOfDate" if Fault.OUT_OF_DATE_TCB in wrong else "UpToDate",
                revoke_platform=Fault.REVOKED_KEY in wrong,
            ),
        )

    def _make_snp(self, now: datetime, wrong: frozenset[Fault], vlek: bool) -> SimulatedSnpPlatform:
        serial = secrets.randbelow(1 << 32) + 1 if Fault.REVOKED_KEY in wrong else 0
        age = timedelta(days=400) if Fault.STALE_COLLATERAL in wrong else timedelta(hours=1)
        return self.amd.make_platform(
            tcb=_OLD_TCB if Fault.OUT_OF_DATE_TCB in wrong else SIMULATED_TCB,
            vlek=vlek,
            serial=serial,
            crl=self.amd.make_crl(revoked=[serial] if serial else (), issued=now - age),
        )


def launch_digest(image: bytes) -> bytes:
    """Return the launch digest an image with this digest has on every simulated SEV-SNP platform, 48 bytes."""
    return _SNP_MARK + hashlib.sha256(b"launch digest" + image).digest()


def _write_secret(path: Path, data: bytes) -> None:
    """Write a file with private keys: never readable by others, not even for a moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
