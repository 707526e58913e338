"""`python -m tests.billing.devnet.doomed FOLDER N`: mint, and be killed just before the N-th SQL statement of it.

Prints `announced` when the faucet came back, and then is killed too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from billing.ton.devnet import AccountId, DevnetNode
from tests.billing.devnet.support import PAYEE, TON


async def main(folder: Path, last: int) -> None:
    node = DevnetNode.open(folder)
    left = last

    def count(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    node.store._database.set_trace_callback(count)
    await node.faucet(AccountId.parse(PAYEE), TON)
    print("announced", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
