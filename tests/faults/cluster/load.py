"""A steady stream of requests through a real sidecar, each one's end noted as a JSON line.

    python -m tests.faults.cluster.load URL MODEL RATE OUT

RATE requests start each second, whatever becomes of those before. A refusal is asked again as the OpenAI SDK does it:
when the answer says so, after the time that it says or with growing pauses, for a minute. SIGTERM ends the stream;
what is under way is waited for.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import aiohttp

from tests.faults.cluster.figures import Asked, Outcome

PATIENCE_S = 60.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 8.0
STREAM_EVERY = 20
SHORT = {"messages": [{"role": "user", "content": "Translate to French: The cat eats an apple."}], "max_tokens": 2}
LONG = {"messages": [{"role": "user", "content": "Count to twenty in German."}], "max_tokens": 32, "stream": True}


class CutError(Exception):
    """The answer began, or may have, and did not end well: nobody may ask again."""


class RefusedError(Exception):
    """Nothing was answered; it may be asked again, after `pause_s` where the answer says so."""

    def __init__(self, code: str, pause_s: float | None) -> None:
        super().__init__(code)
        self.pause_s = pause_s


class Load:
    """Sends requests and notes how each ended."""

    def __init__(self, url: str, model: str, rate: float, out: Path) -> None:
        self._url, self._model, self._rate = f"{url}/chat/completions", model, rate
        self._out = out.open("a", buffering=1)
        self._ending = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        limit = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=150)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limit) as session,
            asyncio.TaskGroup() as group,
        ):
            begun = loop.time()
            for number in itertools.count():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), max(0.0, begun + number / self._rate - loop.time()))
                if self._ending.is_set():
                    break
                group.create_task(self._ask(session, number))
        self._out.close()

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> None:
        body = {"model": self._model, **(SHORT if number % STREAM_EVERY else LONG)}
        sent, failures, code, outcome = time.monotonic(), list[float](), "", Outcome.LOST
        while time.monotonic() - sent < PATIENCE_S:
            try:
                await self._once(session, body)
            except CutError as error:
                failures.append(time.monotonic())
                code, outcome = str(error), Outcome.CUT
                break
            except (RefusedError, aiohttp.ClientError) as error:
                failures.append(time.monotonic())
                code = str(error) or type(error).__name__
                told = error.pause_s if isinstance(error, RefusedError) else None
                own = min(PAUSE_MIN_S * 2 ** (len(failures) - 1), PAUSE_MAX_S) * random.uniform(0.75, 1.0)
                await asyncio.sleep(own if told is None else told)
            else:
                outcome = Outcome.ANSWERED
                break
        asked = Asked(
            number=number, sent=sent, ended=time.monotonic(), outcome=outcome, failures=tuple(failures), code=code
        )
        self._out.write(json.dumps(asked.to_json()) + "\n")

    async def _once(self, session: aiohttp.ClientSession, body: dict) -> None:
        async with session.post(self._url, json=body) as answer:
            if answer.status != 200:
                code = (await answer.json())["error"]["code"]
                if answer.headers.get("x-should-retry") != "true":
                    raise CutError(code)
                told_ms = answer.headers.get("retry-after-ms")
                raise RefusedError(code, None if told_ms is None else int(told_ms) / 1000)
            try:
                text = await answer.read()
            except aiohttp.ClientError as error:
                raise CutError(type(error).__name__) from error
        if body.get("stream") and not text.rstrip().endswith(b"[DONE]"):
            raise CutError(_error_of(text))


def _error_of(text: bytes) -> str:
    last = text.rstrip().rpartition(b"data: ")[2]
    try:
        return str(json.loads(last)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "stream ended without an end"


def main() -> None:
    url, model, rate, out = sys.argv[1:]
    asyncio.run(Load(url, model, float(rate), Path(out)).run())


if __name__ == "__main__":
    main()
