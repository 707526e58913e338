"""`python -m billing.ton.devnet --port N --state DIR`: a devnet in a process of its own.

Prints one JSON line when it can be used: {"host", "port", "public_key" (base64), "network_id", "init_block" (a
key block, for clients that check signatures), "admin" (unix socket)}.
Ends on SIGTERM or SIGINT; with --parent-death also when the process that started it ends.
Exit status 2 and one line on stderr when it cannot start.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from pathlib import Path

from billing.errors import BillingError
from billing.ton.devnet.server import BLOCK_INTERVAL_S, LOOPBACK, serve_devnet

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Run until told to stop."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, stream=sys.stderr)
    if options.parent_death:
        _die_with_parent()
    try:
        asyncio.run(
            serve_devnet(
                options.state,
                host=options.host,
                port=options.port,
                block_interval_s=options.block_interval,
                announce=lambda devnet: print(json.dumps(devnet.summary()), flush=True),
            )
        )
    except (BillingError, OSError) as error:
        print(f"devnet: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m billing.ton.devnet", description="Run a local TON network.")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="TCP port of the lite-server; 0: any free one")
    parser.add_argument("--state", type=Path, required=True, help="folder of the chain; continued if it exists")
    parser.add_argument("--block-interval", type=float, default=BLOCK_INTERVAL_S, help="seconds (%(default)s)")
    parser.add_argument("--parent-death", action="store_true", help="end when the starting process ends")
    parser.add_argument("--verbose", action="store_true", help="log what happens")
    return parser


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
