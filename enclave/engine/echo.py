"""An engine that repeats the prompt, for tests and benches: no model, no torch, the same answer every time.

It cannot be named in an enclave's settings; whoever wants it constructs it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from enclave.engine.base import Ask, AskError, EngineStopped, Message, Piece, check_ask
from enclave.engine.stops import StopFinder

BYTES = 256  # a token is one byte of UTF-8
CONTENT = "\x1f"  # unit separator: stands before the content of each message


class EchoEngine:
    """Answers with the words of the last message, one word a token, until they or `max_tokens` run out."""

    def __init__(self, *, context: int = 32768, delay_s: float = 0.0, dies_after: int | None = None) -> None:
        """`delay_s` passes before each token; the engine stops for good after `dies_after` tokens in all."""
        self._context, self._delay_s, self._tokens_left = context, delay_s, dies_after
        self._closed = False

    @property
    def context(self) -> int:
        """Most tokens (bytes of the prompt plus words of the answer)."""
        return self._context

    @property
    def alive(self) -> bool:
        """Until it is closed or has died."""
        return not self._closed

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The bytes of all messages; a separator in one of them is refused as a control token."""
        if not messages:
            raise AskError("messages is empty: send at least one message", param="messages")
        if any(CONTENT in message["content"] for message in messages):
            raise AskError("a message contains a control token", param="messages")
        return self.tokenize("".join(f"{message['role']}{CONTENT}{message['content']}" for message in messages))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The bytes of `text`."""
        return tuple(text.encode())

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """One piece for each word, each with the space that follows it."""
        check_ask(ask, vocabulary=BYTES, context=self._context)
        words = bytes(ask.prompt).decode(errors="replace").rpartition(CONTENT)[2].split() or ["nothing"]
        stops, last = StopFinder(ask.stop), min(len(words), ask.max_tokens)
        for number, word in enumerate(words[:last], start=1):
            await asyncio.sleep(self._delay_s)
            self._spend()
            text, stopped = stops.feed(word if number == last else word + " ")
            if stopped or number == last:
                ended = stopped or last == len(words)
                yield Piece(text=text + stops.rest(), output_tokens=number, finish="stop" if ended else "length")
                return
            yield Piece(text=text, output_tokens=number)

    async def close(self) -> None:
        """Running answers raise `EngineStopped` at their next token."""
        self._closed = True

    def _spend(self) -> None:
        if self._tokens_left is not None:
            self._closed |= self._tokens_left == 0
            self._tokens_left -= not self._closed
        if self._closed:
            raise EngineStopped("the echo engine was closed")
