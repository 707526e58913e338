"""`chrysalis settle` over a devnet: an operator's books without Ray, with a vault and its cold owner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from billing.books import Books
from billing.claim_proof import parse_address
from billing.ton.cells import address_of
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet, running_devnet
from billing.ton.settler import Settler
from chrysalis.cli import app
from cluster.config import NetworkConfig
from cluster.settlement_config import make_treasury
from tests.billing.ton.world import (
    OWNER_KEY,
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    config_of,
    deploy_registry,
    fund,
    owe,
    payees,
    wallet_of,
)

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def devnet(tmp_path: Path) -> AsyncIterator[Devnet]:
    async with running_devnet(tmp_path / "net") as devnet:
        yield devnet


@pytest.fixture
async def run(devnet: Devnet, tmp_path: Path) -> Run:
    """Settings of an operator with a vault, and the command over them."""
    keys = {"operator.key": b"\x01" * 32, "ticket.key": b"\x02" * 32}
    keys |= {"treasury.key": TREASURY_KEY.private_bytes_raw(), "owner.key": OWNER_KEY.private_bytes_raw()}
    for name, secret in keys.items():
        (tmp_path / name).write_text(secret.hex())
        (tmp_path / name).chmod(0o600)
    (tmp_path / "policy.yaml").write_text("roots: production\n")
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
    path = tmp_path / "operator.yaml"
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
            owe(books, dict.fromkeys(payees(3), 10 * TON), at=devnet.node.clock.now())

    async def run(command: str, *arguments: str) -> Result:
        line = ["settle", command, "--config", str(path), *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, line)

    return run


async def told(run: Run, command: str, *arguments: str) -> dict:
    result = await run(command, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_an_operator_settles_and_moves_its_surplus_to_the_cold_owner(run, devnet, tmp_path) -> None:
    address = await told(run, "address")
    assert address["sender"] == "vault"
    before = await told(run, "status")
    assert (before["balance"], before["owed"], before["movable"]) == (100 * TON, 30 * TON, 70 * TON)
    assert before["address"] == address["address"]

    paid = await told(run, "run", "--force")
    assert (paid["payouts"], paid["amount"], paid["difference"]) == (3, 30 * TON, 0)
    async with await ChainClient.connect(config_of(devnet)) as chain:
        assert await balances(chain, payees(3)) == [10 * TON] * 3
        after = await told(run, "status")
        assert (after["owed"], after["open"], after["refill"]) == (0, [], 0)
        assert "move" in after["alarms"][0]

        amount = str(40 * TON)
        too_much = await run("withdraw", str(80 * TON), "--owner-key", str(tmp_path / "owner.key"))
        assert too_much.exit_code == 1 and "InsufficientFundsError" in too_much.stderr
        moved = await told(run, "withdraw", amount, "--owner-key", str(tmp_path / "owner.key"))
        assert 40 * TON <= moved["withdrawn"] < 40 * TON + TON // 100
        state = await chain.account(address_of(parse_address(address["address"])))
    assert (await told(run, "run"))["difference"] == 0
    assert state.balance < 31 * TON


async def test_books_that_are_open_elsewhere_are_left_alone(run, tmp_path) -> None:
    with Books.open(tmp_path / "state" / "books.sqlite"):
        result = await run("run")
    assert result.exit_code == 1 and "JournalBusyError" in result.stderr


async def test_a_key_that_is_not_the_owners_withdraws_nothing(run, tmp_path) -> None:
    await told(run, "run", "--force")
    result = await run("withdraw", "1", "--owner-key", str(tmp_path / "operator.key"))
    assert result.exit_code == 2 and "the vault's owner is" in result.stderr


async def test_settings_that_do_not_hold_are_named(run, tmp_path) -> None:
    (tmp_path / "operator.yaml").write_text("{}")
    result = await run("status")
    assert result.exit_code == 2 and "lacks" in result.stderr
