"""What an attested host can do. Made from a verdict only; hints and labels never enter it."""

from dataclasses import dataclass
from datetime import datetime

from attestation.floors import NO_FLOORS, Floors
from attestation.verdict import Check, GpuClaims, TeeKind, Tier, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Proved facts about one enclave instance, good until `not_after`.

    Lengths: host_id 8, platform_id and measurement 32 (empty on an open host), receipt 32, payee 33, transcript 48,
    model roots 32 bytes each.
    """

    host_id: bytes
    tier: Tier
    tee: TeeKind | None
    trust_domains: tuple[str, ...]
    tcb_status: str
    platform_id: bytes
    measurement: bytes
    gpus: tuple[GpuClaims, ...]
    receipt: bytes
    payee: bytes
    models: frozenset[bytes]
    transcript: bytes
    verified_at: datetime
    not_after: datetime
    checks: tuple[Check, ...]
    marks: Floors = NO_FLOORS  # how new the vendor's lists behind it are

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> "Capability":
        """The capability that `verdict` proves."""
        return cls(
            host_id=verdict.host_id,
            tier=verdict.tier,
            tee=verdict.tee,
            trust_domains=verdict.trust_domains,
            tcb_status=verdict.tcb_status,
            platform_id=verdict.platform_id,
            measurement=verdict.measurement,
            gpus=verdict.gpus,
            receipt=verdict.receipt,
            payee=verdict.payee,
            models=frozenset(verdict.models),
            transcript=verdict.transcript_digest,
            verified_at=verdict.verified_at,
            not_after=verdict.not_after,
            checks=verdict.checks,
            marks=verdict.marks,
        )

    def valid_at(self, now: datetime) -> bool:
        """Whether the verdict behind it still holds at `now`."""
        return self.verified_at <= now < self.not_after
