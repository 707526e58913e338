"""The enclave as it is, with an engine that answers at once; prints where it listens."""

import argparse
import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from attestation.collect import NoTee
from attestation.sealed_state import UnsafeFileKeySource
from enclave.enclave import Enclave, Facts
from enclave.engine import Ask, Engine, Piece
from enclave.engine.base import Message
from enclave.engine.echo import EchoEngine
from enclave.process import freeze_memory
from enclave.service import Limits

MODEL = bytes(32)


TOKENS, PROMPT_TOKENS = 20, 60


class ReadyEngine(EchoEngine):
    """Prompt and answer are tokens already, as the peers' server counts none: nothing is computed or waited for."""

    def __init__(self) -> None:
        super().__init__()
        ends = [None] * (TOKENS - 1) + ["length"]
        self._pieces = [
            Piece(text=f"word{number} ", output_tokens=number + 1, finish=finish) for number, finish in enumerate(ends)
        ]
        text = "".join(piece.text for piece in self._pieces)
        self._whole = [Piece(text=text, output_tokens=TOKENS, finish="length")]
        self._prompt = tuple(range(PROMPT_TOKENS))

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:  # noqa: ARG002  the server beside it reads none
        return self._prompt

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        for piece in self._whole if ask.whole else self._pieces:
            yield piece


async def load(_: Path) -> Engine:
    return ReadyEngine()


async def serve(operator_key: bytes, folder: Path) -> None:
    facts = Facts(
        host="127.0.0.1",
        port=0,
        control=folder / "control.sock",
        state=folder / "state",
        payee=bytes(33),
        operator_key=operator_key,
        coefficient=1000,
        models={MODEL: folder},
        engine_digest=bytes(32),
        limits=Limits(running=128, waiting=128),
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
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, enclave.ask_to_stop)
    keys = enclave.service.keys
    line = {"address": enclave.address, "host_id": enclave.host_id.hex(), "hpke": keys.hpke.public.hex()}
    print(json.dumps(line | {"receipt": keys.receipt_public.hex()}), flush=True)
    await enclave.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("operator_key")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    uvloop.run(serve(bytes.fromhex(arguments.operator_key), arguments.folder))
