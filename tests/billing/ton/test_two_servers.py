"""Two lite-servers that must show the same blocks, and what happens when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from billing.books import Books
from billing.errors import ChainsDisagreeError, ChainUnreachableError, StaleChainError
from billing.ton.client import ChainClient, LiteServerConfig
from billing.ton.devnet import Devnet, running_devnet
from billing.ton.settler import Settler
from tests.billing.ton.world import (
    EVERYBODY,
    TON,
    TREASURY_KEY,
    balances,
    chain_clock,
    config_of,
    fund,
    owe,
    payees,
    treasury,
)


def server(devnet: Devnet) -> LiteServerConfig:
    return LiteServerConfig(host=devnet.host, port=devnet.port, public_key=devnet.public_key)


async def connect(first: Devnet, second: LiteServerConfig, **changes: object) -> ChainClient:
    return await ChainClient.connect(config_of(first, second=second, **changes), clock=chain_clock(first))


async def catch_up(behind: Devnet, ahead: Devnet) -> None:
    """Let a chain grow longer than another one."""
    while behind.node.newest.master.seqno <= ahead.node.newest.master.seqno + 2:
        await fund(behind, treasury().address, 1)


async def test_two_that_agree_pay(devnet: Devnet, tmp_path: Path) -> None:
    async with await connect(devnet, server(devnet)) as chain:
        with Books.open(tmp_path / "books") as books:
            await fund(devnet, treasury().address, 100 * TON)
            settler = Settler(chain=chain, books=books, wallet=treasury(), key=TREASURY_KEY, clock=chain_clock(devnet))
            await settler.tick()
            owe(books, dict.fromkeys(payees(2), TON), at=devnet.node.clock.now())
            await settler.plan(EVERYBODY)
            await settler.settle()
        while devnet.node.chain.pending:
            await devnet.node.tick()
        assert await balances(chain, payees(2)) == [TON] * 2


async def test_two_that_disagree_are_both_believed_nothing(devnet: Devnet, tmp_path: Path) -> None:
    """Each shows a chain of its own, complete with proofs and signatures: only the comparison shows it."""
    await fund(devnet, treasury().address, TON)  # the first blocks of all devnets are the same
    async with running_devnet(tmp_path / "other") as other:
        await catch_up(other, devnet)
        with pytest.raises(ChainsDisagreeError, match="nothing is booked or sent"):
            await connect(devnet, server(other))


async def test_a_chain_that_forks_under_way_books_and_sends_nothing(devnet: Devnet, tmp_path: Path) -> None:
    async with running_devnet(tmp_path / "other") as other, await connect(devnet, server(devnet)) as chain:
        await fund(devnet, treasury().address, 100 * TON)
        with Books.open(tmp_path / "books") as books:
            settler = Settler(chain=chain, books=books, wallet=treasury(), key=TREASURY_KEY, clock=chain_clock(devnet))
            await settler.tick()
            owe(books, dict.fromkeys(payees(2), TON), at=devnet.node.clock.now())
            await settler.plan(EVERYBODY)
            await fund(devnet, treasury().address, TON)  # not yet booked
            await catch_up(other, devnet)
            before, balances_before = len(books._journal), dict(books.ledger.balances())
            forked = await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet))
            forked._second = await ChainClient.connect(config_of(other), clock=chain_clock(other))
            settler = Settler(chain=forked, books=books, wallet=treasury(), key=TREASURY_KEY, clock=chain_clock(devnet))
            with pytest.raises(ChainsDisagreeError):
                await settler.tick()
            assert (len(books._journal), dict(books.ledger.balances())) == (before, balances_before)
            await forked.close()


async def test_a_second_server_that_is_gone_is_named(devnet: Devnet) -> None:
    gone = LiteServerConfig(host="127.0.0.1", port=1, public_key=devnet.public_key)
    with pytest.raises(ChainUnreachableError, match=r"127\.0\.0\.1:1"):
        await connect(devnet, gone, timeout_s=1.0)


async def test_a_second_server_that_stays_behind_is_named(devnet: Devnet, tmp_path: Path) -> None:
    async with running_devnet(tmp_path / "other") as other:
        await catch_up(devnet, other)
        with pytest.raises(StaleChainError, match="behind the first"):
            await connect(devnet, server(other), timeout_s=1.0)
