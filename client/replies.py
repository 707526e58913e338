"""Sending answers over ASGI, and noticing at once when the caller is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from client.idempotency import Reply

T = TypeVar("T")


class CallerGoneError(Exception):
    """The caller closed its connection."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancel it as soon as the caller disconnects.

    Raises:
        CallerGoneError: the caller disconnected first.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_wait_until_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerGoneError
    finally:
        for part in (task, watch):
            part.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class PipedResponse(Response):
    """A reply whose body is sent as it is produced; production stops when the caller leaves."""

    def __init__(self, reply: Reply) -> None:
        self.status_code = reply.status
        self.background = None
        self._reply = reply
        self.body = b""
        self.init_headers(dict(reply.headers))
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Send the reply."""
        try:
            await unless_gone(receive, self._send(send))
        except (CallerGoneError, OSError):
            return
        finally:
            await self._reply.close()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._reply.body) as body:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for part in body:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
