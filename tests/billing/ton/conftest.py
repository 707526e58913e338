"""A devnet for each test, and a client of it whose clock is the chain's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet, running_devnet
from tests.billing.ton.world import chain_clock, config_of


@pytest.fixture
async def devnet(tmp_path: Path) -> AsyncIterator[Devnet]:
    async with running_devnet(tmp_path / "net") as devnet:
        yield devnet


@pytest.fixture
async def chain(devnet: Devnet) -> AsyncIterator[ChainClient]:
    client = await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet))
    yield client
    await client.close()
