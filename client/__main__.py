"""`python -m client --config FILE`: run the sidecar. Prints one JSON line when it listens.

With `--close-channel`, while no sidecar runs: close the payment channel together with the operator instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from client.config import load_config
from client.errors import ClientError
from client.running import close_channel, run_sidecar


def main() -> int:
    """Run until told to stop; 2 means that something has to be changed first."""
    parser = argparse.ArgumentParser(prog="python -m client", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML settings, see client/config.py")
    parser.add_argument(
        "--close-channel", action="store_true", help="take what is not spent out of the payment channel"
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    options = parser.parse_args()
    try:
        if options.close_channel:
            closed = asyncio.run(close_channel(load_config(options.config)))
            print(json.dumps({"closed": closed.address.to_str(is_user_friendly=False), "paid": closed.redeemed}))
        else:
            asyncio.run(run_sidecar(load_config(options.config), _announce))
    except ClientError as error:
        print(f"client: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _announce(url: str, account: str) -> None:
    print(json.dumps({"listening": url, "base_url": f"{url}/v1", "account": account}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
