"""The sidecar as a process that opens its payment channel, pays, dies, and goes on where it was."""

import asyncio
import signal
import sys
from pathlib import Path

import yaml
from openai import AsyncOpenAI

from attestation.simulate import SimulatedHost, SimulatedVendors
from billing.ton.channel import read_channel
from billing.ton.devnet import NETWORK_ID
from tests.billing.ton.world import TON
from tests.client.paying import CLIENT_KEY, PaidNetwork, paid_world
from tests.client.support import BUDGET, CHAT, start_enclave, write_policy
from tests.client.test_channel import promised
from tests.client.test_process import govern, running_client


async def ask(base_url: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as sdk:
        answer = await sdk.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == "one two three four five"


async def test_a_client_that_is_killed_goes_on_from_the_vouchers_on_its_disk(
    tmp_path: Path, vendors: SimulatedVendors, simulated: list[SimulatedHost]
) -> None:
    async with paid_world(tmp_path) as (devnet, chain, operator), operator.serve():
        operator.enclaves = [await start_enclave(tmp_path / "h", simulated[0], operator.public_key, bytes(33))]
        server = {"host": devnet.host, "port": devnet.port, "public_key": devnet.public_key, "network_id": NETWORK_ID}
        write_policy(tmp_path / "policy.yaml", vendors)
        (tmp_path / "wallet.key").write_text(CLIENT_KEY.private_bytes_raw().hex())
        (tmp_path / "wallet.key").chmod(0o600)
        settings = tmp_path / "client.yaml"
        values = {
            "wallet": "wallet.key",
            "state": "state",
            "policy": "policy.yaml",
            "budget": BUDGET,
            "registry": {"address": await govern(devnet, operator, simulated[0]), "lite_server": server},
            "payment": "channel",
            "channel": {"deposit": 2 * TON},
        }
        settings.write_text(yaml.safe_dump(values))
        for end in (signal.SIGKILL, signal.SIGTERM):
            async with running_client(settings) as (process, said):
                await ask(said["base_url"])
                process.send_signal(end)
                _, log = await process.communicate()
            assert b"Traceback" not in log
            assert CLIENT_KEY.private_bytes_raw().hex().encode() not in log
        assert promised_totals(operator) == [BUDGET, 2 * BUDGET]
        terms = PaidNetwork(network=None, operator=operator, devnet=devnet, chain=chain).terms  # type: ignore[arg-type]
        assert 2 * TON < (await read_channel(chain, terms)).payable < 2 * TON + TON // 100, "it was opened once"
        assert await close(settings) == (2, True)
        await operator.enclaves[0].stop(0)


def promised_totals(operator: object) -> list[int]:
    return promised(PaidNetwork(network=None, operator=operator, devnet=None, chain=None))  # type: ignore[arg-type]


async def close(settings: Path) -> tuple[int | None, bool]:
    """Exit status of the command that closes the channel, and whether it says that leases are under way."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "client",
        "--config",
        str(settings),
        "--close-channel",
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    async with asyncio.timeout(60):
        _, log = await process.communicate()
    return process.returncode, b"are under way" in log and b"Traceback" not in log
