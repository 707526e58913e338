"""What a verifier may rely on after everything held, and the list of what was checked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from attestation.errors import AttestationError
from attestation.floors import NO_FLOORS, Floors
from attestation.nvidia_facts import GpuFeature
from attestation.transcript import CcState, host_id

Outcome = Literal["held", "failed", "not applicable"]


class TeeKind(StrEnum):
    """Which technology isolates the guest."""

    TDX = "tdx"
    SEV_SNP = "sev-snp"


class Tier(StrEnum):
    """What a host is good for; the order is the declaration's, best first."""

    CONFIDENTIAL = "confidential"  # TEE on the CPU, every GPU in confidential-computing mode
    CONFIDENTIAL_CPU = "confidential-cpu"  # TEE on the CPU, no GPU
    OPEN = "open"  # no TEE: for public data only

    def satisfies(self, required: Tier) -> bool:
        """Say whether work that requires `required` may run on a host of this tier."""
        order = list(Tier)
        return order.index(self) <= order.index(required)


class Check(NamedTuple):
    """One rule, what was seen and what was wanted; an appraisal makes dozens of them."""

    name: str
    seen: str
    required: str
    outcome: Outcome


class CheckLog:
    """Collects checks in the order they run; the first that fails raises with all of them."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check so far."""
        return tuple(self._checks)

    def require(self, name: str, ok: bool, *, seen: str, required: str, error: type[AttestationError]) -> None:
        """Record one check.

        Raises:
            AttestationError: `error`, carrying every check so far, when `ok` is false.
        """
        self._checks.append(Check(name, seen, required, "held" if ok else "failed"))
        if not ok:
            raise error(f"{name}: {seen}; required: {required}", self.checks)

    def skip(self, name: str, *, why: str) -> None:
        """Record that a check has nothing to look at in this evidence."""
        self._checks.append(Check(name, "-", why, "not applicable"))

    def extend(self, checks: tuple[Check, ...]) -> None:
        """Take over checks that a vendor module ran."""
        self._checks.extend(checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClaims:
    """What one GPU proved about itself.

    Attributes:
        model: product as its certificate or reference manifest names it.
        driver: driver version.
        vbios: VBIOS version.
        mode: how it is passed through to the guest.
        cc: confidential-computing state the measured guest read.
    """

    model: str
    driver: str
    vbios: str
    mode: GpuFeature
    cc: CcState


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchClaims:
    """What one NVSwitch proved about itself.

    Attributes:
        model: product as its reference manifest names it.
        bios: BIOS version.
        pdi: per-device identifier, 8 bytes.
    """

    model: str
    bios: str
    pdi: bytes


class Verdict(NamedTuple):
    """Evidence that held: these keys live inside that hardware, until `not_after`.

    Attributes:
        tier: what the host is good for.
        tee: kind of TEE; None on an open host.
        trust_domains: whose roots vouch: "intel", "amd", "nvidia", or "sim:" and a root's fingerprint.
        tcb_status: the vendor's word ("UpToDate"), "at or above floor" for AMD, "none" on an open host.
        signing_key: whose key signed the CPU's report: "PCK" (Intel), "VCEK" (AMD, the chip's own), "VLEK of" and a
            cloud provider (AMD, lent to the provider for all its machines); empty on an open host.
        advisories: Intel's names of known weaknesses at the platform's TCB level.
        platform_id: stable name of the CPU (SHA-256 over vendor and hardware identity); empty on an open host.
        measurement: measurement id of the image, 32 bytes; empty on an open host.
        gpus: claims of each GPU, in transcript order.
        switches: claims of each NVSwitch between them, in transcript order.
        hpke: X-Wing key to seal to, 1216 bytes.
        receipt: Ed25519 key that signs receipts, 32 bytes.
        payee: TON address to pay, 33 bytes.
        models: manifest roots the enclave can serve, 32 bytes each.
        engine: digest of the enclave's code, 32 bytes.
        transcript_digest: SHA-384 of the transcript, 48 bytes.
        verified_at: the verifier's time.
        not_after: when the verdict must be renewed.
        checks: everything that was checked.
        marks: how new the vendor's lists behind this verdict are; whoever keeps floors raises them by it.
    """

    tier: Tier
    tee: TeeKind | None
    trust_domains: tuple[str, ...]
    tcb_status: str
    platform_id: bytes
    measurement: bytes
    gpus: tuple[GpuClaims, ...]
    switches: tuple[SwitchClaims, ...]
    hpke: bytes
    receipt: bytes
    payee: bytes
    models: tuple[bytes, ...]
    engine: bytes
    transcript_digest: bytes
    verified_at: datetime
    not_after: datetime
    checks: tuple[Check, ...]
    signing_key: str = ""
    advisories: tuple[str, ...] = ()
    marks: Floors = NO_FLOORS

    @property
    def host_id(self) -> bytes:
        """The 8-byte name of the enclave instance that holds the keys."""
        return host_id(self.hpke, self.receipt)

    @property
    def simulated(self) -> bool:
        """Whether any root behind this verdict is a simulated one."""
        return any(domain.startswith("sim:") for domain in self.trust_domains)

    def to_dict(self) -> dict[str, object]:
        """Return the verdict for JSON: digests as hex, times as ISO 8601."""
        return {
            "host_id": self.host_id.hex(),
            "tier": str(self.tier),
            "tee": str(self.tee) if self.tee else None,
            "trust_domains": list(self.trust_domains),
            "simulated": self.simulated,
            "tcb_status": self.tcb_status,
            "signing_key": self.signing_key,
            "advisories": list(self.advisories),
            "platform_id": self.platform_id.hex(),
            "measurement": self.measurement.hex(),
            "gpus": [
                {
                    "model": gpu.model,
                    "driver": gpu.driver,
                    "vbios": gpu.vbios,
                    "mode": str(gpu.mode),
                    "cc": str(gpu.cc),
                }
                for gpu in self.gpus
            ],
            "switches": [
                {"model": switch.model, "bios": switch.bios, "pdi": switch.pdi.hex()} for switch in self.switches
            ],
            "hpke": self.hpke.hex(),
            "receipt": self.receipt.hex(),
            "payee": self.payee.hex(),
            "models": [root.hex() for root in self.models],
            "engine": self.engine.hex(),
            "transcript_digest": self.transcript_digest.hex(),
            "verified_at": self.verified_at.isoformat(),
            "not_after": self.not_after.isoformat(),
            "checks": checks_to_list(self.checks),
        }


def checks_to_list(checks: tuple[Check, ...]) -> list[dict[str, str]]:
    """Return checks for JSON."""
    return [
        {"name": check.name, "seen": check.seen, "required": check.required, "outcome": check.outcome}
        for check in checks
    ]
