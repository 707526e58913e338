from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pytoniq import LiteClient

from billing.ton.devnet import Devnet, running_devnet
from tests.billing.devnet.support import client_of


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Devnet]:
    """A fresh devnet that cuts blocks only when something happens."""
    async with running_devnet(tmp_path / "net", block_interval_s=60) as devnet:
        yield devnet


@pytest.fixture
async def client(net: Devnet) -> AsyncIterator[LiteClient]:
    """An unmodified pytoniq client that checks every proof."""
    async with client_of(net) as connected:
        yield connected
