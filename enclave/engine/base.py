"""What the enclave asks of an engine, and what it gets back.

    Engine.render / tokenize -> prompt tokens -> Ask -> Engine.answer -> Piece, Piece, ..., Piece with `finish`

Prompt tokens are `len(ask.prompt)`, and every piece carries the running totals of the answer, so a stream that is cut
can still be billed exactly. What an engine does not report counts as 0: no cached tokens, no reasoning.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length"]
Message = Mapping[str, str]  # OpenAI chat message whose content is text: {"role": ..., "content": ...}

STOPS_MAX = 4  # as in the OpenAI API
STOP_LENGTH_MAX = 128  # characters
TEMPERATURE_MAX = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to an engine, already rendered to token ids.

    `temperature` 0 is greedy. `cache_salt` separates the prefix caches of accounts: with equal salts one request can
    learn from its own latency that another began with the same text, so it must differ between accounts.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    cache_salt: bytes
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    whole: bool = False  # nobody reads along: an engine that can may answer in a single piece

    def __post_init__(self) -> None:
        if not self.cache_salt:
            raise ValueError("cache_salt is empty: give each account its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of an answer; the last one has a `finish`. Its counts are of the whole answer up to here."""

    text: str
    output_tokens: int
    finish: Finish | None = None
    cached_tokens: int = 0  # of the prompt, taken from the engine's prefix cache
    reasoning_tokens: int = 0  # of output_tokens


class AskError(ValueError):
    """The engine will not take this request; `code` and `param` are the fields of an OpenAI error body."""

    def __init__(self, message: str, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(message, code, param)
        self.message, self.code, self.param = message, code, param

    def __str__(self) -> str:
        return self.message


class EngineStopped(RuntimeError):  # noqa: N818  a state of the engine that its owner acts on, not a failed call
    """The engine is gone: whoever owns it reports the replica unhealthy and starts another."""


class Engine(Protocol):
    """A loaded model. One instance serves many requests at once on the running event loop."""

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def alive(self) -> bool:
        """Whether it can still answer; once False it stays so, and its owner starts another."""

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt tokens of a conversation, up to and including the cue for the answer; raises `AskError`."""

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Prompt tokens of a bare text; raises `AskError`."""

    def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """Pieces until one carries `finish`; closing the generator cancels the work.

        Raises:
            AskError: on the first step, when the request cannot be served as it stands; on a later one with code
                "engine_error", when this answer failed but the engine goes on.
            EngineStopped: at any step.
        """

    async def close(self) -> None:
        """End the engine; running answers raise `EngineStopped`. Closing twice is allowed."""


def check_ask(ask: Ask, *, vocabulary: int, context: int) -> None:
    """Raise `AskError` for a request that an engine with this vocabulary size and context could not serve."""
    if not ask.prompt:
        raise AskError("the prompt is empty: send at least one token", param="messages")
    if not 0 <= min(ask.prompt) <= max(ask.prompt) < vocabulary:
        raise AskError(f"the prompt has a token id outside 0..{vocabulary - 1}", param="prompt")
    if ask.max_tokens < 1:
        raise AskError("max_tokens must be at least 1", param="max_tokens")
    if len(ask.prompt) + ask.max_tokens > context:
        raise AskError(
            f"this model reads {context} tokens; the prompt has {len(ask.prompt)} and max_tokens is {ask.max_tokens}: "
            "shorten one of them",
            code="context_length_exceeded",
            param="messages",
        )
    if not 0.0 <= ask.temperature <= TEMPERATURE_MAX:  # also refuses nan
        raise AskError(f"temperature must be between 0 and {TEMPERATURE_MAX:g}", param="temperature")
    if not 0.0 < ask.top_p <= 1.0:
        raise AskError("top_p must be greater than 0 and at most 1", param="top_p")
    if len(ask.stop) > STOPS_MAX or any(not 0 < len(stop) <= STOP_LENGTH_MAX for stop in ask.stop):
        raise AskError(f"stop takes up to {STOPS_MAX} strings of 1 to {STOP_LENGTH_MAX} characters", param="stop")
