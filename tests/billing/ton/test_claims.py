"""An owner claims with a saved proof, and no operator is there any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billing.books import Books
from billing.claim_proof import ClaimProof
from billing.errors import MissingEntitlementsError, NothingToClaimError, StaleClaimError, WrongNetworkError
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.cells import payee_of
from billing.ton.claims import check_claim, send_claim
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet
from billing.ton.settler import Settler
from chrysalis.cli import app
from tests.billing.ton.world import (
    CLIENT_KEY,
    OWNER_KEY,
    TON,
    TREASURY_KEY,
    chain_clock,
    deploy_registry,
    fund,
    owe,
    payees,
    vault_sender,
    wallet_of,
)

NOBODY_YET = SettlementPolicy(threshold=Nanotons(1000 * TON), max_age_s=10**9)
PAYEE = payee_of(wallet_of(CLIENT_KEY).address)


@dataclass(kw_only=True)
class Operator:
    """A vault with something anchored for the payee."""

    devnet: Devnet
    chain: ChainClient
    books: Books
    settler: Settler

    async def anchor(self, amount: int) -> ClaimProof:
        owe(self.books, {PAYEE: amount, **dict.fromkeys(payees(6), TON)}, at=self.devnet.node.clock.now())
        await self.settler.plan(NOBODY_YET)
        await self.settler.settle()
        await self.settler.tick()
        return self.settler.claim_proof(PAYEE)


@pytest.fixture
async def operator(devnet: Devnet, chain: ChainClient, tmp_path: Path) -> AsyncIterator[Operator]:
    vault = vault_sender(tmp_path / "roots")
    await fund(devnet, vault.address, 1000 * TON)
    await fund(devnet, wallet_of(CLIENT_KEY).address, TON)
    registry = (await deploy_registry(devnet, chain, operator_wallet=vault.address)).address
    with Books.open(tmp_path / "books") as books:
        settler = Settler(
            chain=chain,
            books=books,
            wallet=vault,
            key=TREASURY_KEY,
            registry=registry,
            clock=chain_clock(devnet),
        )
        await settler.tick()
        yield Operator(devnet=devnet, chain=chain, books=books, settler=settler)


async def test_a_saved_proof_is_paid_without_the_operator(operator: Operator) -> None:
    saved = (await operator.anchor(2 * TON)).to_json()
    operator.books.close()
    proof = ClaimProof.parse(saved)
    now = chain_clock(operator.devnet)()
    assert await send_claim(operator.chain, proof, CLIENT_KEY, now=now) == 2 * TON
    with pytest.raises(NothingToClaimError, match="paid"):
        await send_claim(operator.chain, proof, CLIENT_KEY, now=now)


async def test_the_next_order_replaces_the_proof(operator: Operator) -> None:
    old = await operator.anchor(TON)
    new = await operator.anchor(TON)
    with pytest.raises(StaleClaimError, match="fetch a newer proof"):
        await check_claim(operator.chain, old)
    assert (new.entitled, new.seqno) == (2 * TON, 2)
    await check_claim(operator.chain, new)


async def test_another_wallet_or_network_is_refused_before_anything_is_sent(operator: Operator) -> None:
    proof = await operator.anchor(TON)
    with pytest.raises(NothingToClaimError, match="that wallet's key"):
        await send_claim(operator.chain, proof, OWNER_KEY, now=chain_clock(operator.devnet)())
    with pytest.raises(WrongNetworkError):
        await check_claim(operator.chain, replace(proof, network_id=-239))


async def test_leaves_that_were_lost_are_named(operator: Operator, tmp_path: Path) -> None:
    await operator.anchor(TON)
    for file in (tmp_path / "roots").iterdir():
        file.unlink()
    with pytest.raises(MissingEntitlementsError, match="restore it"):
        operator.settler.claim_proof(PAYEE)


async def test_the_claim_command_checks_and_sends(operator: Operator, tmp_path: Path, monkeypatch) -> None:
    proof = await operator.anchor(2 * TON)
    saved, chain, key = (tmp_path / name for name in ("proof.json", "chain.yaml", "wallet.key"))
    saved.write_text(proof.to_json())
    config = operator.chain.config
    chain.write_text(json.dumps({name: getattr(config, name) for name in ("host", "port", "public_key", "network_id")}))
    key.write_text(CLIENT_KEY.private_bytes_raw().hex())
    key.chmod(0o600)

    async def run(*arguments: str):
        return await asyncio.to_thread(CliRunner().invoke, app, ["claim", *arguments])

    good = await run("check", str(saved), "--chain", str(chain), "--json")
    assert (good.exit_code, json.loads(good.stdout)["outcome"]) == (0, "good"), good.output
    paid = await run("send", str(saved), "--chain", str(chain), "--key", str(key), "--json")
    assert (paid.exit_code, json.loads(paid.stdout)["paid"]) == (0, 2 * TON), paid.output
    again = await run("check", str(saved), "--chain", str(chain))
    assert again.exit_code == 1 and "NothingToClaimError" in again.stderr
    saved.write_text("{}")
    damaged = await run("check", str(saved), "--chain", str(chain))
    assert damaged.exit_code == 1 and "malformed claim proof" in damaged.stderr
    assert (await run("check", str(tmp_path / "nowhere"), "--chain", str(chain))).exit_code == 2
