"""Enclaves on simulated TDX hosts, for a registry that asks for hardware."""

from __future__ import annotations

from dataclasses import replace

from attestation.collect import extend_named
from attestation.evidence import encode_evidence
from attestation.merkle import inclusion_proof, nonce_root
from attestation.simulate import SimulatedHost
from attestation.transcript import Transcript
from attestation.verdict import Tier
from tests.attestation.hosts import vendors
from tests.cluster.enclaves import POLICY, OpenEnclave

POLICY_TDX = replace(
    POLICY,
    unsafe_simulated_roots=vendors().roots(),
    required_tier=Tier.CONFIDENTIAL_CPU,
    unsafe_accept_open_hosts=False,
)


class TdxEnclave(OpenEnclave):
    """An enclave on a simulated TDX host, with what that host fetched from its vendor."""

    def __init__(self, name: str, hardware: SimulatedHost) -> None:
        super().__init__(name)
        self.hardware = hardware.restarted()
        self.logged = False

    def evidence(self, nonce: bytes) -> bytes:
        base = Transcript(
            nonce_root=nonce_root([nonce]),
            hpke=self.hpke,
            receipt=self.receipt,
            payee=self.payee,
            models=self.models,
            engine=bytes(32),
        )
        if not self.logged:
            extend_named(self.hardware, base)
            self.logged = True
        return encode_evidence(self.hardware.attest(base).evidence(inclusion_proof([nonce], 0)))
