"""Hosts, models and fleets for tests of the pure core."""

import hashlib
from datetime import UTC, datetime, timedelta

from attestation.nvidia_facts import GpuFeature
from attestation.transcript import CcState
from attestation.verdict import GpuClaims, TeeKind, Tier
from billing.tariff import Tariff
from cluster.capability import Capability
from cluster.fleet import FleetSnapshot, HostRecord
from cluster.host_state import Admitted, joining, step
from cluster.model import HostHints, Load, ModelOffer

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MODEL = ModelOffer(
    root=b"\x11" * 32,
    name="demo-translator",
    tariff=Tariff(prompt_price=10**9, completion_price=2 * 10**9),
    context=512,
)


def name_bytes(name: str, size: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def capability(name: str = "a", **changes: object) -> Capability:
    tier = changes.get("tier", Tier.CONFIDENTIAL)
    gpu = GpuClaims(model="GH100", driver="580.1", vbios="96.0", mode=GpuFeature.SPT, cc=CcState.ON)
    values = {
        "host_id": name_bytes(name, 8),
        "tier": tier,
        "tee": None if tier is Tier.OPEN else TeeKind.TDX,
        "trust_domains": ("sim:0011223344556677",),
        "tcb_status": "UpToDate",
        "platform_id": name_bytes("cpu" + name, 32),
        "measurement": b"\x22" * 32,
        "gpus": (gpu,) if tier is Tier.CONFIDENTIAL else (),
        "receipt": name_bytes("receipt" + name, 32),
        "payee": b"\0" + name_bytes("owner" + name, 32),
        "models": frozenset({MODEL.root}),
        "transcript": name_bytes("transcript" + name, 48),
        "verified_at": NOW,
        "not_after": NOW + timedelta(seconds=600),
        "checks": (),
    }
    return Capability(**(values | changes))


def active(name: str = "a", *, load: Load | None = None, coefficient: int = 1000, **changes: object) -> HostRecord:
    record = joining(
        f"127.0.0.1:{int.from_bytes(name_bytes(name, 2))}", HostHints(name=name, coefficient=coefficient), now=NOW
    )
    record, _ = step(record, Admitted(capability=capability(name, **changes), at=NOW))
    object.__setattr__(record, "load", load or Load(ready=True, models=frozenset({MODEL.root})))
    return record


def fleet(*hosts: HostRecord) -> FleetSnapshot:
    return FleetSnapshot(version=1, at=NOW, hosts=hosts, models=(MODEL,))
