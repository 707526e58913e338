"""`chrysalis settle` over a devnet: an operator's books without Ray, with a vault and its cold owner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from billing.books import Books
from billing.claim_proof import parse_address
from billing.ton.cells import address_of
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet, running_devnet
from chrysalis.cli import app
from tests.billing.ton.world import (
    TON,
    balances,
    config_of,
    payees,
)
from tests.cluster.operators import vault_operator

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def devnet(tmp_path: Path) -> AsyncIterator[Devnet]:
    async with running_devnet(tmp_path / "net") as devnet:
        yield devnet


@pytest.fixture
async def run(devnet: Devnet, tmp_path: Path) -> Run:
    """The command over the settings of an operator with a vault."""
    path = await vault_operator(devnet, tmp_path, dict.fromkeys(payees(3), 10 * TON))

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
