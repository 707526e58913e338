"""Attested TLS identities of simulated hosts, good and forged."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.collect import extend_named
from attestation.evidence import Evidence, encode_evidence
from attestation.merkle import inclusion_proof, nonce_root
from attestation.policy import AppraisalPolicy
from attestation.ratls import TlsKeyStatement, build_certificate
from attestation.simulate import SimulatedHost
from attestation.tls import PeerCheck, TlsIdentity
from attestation.transcript import host_id
from tests.attestation.hosts import SNP_CPU, base_transcript, host, policy_for
from tests.attestation.vendors import NOW


class Clock:
    """Time that the test moves."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Member:
    """One enclave with its own keys on a simulated host; makes TLS identities as an enclave does."""

    receipt: Ed25519PrivateKey
    hardware: SimulatedHost

    @property
    def id(self) -> bytes:
        return host_id(b"h" * 1216, self.receipt.public_key().public_bytes_raw())

    def evidence(self, nonce: bytes) -> Evidence:
        """What its evidence endpoint answers to anybody who sends this nonce."""
        receipt = self.receipt.public_key().public_bytes_raw()
        base = base_transcript(receipt=receipt, nonce_root=nonce_root([nonce]))
        machine = self.hardware.restarted()
        extend_named(machine, base)
        return machine.attest(base).evidence(inclusion_proof([nonce], 0))

    def identity(self, now: datetime = NOW) -> TlsIdentity:
        key = Ed25519PrivateKey.generate()
        statement = statement_for(key, now)
        evidence = encode_evidence(self.evidence(statement.nonce))
        certificate = build_certificate(statement, evidence=evidence, signature=statement.sign(self.receipt))
        return TlsIdentity(key=key, certificate=certificate)


def statement_for(key: Ed25519PrivateKey, now: datetime = NOW) -> TlsKeyStatement:
    return TlsKeyStatement.of(key.public_key().public_bytes_raw(), now)


@cache
def member(name: str = "anna") -> Member:
    seed = name.encode().ljust(32, b"\0")
    return Member(Ed25519PrivateKey.from_private_bytes(seed), host(SNP_CPU))


def policy() -> AppraisalPolicy:
    return policy_for(host(SNP_CPU))


def check(host_id: bytes | None = None, *, clock: Clock | None = None, **changes: object) -> PeerCheck:
    return PeerCheck(policy_for(host(SNP_CPU), **changes), clock=clock or Clock(), host_id=host_id)
