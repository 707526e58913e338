"""Answers in the shapes of the OpenAI API: one object, or the chunks of a stream."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import NamedTuple

from attestation.frames import Endpoint
from billing.money import Nanotons
from billing.tariff import Usage
from enclave.engine import Finish, Piece

_quoted = json.encoder.encode_basestring_ascii  # a JSON string; a whole encoder would cost more than the sealing
ROLE = '"role":"assistant",'


class AnswerShape(NamedTuple):
    """What all parts of one answer have in common. The JSON is put together from parts that are JSON already."""

    endpoint: Endpoint
    id: str  # letters, digits and hyphens
    created: int  # unix seconds
    model: str  # as the client called it

    def whole(self, text: str, finish: Finish, usage: Usage, cost: Nanotons) -> bytes:
        """The answer as one JSON object."""
        said = f'"text":{_quoted(text)}'
        if self._chat:
            said = f'"message":{{"role":"assistant","content":{_quoted(text)},"refusal":null}}'
        choice = f'{{"index":0,"finish_reason":"{finish}","logprobs":null,{said}}}'
        return f'{self._common(self._kind)},"choices":[{choice}],{_usage(usage, cost)}}}'.encode()

    def opening(self, *, first: bool) -> bytes:
        """A stream's chunk up to its text: two values serve a whole stream; the first one also names the role."""
        said = '"text":'
        if self._chat:
            said = f'"delta":{{{ROLE if first else ""}"content":'
        return f'{self._common(self._stream_kind)},"choices":[{{"index":0,{said}'.encode()

    def chunk(self, opening: bytes, text: str, finish: Finish | None) -> bytes:
        """One chunk of a stream, begun by `opening`."""
        closing = "}" if self._chat else ',"logprobs":null'
        ending = f'"{finish}"' if finish else "null"
        return opening + f'{_quoted(text)}{closing},"finish_reason":{ending}}}]}}'.encode()

    def usage_chunk(self, usage: Usage, cost: Nanotons) -> bytes:
        """What a stream ends with when the client asked for usage."""
        return f'{self._common(self._stream_kind)},"choices":[],{_usage(usage, cost)}}}'.encode()

    @property
    def _chat(self) -> bool:
        return self.endpoint is Endpoint.CHAT_COMPLETIONS

    @property
    def _kind(self) -> str:
        return "chat.completion" if self._chat else "text_completion"

    @property
    def _stream_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _common(self, kind: str) -> str:
        """The fields that all parts begin with, still open."""
        return f'{{"id":"{self.id}","object":"{kind}","created":{self.created},"model":{_quoted(self.model)}'


def _usage(usage: Usage, cost: Nanotons) -> str:
    """The `usage` field of an answer, with what it costs."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return (
        f'"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion},'
        f'"prompt_tokens_details":{{"cached_tokens":{usage.cached_tokens}}},'
        f'"completion_tokens_details":{{"reasoning_tokens":{usage.reasoning_tokens}}},"cost_nanotons":{cost}}}'
    )


async def gather_pieces(pieces: AsyncGenerator[Piece, None], window_s: float) -> AsyncGenerator[Piece, None]:
    """The same pieces, those that come within `window_s` of each other joined; the first one passes at once.

    Fewer, fuller events cost less at every hop and tell an observer less about the tokens.
    """
    ready: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
    pump = asyncio.create_task(_pump(pieces, ready))
    waits = False
    try:
        while True:
            piece = await ready.get()
            if waits and isinstance(piece, Piece) and piece.finish is None:
                await asyncio.sleep(window_s)
            joined, rest = _join(piece, ready)
            if joined is not None:
                yield joined
            if isinstance(rest, Exception):
                raise rest
            if rest is None:
                return
            waits = True
    finally:
        pump.cancel()
        with suppress(asyncio.CancelledError):
            await pump


_MORE = Piece(text="", output_tokens=0)


def _join(
    item: Piece | Exception | None, ready: asyncio.Queue[Piece | Exception | None]
) -> tuple[Piece | None, Piece | Exception | None]:
    """All pieces that are ready as one, and what stands behind them: an error, the end, or `_MORE`."""
    texts: list[str] = []
    last: Piece | None = None
    while isinstance(item, Piece):
        texts.append(item.text)
        last = item
        if ready.empty():
            break
        item = ready.get_nowait()
    joined = last and replace(last, text="".join(texts))
    return joined, _MORE if isinstance(item, Piece) else item


async def _pump(pieces: AsyncGenerator[Piece, None], ready: asyncio.Queue[Piece | Exception | None]) -> None:
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                ready.put_nowait(piece)
    except Exception as error:  # noqa: BLE001  handed to the reader, which raises it
        ready.put_nowait(error)
    else:
        ready.put_nowait(None)
