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

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """Latency in milliseconds."""
        return statistics.quantiles(self.latencies_s, n=100, method="inclusive")[percent - 1] * 1000


class Connection(asyncio.Protocol):
    """One connection; stops when `draw` has no further request or time is up."""

    def __init__(self, draw: Callable[[], bytes | None], window: Window, until: float) -> None:
        self._draw, self._window, self._until = draw, window, until
        self._parser = httptools.HttpResponseParser(self)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self._window.errors["connection lost"] += 1
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() == 200:
            self._window.latencies_s.append(time.perf_counter() - self._sent)
        else:
            self._window.errors[f"status {self._parser.get_status_code()}"] += 1
        self._send()

    def _send(self) -> None:
        request = self._draw() if time.perf_counter() < self._until else None
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)


async def run(address: str, draw: Callable[[], bytes | None], *, connections: int, seconds: float) -> Window:
    """Load `address` (IP:PORT) with requests from `draw` for `seconds`."""
    loop, (host, _, port), window = asyncio.get_running_loop(), address.rpartition(":"), Window()
    started = time.perf_counter()
    until = started + seconds
    opened = [
        (await loop.create_connection(lambda: Connection(draw, window, until), host, int(port)))[1]
        for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + STALLED_S):
        await asyncio.gather(*(connection.done for connection in opened))
    window.seconds = time.perf_counter() - started
    await asyncio.sleep(SETTLE_S)
    return window


def http(path: str, body: bytes, *headers: str) -> bytes:
    """A POST request."""
    lines = ["POST " + path + " HTTP/1.1", "host: bench", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
