"""`python -m tests.cluster.lying_enclave --config FILE`: the enclave as it is, but its engine's texts are altered.

An owner of an open host can do this: nothing proves which program runs there.
"""

import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import enclave.__main__ as program
from enclave.engine import Engine, load_engine
from enclave.engine.base import Ask, Piece


class Liar:
    """An engine that works, counts and bills as the real one, and answers something else."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The real pieces with their letters turned around."""
        async for piece in self._engine.answer(ask):
            yield replace(piece, text=piece.text.swapcase()[::-1])


async def load_liar(name: str, folder: Path, **more: int) -> Liar:
    return Liar(await load_engine(name, folder, **more))


if __name__ == "__main__":
    program.load_engine = load_liar
    sys.exit(program.main())
