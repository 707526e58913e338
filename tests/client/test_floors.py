"""The client remembers how new vendors' lists have been, also after a restart."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation import Transcript, encode_evidence, inclusion_proof, nonce_root
from attestation.collect import extend_named
from attestation.floor_store import FloorStore
from attestation.policy import ReferenceValues
from attestation.sim.collateral import CollateralFaults
from attestation.simulate import SimulatedHost, SimulatedVendors
from attestation.transcript import host_id
from client.errors import ConfigError
from client.running import open_client
from client.verify import HostUnverifiedError, Verifier, load_policy
from client.wallet import Wallet
from tests.client.support import StaticRegistry, make_config, make_registry, write_policy

MODEL = b"m" * 32
KEYS = {"hpke": bytes(1216), "receipt": bytes(32)}
HOST = host_id(KEYS["hpke"], KEYS["receipt"])


def _verifier(folder: Path, vendors: SimulatedVendors, host: SimulatedHost) -> Verifier:
    write_policy(folder / "policy.yaml", vendors)
    policy = load_policy((folder / "policy.yaml").read_text(), network_id=-777)
    verifier = Verifier(
        policy, floors=FloorStore(folder / "floors"), clock=lambda: datetime.now(UTC), random=os.urandom
    )
    verifier.use_reference(
        ReferenceValues(
            measurements=frozenset({host.measurement_id()}), rims=host.rim_digests(), models=frozenset({MODEL})
        )
    )
    return verifier


async def _ask(verifier: Verifier, vendors: SimulatedVendors, host: SimulatedHost, evaluation: int) -> None:
    """Verify a host whose collateral has this TCB evaluation number."""
    fetched = vendors.refresh(host, now=datetime.now(UTC), faults=CollateralFaults(evaluation=evaluation)).restarted()

    async def fetch(nonce: bytes) -> bytes:
        base = Transcript(nonce_root=nonce_root([nonce]), payee=bytes(33), models=(MODEL,), engine=bytes(32), **KEYS)
        extend_named(fetched, base)
        return encode_evidence(fetched.attest(base).evidence(inclusion_proof([nonce], 0)))

    await verifier.verdict(HOST, MODEL, fetch)


async def test_old_signed_collateral_is_refused_once_newer_was_seen_also_after_a_restart(
    tmp_path: Path, vendors: SimulatedVendors, simulated: list[SimulatedHost]
) -> None:
    host = simulated[0]
    await _ask(_verifier(tmp_path, vendors, host), vendors, host, 17)
    await _ask(_verifier(tmp_path, vendors, host), vendors, host, 18)
    with pytest.raises(HostUnverifiedError, match="EndorsementRollbackError"):
        await _ask(_verifier(tmp_path, vendors, host), vendors, host, 17)
    await _ask(_verifier(tmp_path, vendors, host), vendors, host, 18)


async def test_a_client_with_a_damaged_file_does_not_start_and_forgets_nothing(
    tmp_path: Path, vendors: SimulatedVendors
) -> None:
    write_policy(tmp_path / "policy.yaml", vendors)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "floors").write_bytes(b"x" * 40)
    source = StaticRegistry(make_registry([], bytes(32), "http://x"))
    with pytest.raises(ConfigError, match="damaged"):
        async with open_client(make_config(tmp_path), Wallet.create(tmp_path / "wallet.key"), source):
            pass
