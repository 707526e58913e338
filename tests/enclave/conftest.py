"""An enclave for each test, stopped afterwards."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enclave.enclave import Enclave
from tests.enclave.support import Client, Starter, start_enclave


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Starter]:
    started: list[Enclave] = []

    async def begin(**changes: object) -> Enclave:
        enclave = await start_enclave(tmp_path / str(len(started)), **changes)
        started.append(enclave)
        return enclave

    yield begin
    for enclave in started:
        await enclave.stop(0.1)


@pytest.fixture
async def enclave(start: Starter) -> Enclave:
    return await start()


@pytest.fixture
async def client(enclave: Enclave) -> Client:
    return Client(enclave)
