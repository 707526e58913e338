"""An enclave process with an engine that only echoes: the real front, sealing, credit, receipts; no model, no TEE.

    python bench/echo_enclave.py --state DIR --operator-key HEX [--delay-ms 0] [--debug]

Prints the same JSON line as `python -m enclave`, with the model's root and the public keys that a client needs.
"""

import argparse
import asyncio
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from attestation.collect import NoTee
from attestation.sealed_state import UnsafeFileKeySource
from enclave.enclave import Enclave, Facts
from enclave.engine import Engine
from enclave.engine.echo import EchoEngine
from enclave.process import die_with_parent, freeze_memory, harden
from enclave.service import Limits

MODEL = b"m" * 32


def main() -> None:
    parent = os.getppid()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--operator-key", type=bytes.fromhex, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--debug", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING)
    die_with_parent(parent)
    harden()
    uvloop.run(serve(options), debug=options.debug)


async def serve(options: argparse.Namespace) -> None:
    async def load(_: Path) -> Engine:
        return EchoEngine(delay_s=options.delay_ms / 1000)

    facts = Facts(
        host="127.0.0.1",
        port=0,
        control=options.state / "control",
        state=options.state,
        payee=bytes(33),
        operator_key=options.operator_key,
        coefficient=1000,
        models={MODEL: Path("echo")},
        engine_digest=bytes(32),
        limits=Limits(running=256, waiting=256),
    )
    enclave = await Enclave.start(
        facts,
        attester=NoTee(),
        sealing=UnsafeFileKeySource(facts.state / "unsafe-sealing-key"),
        load=load,
        clock=lambda: datetime.now(UTC),
        random=os.urandom,
    )
    await enclave.service.models.load(MODEL)
    freeze_memory()
    keys = enclave.service.keys
    line = {
        "host_id": enclave.host_id.hex(),
        "address": enclave.address,
        "control": os.fspath(facts.control),
        "pid": os.getpid(),
        "model_root": MODEL.hex(),
        "hpke": keys.hpke.public.hex(),
        "receipt_key": keys.receipt_public.hex(),
    }
    print(json.dumps(line), flush=True)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(15, enclave.ask_to_stop)
    await enclave.run()


if __name__ == "__main__":
    main()
