"""Simulated hosts and the policy that accepts them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache

from attestation import (
    AppraisalPolicy,
    Attestation,
    Evidence,
    ReferenceValues,
    TeeKind,
    Tier,
    Transcript,
    TrustedRoots,
    Verdict,
    inclusion_proof,
    nonce_root,
    verify,
)
from attestation.collect import extend_named
from attestation.sim.intel import SimulatedIntel
from attestation.simulate import SIMULATED_FLOOR, Fault, SimulatedHost, SimulatedVendors
from tests.attestation.vendors import NOW, amd, nvidia

NONCES = tuple(bytes([number]) * 32 for number in range(1, 6))
NONCE = NONCES[2]
MODEL = b"m" * 32
SNP_CPU = TeeKind.SEV_SNP
TDX_CPU = TeeKind.TDX


@cache
def vendors() -> SimulatedVendors:
    return SimulatedVendors(created=NOW, intel=SimulatedIntel.create(NOW), amd=amd(), nvidia=nvidia())


@cache
def host(kind: TeeKind, gpus: int = 0, *faults: Fault) -> SimulatedHost:
    return vendors().make_host(kind, gpus=gpus, faults=faults, quote_latency_s=0)


def base_transcript(**changes: object) -> Transcript:
    base = Transcript(
        nonce_root=nonce_root(NONCES),
        hpke=b"h" * 1216,
        receipt=b"r" * 32,
        payee=b"\0" + b"p" * 32,
        models=(MODEL,),
        engine=b"e" * 32,
    )
    return replace(base, **changes)


def attest(attester: SimulatedHost, **changes: object) -> Attestation:
    """What the host shows after a fresh boot, once it logged what the transcript names."""
    base, guest = base_transcript(**changes), attester.restarted()
    extend_named(guest, base)
    return guest.attest(base)


def evidence_of(attester: SimulatedHost, **changes: object) -> Evidence:
    return attest(attester, **changes).evidence(inclusion_proof(NONCES, 2))


def policy_for(attester: SimulatedHost, **changes: object) -> AppraisalPolicy:
    reference = ReferenceValues(
        measurements=frozenset({attester.measurement_id()}),
        rims=attester.rim_digests(),
        models=frozenset({MODEL, b"n" * 32}),
    )
    policy = AppraisalPolicy(
        reference=reference,
        roots=TrustedRoots.none(),
        unsafe_simulated_roots=vendors().roots(),
        required_tier=Tier.CONFIDENTIAL if attester.gpus else Tier.CONFIDENTIAL_CPU,
        snp_floor=SIMULATED_FLOOR,
    )
    return replace(policy, **changes)


def appraise(evidence: Evidence, policy: AppraisalPolicy, *, later: timedelta = timedelta()) -> Verdict:
    return verify(evidence, policy, nonce=NONCE, now=NOW + later)
