"""The local chain: a devnet, the accounts of everybody in the story, and the registry contract they all read."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.money import Nanotons
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import DevnetAdmin
from billing.ton.devnet.server import LOOPBACK
from billing.ton.registry import (
    CHANGE_VALUE,
    Measurement,
    ModelTerms,
    OperatorTerms,
    registry_address,
    registry_init,
    set_measurement_body,
    set_model_body,
    set_rim_body,
)
from billing.ton.wallet import Transfer, Wallet, pay
from cluster.processes import Supervisor

START_TIMEOUT_S = 30.0
OPERATOR_ID = 1
DEPLOY_VALUE = Nanotons(200_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntries:
    """What governance writes into the registry: reference values, models, operator."""

    measurements: Mapping[bytes, Measurement]  # by measurement id
    rims: Sequence[bytes]  # SHA-256 of reference manifests
    models: Mapping[bytes, ModelTerms]  # by manifest root
    operator: OperatorTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalChain:
    """A running devnet: how to read it, and its faucet."""

    config: ChainConfig
    admin: DevnetAdmin


def start_devnet(supervisor: Supervisor, folder: Path, *, port: int, host: str = LOOPBACK) -> LocalChain:
    """Start the devnet and wait until its lite-server answers."""
    argv = [sys.executable, "-m", "billing.ton.devnet", "--host", host, "--port", str(port)]
    argv += ["--state", str(folder), "--parent-death"]
    _, ready = supervisor.start_reporting("devnet", argv, timeout_s=START_TIMEOUT_S)
    config = ChainConfig(
        host=ready["host"],
        port=ready["port"],
        public_key=ready["public_key"],
        network_id=ready["network_id"],
        init_block=ready["init_block"],
    )
    return LocalChain(config=config, admin=DevnetAdmin(ready["admin"]))


async def deploy_registry(chain: ChainClient, owner: Ed25519PrivateKey, entries: RegistryEntries) -> Address:
    """Deploy the registry from its owner's wallet and fill it; the owner needs a funded wallet V5."""
    wallet = Wallet(public_key=owner.public_key().public_bytes_raw(), network_id=chain.config.network_id)
    init = registry_init(
        network_id=chain.config.network_id, owner=wallet.address, operators={OPERATOR_ID: entries.operator}
    )
    address = registry_address(init)
    bodies = [
        *(set_measurement_body(key, value) for key, value in entries.measurements.items()),
        *(set_rim_body(digest) for digest in entries.rims),
        *(set_model_body(root, terms) for root, terms in entries.models.items()),
    ]
    deploy = Transfer(destination=address, amount=DEPLOY_VALUE, state_init=init, bounce=False)
    changes = [Transfer(destination=address, amount=CHANGE_VALUE, body=body) for body in bodies]
    await pay(chain, wallet, owner, [deploy, *changes], now=datetime.now(UTC))
    return address
