"""Simulated vendors once, a network of three hosts for each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest
from openai import AsyncOpenAI

from attestation.simulate import SimulatedHost, SimulatedVendors
from attestation.verdict import TeeKind
from tests.client.support import Network, run_network


class StartNetwork(Protocol):
    def __call__(
        self, hosts: list[SimulatedHost] | None = None, **changes: Any
    ) -> AbstractAsyncContextManager[Network]: ...


@pytest.fixture(scope="session")
def vendors() -> SimulatedVendors:
    return SimulatedVendors.create(datetime.now(UTC))


@pytest.fixture(scope="session")
def simulated(vendors: SimulatedVendors) -> list[SimulatedHost]:
    return [
        vendors.make_host(TeeKind.TDX, gpus=1, quote_latency_s=0),
        vendors.make_host(TeeKind.SEV_SNP, gpus=2, quote_latency_s=0),
        vendors.make_host(TeeKind.TDX, quote_latency_s=0),
    ]


@pytest.fixture
def start_network(tmp_path: Path, vendors: SimulatedVendors, simulated: list[SimulatedHost]) -> Iterator[StartNetwork]:
    def start(hosts: list[SimulatedHost] | None = None, **changes: Any) -> AbstractAsyncContextManager[Network]:
        return run_network(tmp_path, vendors, hosts or simulated, **changes)

    yield start


@pytest.fixture
async def network(start_network: StartNetwork) -> AsyncIterator[Network]:
    async with start_network() as network:
        yield network


@pytest.fixture
async def sdk(network: Network) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="local", max_retries=0) as sdk:
        yield sdk
