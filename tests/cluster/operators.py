"""An operator's settings with a vault as treasury, over a devnet, and books that owe money."""

from __future__ import annotations

from pathlib import Path

import yaml

from billing.books import Books
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet
from billing.ton.settler import Settler
from cluster.config import NetworkConfig
from cluster.settlement_config import make_treasury
from tests.billing.ton.world import (
    OWNER_KEY,
    TON,
    TREASURY_KEY,
    chain_clock,
    config_of,
    deploy_registry,
    fund,
    owe,
    wallet_of,
)


async def vault_operator(devnet: Devnet, folder: Path, debts: dict[bytes, int]) -> Path:
    """The settings file; 100 TON in the vault, an owner with a wallet, `debts` to payees."""
    keys = {"operator.key": b"\x01" * 32, "ticket.key": b"\x02" * 32}
    keys |= {"treasury.key": TREASURY_KEY.private_bytes_raw(), "owner.key": OWNER_KEY.private_bytes_raw()}
    for name, secret in keys.items():
        (folder / name).write_text(secret.hex())
        (folder / name).chmod(0o600)
    (folder / "policy.yaml").write_text("roots: production\n")
    config = config_of(devnet)
    owner = wallet_of(OWNER_KEY).address.to_str(is_user_friendly=False)
    values = {
        "chain": {name: getattr(config, name) for name in ("host", "port", "public_key", "network_id")},
        "registry": "0:" + "00" * 32,
        "policy": "policy.yaml",
        "state": "state",
        "operator_key": "operator.key",
        "treasury_key": "treasury.key",
        "ticket_key": "ticket.key",
        "relay": "127.0.0.1:8443",
        "settlement": {"sender": "vault", "vault": {"owner": owner}, "float_cap": 20 * TON, "refill_below": TON},
    }
    path = folder / "operator.yaml"
    path.write_text(yaml.safe_dump(values))
    settings = NetworkConfig.load(path)
    vault = make_treasury(
        settings.settlement,
        public_key=TREASURY_KEY.public_key().public_bytes_raw(),
        network_id=-777,
        state=settings.state,
    )
    await fund(devnet, vault.address, 100 * TON)
    async with await ChainClient.connect(config, clock=chain_clock(devnet)) as chain:
        registry = await deploy_registry(devnet, chain, operator_wallet=vault.address)
        path.write_text(yaml.safe_dump(values | {"registry": registry.address.to_str(is_user_friendly=False)}))
        settings.state.mkdir()
        with Books.open(settings.state / "books.sqlite") as books:
            settler = Settler(chain=chain, books=books, wallet=vault, key=TREASURY_KEY, clock=chain_clock(devnet))
            await settler.tick()
            owe(books, debts, at=devnet.node.clock.now())
    return path
