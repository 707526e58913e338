"""The keeper of a model beside a real enclave that ends and begins anew."""

from __future__ import annotations

import asyncio

import pytest

from cluster.enclave_client import EnclaveControl, EnclaveControlError
from cluster.errors import EnclaveUnreachableError
from cluster.model_keeper import GRACE_S, ModelKeeper
from tests.enclave.support import MODEL, OTHER_MODEL, start_enclave

UNKNOWN = b"\x01" * 32


class Seconds:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def control(tmp_path):
    async with EnclaveControl(tmp_path / "control.sock") as control:
        yield control


async def serves(control: EnclaveControl, root: bytes) -> bool:
    return root.hex() in (await control.status())["models"]


async def test_a_model_that_a_new_enclave_does_not_have_yet_is_loaded_again(tmp_path, control) -> None:
    enclave = await start_enclave(tmp_path)
    keeper = ModelKeeper(control, OTHER_MODEL)
    await keeper.load()
    await enclave.stop(0.1)
    await keeper.check()  # it is away, and that is allowed for a while
    enclave = await start_enclave(tmp_path)
    assert not await serves(control, OTHER_MODEL)
    while not await serves(control, OTHER_MODEL):
        await keeper.check()
        await asyncio.sleep(0.01)
    await keeper.check()
    await keeper.close()
    await enclave.stop(0.1)


async def test_an_enclave_that_stays_away_is_reported_after_a_while(control) -> None:
    clock = Seconds()
    keeper = ModelKeeper(control, MODEL, clock=clock)
    clock.now = GRACE_S
    await keeper.check()
    clock.now = GRACE_S + 1
    with pytest.raises(EnclaveUnreachableError):
        await keeper.check()


async def test_a_refusal_to_load_is_reported_each_time(tmp_path, control) -> None:
    enclave = await start_enclave(tmp_path)
    keeper = ModelKeeper(control, UNKNOWN)
    for _ in range(2):
        await keeper.check()
        await asyncio.wait([keeper._loading])
        with pytest.raises(EnclaveControlError, match="root"):
            await keeper.check()
    await keeper.close()
    await enclave.stop(0.1)
