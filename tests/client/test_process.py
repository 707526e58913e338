"""The sidecar as a process of its own: registry from a real chain, a host verified by it, one question answered."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import AsyncOpenAI

from attestation.simulate import SimulatedHost, SimulatedVendors
from billing.ton.client import ChainClient
from billing.ton.devnet import NETWORK_ID, Devnet, running_devnet
from billing.ton.registry import (
    CHANGE_VALUE,
    Measurement,
    ModelTerms,
    OperatorTerms,
    set_measurement_body,
    set_model_body,
    set_operator_body,
    set_rim_body,
)
from billing.ton.wallet import Transfer
from tests.billing.ton.world import chain_clock, config_of, deploy_registry, treasury
from tests.client.support import CHAT, MODEL, TARIFF, Operator, start_enclave, write_policy


async def govern(devnet: Devnet, operator: Operator, host: SimulatedHost) -> str:
    """Deploy a registry that allows the host, and return its address."""
    chain = await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet))
    registry = await deploy_registry(devnet, chain)
    terms = OperatorTerms(
        name="operator",
        public_key=operator.public_key,
        endpoints=(operator.url,),
        wallet=treasury().address,
        fee_permille=50,
    )
    bodies = [
        set_measurement_body(host.measurement_id(), Measurement(kind=1, label="simulated")),
        *(set_rim_body(digest) for digest in host.rim_digests()),
        set_model_body(MODEL, ModelTerms(name="echo", tariff=TARIFF, context=32768)),
        set_operator_body(1, terms),
    ]
    for i in range(0, len(bodies), 4):
        changes = [Transfer(destination=registry.address, amount=CHANGE_VALUE, body=b) for b in bodies[i : i + 4]]
        await registry.change(chain, chain_clock(devnet)(), *changes)
    await chain.close()
    return str(registry.address.to_str(is_user_friendly=False))


@asynccontextmanager
async def running_client(config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "client",
        "--config",
        str(config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            yield process, json.loads(await process.stdout.readline() or b"{}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def devnet(tmp_path: Path) -> AsyncIterator[Devnet]:
    async with running_devnet(tmp_path / "net") as devnet:
        yield devnet


async def test_the_process_reads_the_chain_verifies_a_host_and_answers(
    tmp_path: Path, devnet: Devnet, vendors: SimulatedVendors, simulated: list[SimulatedHost]
) -> None:
    operator = Operator()
    async with operator.serve():
        operator.enclaves = [await start_enclave(tmp_path / "h", simulated[0], operator.public_key, bytes(33))]
        address = await govern(devnet, operator, simulated[0])
        write_policy(tmp_path / "policy.yaml", vendors)
        server = {"host": devnet.host, "port": devnet.port, "public_key": devnet.public_key, "network_id": NETWORK_ID}
        settings = {
            "wallet": "wallet.key",
            "state": "state",
            "policy": "policy.yaml",
            "registry": {"address": address, "lite_server": server},
        }
        (tmp_path / "client.yaml").write_text(yaml.safe_dump(settings))
        async with running_client(tmp_path / "client.yaml") as (process, said):
            async with AsyncOpenAI(base_url=said["base_url"], api_key="x", max_retries=0) as sdk:
                answer = await sdk.chat.completions.create(**CHAT)
                assert answer.choices[0].message.content == "one two three four five"
            assert operator.orders[0].account.hex() == said["account"]
            process.send_signal(signal.SIGTERM)
            _, log = await process.communicate()
        assert process.returncode in {0, -signal.SIGTERM}
        assert b"Traceback" not in log
        await operator.enclaves[0].stop(0)


async def test_without_a_registry_the_process_says_so_and_ends(tmp_path: Path, devnet: Devnet) -> None:
    (tmp_path / "policy.yaml").write_text("required_tier: confidential\n")
    server = {"host": devnet.host, "port": devnet.port, "public_key": devnet.public_key, "network_id": NETWORK_ID}
    settings = {
        "wallet": "wallet.key",
        "state": "state",
        "policy": "policy.yaml",
        "registry": {"address": "0:" + "11" * 32, "lite_server": server},
    }
    (tmp_path / "client.yaml").write_text(yaml.safe_dump(settings))
    async with running_client(tmp_path / "client.yaml") as (process, said):
        assert said == {}
        _, log = await process.communicate()
    assert process.returncode == 2
    assert b"the registry cannot be read" in log
    assert b"Traceback" not in log
