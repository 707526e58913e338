"""What a registry of many operators costs its readers: size of the state, and a proved read of all of it.

    python bench/operators.py [--reads 40]

Clients and gateways read the registry anew when their copy is a refresh old. The state is proved down to its last cell
and parsed; client and devnet share one process and machine. docs/SCALE.md has what follows from it.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from devnet import machine
from pytoniq_core import Address

from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import NETWORK_ID, AccountId, Devnet, running_devnet
from billing.ton.registry import OperatorTerms, read_registry, registry_address, registry_init
from billing.ton.wallet import Transfer, Wallet, pay

TON = 1_000_000_000
OWNER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
OWNER = Wallet(public_key=OWNER_KEY.public_key().public_bytes_raw(), network_id=NETWORK_ID)
COUNTS = (1, 10, 100)
TERMS = OperatorTerms(
    name="operator",
    public_key=b"o" * 32,
    endpoints=("https://gateway-1.operator.example", "https://gateway-2.operator.example"),
    wallet=OWNER.address,
    fee_permille=50,
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--reads", type=int, default=40)
    reads = arguments.parse_args().reads
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), reads))


async def measure(folder: Path, reads: int) -> None:
    async with running_devnet(folder) as devnet:
        await devnet.node.faucet(AccountId(workchain=0, id=OWNER.address.hash_part), 100 * TON)
        config = ChainConfig(
            host=devnet.host,
            port=devnet.port,
            public_key=devnet.public_key,
            network_id=NETWORK_ID,
            init_block=devnet.init_block,
        )
        async with await ChainClient.connect(config, clock=lambda: now(devnet)) as chain:
            for count in COUNTS:
                address = await deploy(devnet, chain, count)
                size = len((await chain.account(address)).data.to_boc())
                times = [await read(chain, address, count) for _ in range(reads)]
                low, median, high = min(times), statistics.median(times), max(times)
                print(
                    f"{count:4} operators: {size:6} bytes of state; read with proof in {median:5.1f} ms of CPU "
                    f"({low:.1f} to {high:.1f}, {reads} reads)"
                )


async def deploy(devnet: Devnet, chain: ChainClient, count: int) -> Address:
    """A registry whose first state names so many operators."""
    operators = {
        number: replace(TERMS, name=f"operator {number}", wallet=Address((0, number.to_bytes(32, "big"))))
        for number in range(1, count + 1)
    }
    init = registry_init(network_id=NETWORK_ID, owner=OWNER.address, operators=operators)
    order = Transfer(destination=registry_address(init), amount=TON, state_init=init, bounce=False)
    await pay(chain, OWNER, OWNER_KEY, [order], now=now(devnet))
    await chain.wait_for(order.destination, lambda state: state.data is not None)
    return order.destination


def now(devnet: Devnet) -> datetime:
    return datetime.fromtimestamp(devnet.node.clock.now(), UTC)


async def read(chain: ChainClient, address: Address, count: int) -> float:
    began = time.process_time()
    state = await read_registry(chain, address)
    took = 1e3 * (time.process_time() - began)
    if len(state.operators) != count:
        raise AssertionError(f"{len(state.operators)} operators read, {count} deployed")
    return took


if __name__ == "__main__":
    main()
