"""The client's side of the demo: the unmodified OpenAI SDK against the sidecar."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIError, AsyncOpenAI

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer as the caller sees it."""

    text: str
    host: str  # hex
    receipt: str  # request hash, hex
    cost: int  # nanotons
    error: str = ""  # code of the error that ended it


class Caller:
    """Asks the model through the sidecar."""

    def __init__(self, base_url: str, model: str) -> None:
        self._sdk = AsyncOpenAI(base_url=base_url, api_key="any", timeout=TIMEOUT_S, max_retries=0)
        self._model = model

    async def ask(self, prompt: str) -> Reply:
        """One answer in one piece."""
        raw = await self._sdk.chat.completions.with_raw_response.create(
            model=self._model, messages=[{"role": "user", "content": prompt}]
        )
        answer = raw.parse()
        return Reply(
            text=answer.choices[0].message.content or "", cost=_cost(answer.usage), error="", **_named(raw.headers)
        )

    async def stream(self, prompt: str, *, begun: Callable[[str], None] = lambda _: None) -> Reply:
        """One streamed answer; `begun` hears the host's id at its first piece. An error on it is part of the reply."""
        raw = await self._sdk.chat.completions.with_raw_response.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            stream_options={"include_usage": True},
        )
        named, parts, cost = _named(raw.headers), list[str](), 0
        try:
            async for chunk in raw.parse():
                fresh = [choice.delta.content for choice in chunk.choices if choice.delta.content]
                if fresh and not parts:
                    begun(named["host"])
                parts += fresh
                cost = _cost(chunk.usage) or cost
        except APIError as error:
            return Reply(text="".join(parts), cost=0, error=str(error.code or type(error).__name__), **named)
        return Reply(text="".join(parts), cost=cost, error="", **named)

    async def ask_all(self, prompts: Sequence[str]) -> list[Reply]:
        """All at once."""
        return list(await asyncio.gather(*(self.ask(prompt) for prompt in prompts)))

    async def close(self) -> None:
        """End the SDK's connections."""
        await self._sdk.close()


def _named(headers: Any) -> dict[str, str]:  # noqa: ANN401
    return {"host": headers["x-chrysalis-host"], "receipt": headers["x-chrysalis-receipt"]}


def _cost(usage: Any) -> int:  # noqa: ANN401
    return int((usage.model_extra or {})["cost_nanotons"]) if usage else 0
