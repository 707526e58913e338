"""`chrysalis demo --treasury vault` without Ray: its chain, the settings it writes, a payment from its vault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from billing.books import Books
from billing.entitlements import Entitlements
from billing.ton.client import ChainClient
from billing.ton.vault import read_vault
from chrysalis.cli import app
from chrysalis.demo.run import _plan
from chrysalis.local.network import LocalNetwork
from cluster.config import NetworkConfig
from cluster.settlement_config import SenderKind
from tests.billing.ton.world import balances, owe, payees

BASE_PORT = 23_600
DEBTS = dict.fromkeys(payees(2), 5_000_000)  # nanotons


@pytest.fixture
def network() -> Iterator[LocalNetwork]:
    network = LocalNetwork(_plan("torch", SenderKind.VAULT, BASE_PORT, None))
    try:
        asyncio.run(network.start_chain())
        yield network
    finally:
        assert network.stop() == []


def test_the_demos_vault_pays_from_what_the_faucet_gave_it(network: LocalNetwork) -> None:
    settings = network.folder / "operator" / "operator.yaml"

    def settle(command: str, *more: str) -> dict:
        result = CliRunner().invoke(app, ["settle", command, "--config", str(settings), "--json", *more])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert settle("address")["sender"] == "vault"
    settle("run")  # books what the faucet gave
    with Books.open(NetworkConfig.load(settings).books) as books:
        owe(books, DEBTS, at=int(datetime.now(UTC).timestamp()))
    paid = settle("run")
    assert (len(paid["batches"]), paid["payouts"], paid["amount"]) == (1, 2, sum(DEBTS.values()))
    assert (paid["difference"], paid["alarms"]) == (0, [])

    async def look() -> tuple[bytes, list[int]]:
        async with await ChainClient.connect(network.chain.config) as chain:
            vault = await read_vault(chain, network.treasury.address)
            return vault.root, await balances(chain, list(DEBTS))

    assert asyncio.run(look()) == (Entitlements(amounts={}).root, list(DEBTS.values()))
