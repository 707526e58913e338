"""Idempotency-Key: the same key gives the same answer, while it is made and for a day after.

An answer is recorded as it is produced, and everyone who asks with the same key reads the recording from its start.
Only answers with status 200 stay: a request that was refused, or whose readers all left, may be asked again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from client.errors import IdempotencyError

KEPT_FOR = timedelta(hours=24)
ENTRIES_MAX = 1024
BYTES_MAX = 64 << 20  # of all recordings together; the oldest go first


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer: its head, and its body as it is produced. Whoever takes it awaits `close` at the end."""

    status: int
    headers: Mapping[str, str]
    body: AsyncGenerator[bytes, None]
    close: Callable[[], Awaitable[None]]


class Recording:
    """One reply that any number of readers follow."""

    def __init__(self, digest: bytes, started_at: datetime, make: Callable[[], Awaitable[Reply]]) -> None:
        self.digest, self.started_at = digest, started_at
        self.size = 0
        self.finished = False  # nothing more will be recorded
        self._parts: list[bytes] = []
        self._head: Reply | None = None
        self._failure: Exception | None = None
        self._readers = 0
        self._abandoned = False
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._record(make))

    @property
    def useful(self) -> bool:
        """Being made, or a whole, good answer."""
        if not self.finished:
            return not self._abandoned
        return self._failure is None and self._head is not None and self._head.status == 200

    async def reply(self) -> Reply:
        """Return the recorded reply; its body begins at the beginning. Raises what the making raised."""
        self._readers += 1
        try:
            while self._head is None:
                await self._progress()
        except BaseException:
            self._leave()
            raise
        left = False

        async def close() -> None:
            nonlocal left
            if not left:
                left = True
                self._leave()

        return Reply(status=self._head.status, headers=self._head.headers, body=self._read(), close=close)

    async def _read(self) -> AsyncGenerator[bytes, None]:
        at = 0
        while True:
            while at < len(self._parts):
                yield self._parts[at]
                at += 1
            if self.finished and self._failure is None:
                return
            await self._progress()

    async def _progress(self) -> None:
        """Wait until something changes; raise if the making failed."""
        if self._failure is not None:
            raise self._failure
        await self._changed.wait()

    def _leave(self) -> None:
        self._readers -= 1
        if not self._readers and not self.finished:
            self._abandoned = True
            self._task.cancel()

    async def _record(self, make: Callable[[], Awaitable[Reply]]) -> None:
        try:
            self._head = await make()
            self._notify()
            async for part in self._head.body:
                self._parts.append(part)
                self.size += len(part)
                self._notify()
        except Exception as error:  # noqa: BLE001  the readers get it, whatever it is
            self._failure = error
        finally:
            if self._head is not None:
                await self._head.close()
            self.finished = True
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class IdempotencyCache:
    """Recordings by key, bounded in number, size and age."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._recordings: OrderedDict[str, Recording] = OrderedDict()

    async def reply(self, key: str, request: bytes, make: Callable[[], Awaitable[Reply]]) -> Reply:
        """Return the reply for `key`: the recorded one, the one being made, or the one that `make` makes now.

        Raises:
            IdempotencyError: the key was used for another request.
        """
        self._sweep()
        digest = sha256(request).digest()
        recording = self._recordings.get(key)
        if recording is None or not recording.useful:
            recording = self._recordings[key] = Recording(digest, self._clock(), make)
        elif recording.digest != digest:
            raise IdempotencyError
        return await recording.reply()

    def _sweep(self) -> None:
        oldest = self._clock() - KEPT_FOR
        for key, recording in list(self._recordings.items()):
            if not recording.useful or (recording.finished and recording.started_at < oldest):
                del self._recordings[key]
        size = sum(recording.size for recording in self._recordings.values())
        for key, recording in list(self._recordings.items()):
            if len(self._recordings) < ENTRIES_MAX and size <= BYTES_MAX:
                return
            if recording.finished:
                size -= recording.size
                del self._recordings[key]
