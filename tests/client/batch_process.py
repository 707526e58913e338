"""A batch in a process of its own, to be killed: registry, settings and paths come pickled on standard input."""

import asyncio
import pickle
import random
import sys
from pathlib import Path

from client.batch import BatchOptions, run_batch
from client.running import open_parts
from client.wallet import Wallet
from tests.client.support import StaticRegistry


def main() -> None:
    state, config, source, out = pickle.load(sys.stdin.buffer)
    parts = open_parts(config, Wallet.open(config.wallet), StaticRegistry(state))
    options = BatchOptions(concurrency=4)
    asyncio.run(run_batch(parts, Path(source), Path(out), options, report=lambda _: None, random=random.random))


if __name__ == "__main__":
    main()
