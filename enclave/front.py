"""A small HTTP/1.1 server: asyncio.Protocol over httptools, one request of a connection at a time.

A web framework costs more than all of the sealing, and every feature it has is one more thing that must be trusted.
Here: limits on every size, slow senders are cut, pipelined requests wait their turn, writes wait for slow readers.
"""

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol, cast

import httptools

from enclave.errors import JSON, BadRequestError, RequestError, TooLargeError

logger = logging.getLogger(__name__)

BODY_MAX = 1 << 20
HEADERS_MAX = 16 << 10  # all names and values of a request together, with its target
CONNECTIONS_MAX = 2048
PIPELINE_MAX = 64  # requests of one connection that wait behind the one being answered
IDLE_S = 75.0  # between requests
RECEIVE_S = 20.0  # for one whole request, from its first byte
SEND_S = 30.0  # for a reader that has stopped reading
LINGER_S = 2.0  # for a refused sender to read why, before its unread bytes reset the connection
SWEEP_S = 0.5
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    404: "Not Found",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class HttpRequest(NamedTuple):
    """One whole request; a tuple, because making one costs a third of a frozen dataclass."""

    method: str
    path: str
    query: str
    body: bytes


class Exchange(Protocol):
    """Where a handler puts its answer: either one `reply`, or `begin`, any number of `send`, `end`."""

    def reply(
        self, status: int, body: bytes, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""

    def begin(self, content_type: str) -> None:
        """Begin an answer of unknown length with status 200."""

    async def send(self, data: bytes) -> None:
        """Send a part; waits while the reader is behind. Raises `ConnectionError` when it is gone."""

    def end(self, data: bytes = b"") -> None:
        """Close an answer of unknown length, with its last part."""

    @property
    def alone(self) -> bool:
        """Whether no other request is being answered, or about to be."""

    def finish_later(self, lost: Callable[[], None]) -> None:
        """Say that the answer ends a few turns of the event loop after its handler: no task has to wait for that.

        `lost` is called, once, when the client leaves before.
        """

    def cut(self) -> None:
        """End the connection now: a broken answer must not look like a whole one."""

    @property
    def interrupted(self) -> bool:
        """Whether the handler was cancelled because its time was over, and not because the client left."""

    def interrupt_in(self, seconds: float) -> None:
        """Cancel the handler when it is not done by then, give or take `SWEEP_S`.

        A handler that catches the cancellation, and calls its task's `uncancel`, may still answer.
        """


Handler = Callable[[HttpRequest, Exchange], Awaitable[None]]


class Front:
    """All connections of one listening socket."""

    def __init__(self, handler: Handler, *, body_max: int = BODY_MAX, receive_s: float = RECEIVE_S) -> None:
        self.handler, self.body_max, self.receive_s = handler, body_max, receive_s
        self.connections: set[Connection] = set()
        self.busy: set[Connection] = set()  # those with a request that is being answered, or is about to be
        self._sweeper: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on TCP; returns the address in use."""
        loop = asyncio.get_running_loop()
        self._started(await loop.create_server(lambda: Connection(self), host, port, backlog=1024))
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    async def listen_unix(self, listening: socket.socket) -> None:
        """Listen on a unix socket that is bound already."""
        loop = asyncio.get_running_loop()
        self._started(await loop.create_unix_server(lambda: Connection(self), sock=listening))

    async def stop(self, grace_s: float) -> None:
        """Take no more connections, give running requests `grace_s`, then cut them and wait until they have ended."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.close_when_idle()
        running = [connection.task for connection in self.connections if connection.task is not None]
        if running:
            await asyncio.wait(running, timeout=grace_s)
        while any(connection.finishes_later for connection in self.connections):  # noqa: ASYNC110  two turns, no time
            await asyncio.sleep(0)
        for connection in tuple(self.connections):
            connection.cut()
        if running:
            await asyncio.wait(running)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _started(self, server: asyncio.Server) -> None:
        self._server = server
        self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for connection in [connection for connection in self.connections if connection.deadline < now]:
                connection.cut()
            for connection in [connection for connection in self.busy if connection.interrupt_at < now]:
                connection.interrupt()


class Connection(asyncio.Protocol):
    """One connection: collects requests, runs the handler on one at a time, writes answers."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[HttpRequest | RequestError] = deque()
        self._target, self._body, self._sizes, self._body_size = b"", [b""], 0, 0
        self._drained: asyncio.Event = asyncio.Event()
        self._drained.set()
        self._closing = self._refused = False
        self._head = b""
        self._begun = self._ended = False  # of the answer being written
        self._answering = False  # from a request's turn until its answer is whole
        self._lost: Callable[[], None] | None = None  # of an answer that ends after its handler
        self.task: asyncio.Task[None] | None = None
        self.deadline = self._loop.time() + IDLE_S
        self.interrupt_at = float("inf")
        self.interrupted = False  # of the request being answered

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not of that class
        self._front.connections.add(self)
        tcp = transport.get_extra_info("socket")
        if tcp is not None and tcp.family != socket.AF_UNIX:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self._front.connections) > CONNECTIONS_MAX:
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the reason does not matter
        """The client is gone: whoever works for it stops."""
        self._front.connections.discard(self)
        self._front.busy.discard(self)
        self._closing = True
        self._waiting.clear()
        self._drained.set()
        if self.task is not None:
            self.task.cancel()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            lost()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; anything it cannot read ends the connection after a 400."""
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(BadRequestError("this server speaks plain HTTP/1.1 only", "bad_http"))
        except httptools.HttpParserError:
            if not self._closing:
                self._refuse(BadRequestError("the bytes are not HTTP/1.1", "bad_http"))

    def eof_received(self) -> bool:
        """A client that has stopped sending is gone: HTTP clients do not half-close."""
        return False

    def pause_writing(self) -> None:
        """The reader is behind."""
        self._drained.clear()

    def resume_writing(self) -> None:
        """The reader has caught up."""
        self._drained.set()

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request starts: it must be whole before the deadline."""
        self._target, self._body, self._sizes, self._body_size = b"", [], 0, 0
        self.deadline = self._loop.time() + self._front.receive_s

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._target += url
        self._sizes += len(url)
        if self._sizes > HEADERS_MAX:
            self._too_many_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Headers are counted; only the length of the body is looked at, to refuse early."""
        self._sizes += len(name) + len(value)
        if self._sizes > HEADERS_MAX:
            self._too_many_headers()
        name = name.lower()
        if name == b"content-length":
            if value.isdigit() and int(value[:20]) > self._front.body_max:
                self._too_large()
        elif name == b"expect" and not self._answering and not self._closing:
            self._put(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_size += len(body)
        if self._body_size > self._front.body_max:
            self._too_large()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """A whole request: answer it now, or after those before it."""
        if self._closing:
            return
        path, _, query = self._target.decode("latin-1").partition("?")
        request = HttpRequest(
            method=self._parser.get_method().decode("latin-1"),
            path=path,
            query=query,
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
        )
        self.deadline = float("inf")
        self._waiting.append(request)
        if not self._parser.should_keep_alive():
            self._closing = True
        if not self._answering:
            self._next()
        elif len(self._waiting) > PIPELINE_MAX:
            self.cut()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    # answers (Exchange)

    def reply(
        self, status: int, body: bytes, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        extra = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) if headers else ""
        head = f"{self._status(status)}content-type: {content_type}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        self._begun = True
        self._put(head.encode("latin-1") + body)
        self._whole()

    def begin(self, content_type: str) -> None:
        """Begin an answer of unknown length; its head leaves together with the first part."""
        self._begun = True
        self._head = f"{self._status(200)}content-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()

    async def send(self, data: bytes) -> None:
        """Send a part; waits while the reader is behind."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._put(self._head + _part(data))
        self._head = b""
        if not self._drained.is_set():
            await self._drain()

    def end(self, data: bytes = b"") -> None:
        """Close an answer of unknown length, with its last part."""
        self._put(self._head + (_part(data) if data else b"") + b"0\r\n\r\n")  # one write: each is a system call
        self._head = b""
        self._whole()

    @property
    def alone(self) -> bool:
        """Whether no other request is being answered, or about to be."""
        return len(self._front.busy) <= 1

    def finish_later(self, lost: Callable[[], None]) -> None:
        """The answer ends after its handler."""
        self._lost = lost

    @property
    def peer(self) -> str:
        """The IP address of the other end; empty on a unix socket, or when the connection is gone."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def finishes_later(self) -> bool:
        """Whether the handler is done and its answer is not."""
        return self._lost is not None

    def interrupt_in(self, seconds: float) -> None:
        """Cancel the handler when it is not done by then."""
        self.interrupt_at = self._loop.time() + seconds

    def interrupt(self) -> None:
        """Cancel the handler now."""
        self.interrupt_at = float("inf")
        if self.task is not None:
            self.interrupted = True
            self.task.cancel()

    # inside

    def close_when_idle(self) -> None:
        """No further request on this connection."""
        self._closing = True
        if not self._answering and self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """End the connection now."""
        self._closing = True
        self.deadline = float("inf")
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        if self._waiting:
            if len(self._waiting) == 1 and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
            self._begun = self._ended = self.interrupted = False
            self.interrupt_at = float("inf")
            self._front.busy.add(self)
            self._answering = True
            self.task = self._loop.create_task(self._run(self._waiting.popleft()))
            return
        self.task, self._answering = None, False
        self._front.busy.discard(self)
        if self._closing and self._transport is not None and not self._transport.is_closing():
            self._leave(self._transport)
        elif self.deadline == float("inf"):
            self.deadline = self._loop.time() + IDLE_S

    def _leave(self, transport: asyncio.Transport) -> None:
        if self._refused and transport.can_write_eof():
            transport.write_eof()
            self.deadline = self._loop.time() + LINGER_S
        else:
            transport.close()

    async def _run(self, request: HttpRequest | RequestError) -> None:
        try:
            if isinstance(request, RequestError):
                self._answer_refusal(request)
            else:
                await self._front.handler(request, self)
        except RequestError as refusal:
            self._answer_refusal(refusal)
        except asyncio.CancelledError:
            self.cut()
        except ConnectionError:
            self.cut()
        except Exception as error:  # noqa: BLE001  whatever it is, no text of it may leave: it could quote a prompt
            logger.error("a request failed: %s", type(error).__name__)  # noqa: TRY400
            self._answer_refusal(RequestError("the host failed on this request: try another host", "internal_error"))
        if self._lost is not None:
            self.task = None  # whoever finishes the answer goes on
            return
        if self._begun and not self._ended:
            self.cut()  # a broken answer must not look like a whole one
        if not self._drained.is_set():
            await self._let_read()
        self._next()

    def _whole(self) -> None:
        """The answer has ended: so has its request, if the handler left it to others."""
        self._ended = True
        if self._lost is None:
            return
        self._lost = None
        if self.task is not None:  # the handler is still in its last steps
            return
        if self._drained.is_set():
            self._next()
        else:
            self.task = self._loop.create_task(self._go_on())

    async def _go_on(self) -> None:
        await self._let_read()
        self._next()

    def _answer_refusal(self, refusal: RequestError) -> None:
        if self._begun:
            self.cut()
        else:
            self.reply(refusal.status, refusal.encode(), JSON, refusal.headers())

    def _refuse(self, refusal: RequestError) -> None:
        """Answer what cannot be read, after those before it, and then close."""
        if self._closing:
            return
        self._waiting.append(refusal)
        self._closing = self._refused = True
        self.deadline = float("inf")
        if not self._answering:
            self._next()

    def _too_large(self) -> None:
        self._refuse(TooLargeError(f"the body has more than {self._front.body_max} bytes: shorten it", "too_large"))

    def _too_many_headers(self) -> None:
        self._refuse(BadRequestError(f"the headers have more than {HEADERS_MAX} bytes", "headers_too_large"))

    def _status(self, status: int) -> str:
        close = "connection: close\r\n" if self._closing and not self._waiting else ""
        return f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}\r\n{close}"

    def _put(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def _let_read(self) -> None:
        """No further request of a client that does not read the answers it has: they would pile up here."""
        try:
            await self._drain()
        except (ConnectionError, asyncio.CancelledError):
            self.cut()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._drained.wait()
        except TimeoutError:
            raise ConnectionResetError("the client stopped reading") from None


def _part(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def reply_json(exchange: Exchange, value: object) -> None:
    """Send a JSON answer."""
    exchange.reply(200, json.dumps(value).encode())
