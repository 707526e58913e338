"""Load over keep-alive connections: each sends its next request as soon as the last answer is whole."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httptools

SETTLE_S = 0.1
STALLED_S = 10.0


@dataclass(kw_only=True)
class Window:
    """What one stretch of load gave."""

    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)  # status or "connection lost" -> how often
    latencies_s: list[float] = field(default_factory=list)
    first_answers: int = 0  # before the time began: they cost the servers work, and no time is taken of them

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """Latency in milliseconds."""
        return statistics.quantiles(self.latencies_s, n=100, method="inclusive")[percent - 1] * 1000


class Connection(asyncio.Protocol):
    """One connection: a first request on its own, then as many as `go` leaves time for."""

    def __init__(self, draw: Callable[[], bytes | None], window: Window) -> None:
        self._draw, self._window, self._until = draw, window, 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._loop = asyncio.get_running_loop()
        self.idle: asyncio.Future[None] = self._loop.create_future()

    def go(self, until: float) -> None:
        """Send again and again until `until` (a `time.perf_counter`)."""
        self._until, self.idle = until, self._loop.create_future()
        self._send()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.idle.done():
            self._window.errors["connection lost"] += 1
            self.idle.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        now, status = time.perf_counter(), self._parser.get_status_code()
        if status != 200:
            self._window.errors[f"status {status}"] += 1
        elif self._until:
            self._window.latencies_s.append(now - self._sent)
        else:
            self._window.first_answers += 1
        if now < self._until:
            self._send()
        else:
            self.idle.set_result(None)

    def close(self) -> None:
        self._transport.close()

    def _send(self) -> None:
        request = self._draw()
        if request is None:
            self.idle.set_result(None)
        else:
            self._sent = time.perf_counter()
            self._transport.write(request)


async def run(address: str, draw: Callable[[], bytes | None], *, connections: int, seconds: float) -> Window:
    """Load `address` (IP:PORT) with requests from `draw` for `seconds`.

    The time begins when every connection has had one answer: a server may take new connections one by one.
    """
    loop, (host, _, port), window = asyncio.get_running_loop(), address.rpartition(":"), Window()
    opening = (loop.create_connection(lambda: Connection(draw, window), host, int(port)) for _ in range(connections))
    opened = [connection for _, connection in await asyncio.gather(*opening)]
    async with asyncio.timeout(seconds + STALLED_S):
        await asyncio.gather(*(connection.idle for connection in opened))
        started = time.perf_counter()
        for connection in opened:
            connection.go(started + seconds)
        await asyncio.gather(*(connection.idle for connection in opened))
    window.seconds = time.perf_counter() - started
    for connection in opened:
        connection.close()
    await asyncio.sleep(SETTLE_S)
    return window


def http(path: str, body: bytes, *headers: str) -> bytes:
    """A POST request."""
    lines = ["POST " + path + " HTTP/1.1", "host: bench", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
