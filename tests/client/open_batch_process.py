"""A batch at open hosts in a process of its own, to be killed; what it needs comes pickled on standard input."""

import asyncio
import pickle
import random
import sys
from pathlib import Path

from attestation.verdict import Tier
from client.batch import BatchOptions
from client.open_batch import run_open_batch
from client.redundancy import Agreement, Rule
from client.running import open_parts
from client.wallet import Wallet
from tests.client.support import StaticRegistry


def main() -> None:
    state, config, source, out = pickle.load(sys.stdin.buffer)
    parts = open_parts(config, Wallet.open(config.wallet), StaticRegistry(state), tier=Tier.OPEN)
    rule, options = Rule(agreement=Agreement.EXACT), BatchOptions(concurrency=4)
    work = run_open_batch(
        parts, Path(source), Path(out), options, rule=rule, report=lambda _: None, random=random.random
    )
    asyncio.run(work)


if __name__ == "__main__":
    main()
