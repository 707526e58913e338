"""The HTTP front: limits, slow senders, pipelining, and bytes that are no HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave import front as front_module
from enclave.front import Exchange, Front, HttpRequest
from tests.enclave.support import connect, exchange, hang_up, http, read_answer


class Echo:
    """Answers with what it was sent, in pieces when asked to, and counts what runs at once."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.requests: list[HttpRequest] = []

    async def answer(self, request: HttpRequest, answer: Exchange) -> None:
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._answer(request, answer)
        finally:
            self.running -= 1

    async def _answer(self, request: HttpRequest, answer: Exchange) -> None:
        if request.path == "/slow":
            await asyncio.sleep(0.05)
        if request.path == "/fail":
            raise RuntimeError("SECRET")
        if request.path == "/flood":
            answer.begin("text/plain")
            while True:
                await answer.send(bytes(100_000))
        if request.path == "/large":
            answer.reply(200, bytes(100_000), "text/plain")
            return
        if request.path == "/break":
            answer.begin("text/plain")
            await answer.send(b"half")
            raise RuntimeError("SECRET")
        if request.path == "/parts":
            answer.begin("text/plain")
            for part in (b"one ", b"two "):
                await answer.send(part)
            answer.end(b"three")
            return
        answer.reply(200, request.body or request.path.encode(), "text/plain")


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def address(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(front_module, "SWEEP_S", 0.02)
    monkeypatch.setattr(front_module, "LINGER_S", 0.2)
    front = Front(echo.answer, body_max=1000, receive_s=0.3)
    host, port = await front.listen("127.0.0.1", 0)
    yield f"{host}:{port}"
    await front.stop(0.1)
    assert not front.connections


async def test_a_request_is_answered_and_the_connection_kept(address: str) -> None:
    reader, writer = await connect(address)
    for body in (b"first", b"second"):
        writer.write(http("/x", body))
        assert (await read_answer(reader)).body == body
    await hang_up(writer)


async def test_an_answer_of_unknown_length_comes_in_chunks(address: str) -> None:
    answer = await exchange(address, http("/parts", b""))
    assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"one two three")


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(address: str, echo: Echo) -> None:
    reader, writer = await connect(address)
    writer.write(http("/slow", b"0") + b"".join(http("/x", str(n).encode()) for n in range(1, 40)))
    assert [(await read_answer(reader)).body for _ in range(40)] == [str(n).encode() for n in range(40)]
    assert echo.most == 1
    await hang_up(writer)


async def test_a_flood_of_pipelined_requests_is_cut(address: str) -> None:
    reader, writer = await connect(address)
    writer.write(http("/slow", b"") + http("/x", b"") * 1000)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        for _ in range(1001):
            await read_answer(reader)
    await hang_up(writer)


async def test_a_client_that_asks_and_never_reads_does_not_fill_the_memory(address: str, echo: Echo) -> None:
    _, writer = await connect(address)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # the answers stay in the kernel's buffers
    for _ in range(2000):
        writer.write(http("/large", b""))
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    assert len(echo.requests) * 100_000 < 32 << 20  # what fits into socket buffers, not 200 MB
    await hang_up(writer)


async def test_answers_that_waited_for_a_slow_reader_go_on_when_it_reads(address: str) -> None:
    reader, writer = await connect(address)
    for _ in range(50):
        writer.write(http("/large", b""))
    await asyncio.sleep(0.1)
    for _ in range(50):
        assert len((await read_answer(reader)).body) == 100_000
    await hang_up(writer)


async def test_a_body_sent_byte_by_byte_arrives_whole(address: str) -> None:
    reader, writer = await connect(address)
    for byte in http("/x", b"slowly"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert (await read_answer(reader)).body == b"slowly"
    await hang_up(writer)


async def test_a_chunked_request_body_is_read(address: str) -> None:
    raw = b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert (await exchange(address, raw)).body == b"abcde"


@pytest.mark.parametrize("head", [b"", http("/x", b"1234567890")[:-5], b"POST /x HT"])
async def test_a_slow_sender_is_cut(address: str, head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "IDLE_S", 0.2)
    reader, writer = await connect(address)
    writer.write(head)
    async with asyncio.timeout(2):
        assert await reader.read() in (b"",)
    await hang_up(writer)


async def test_a_reader_that_stops_reading_is_cut(address: str, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "SEND_S", 0.1)
    reader, writer = await connect(address)
    writer.write(http("/flood", b""))
    await reader.readexactly(10)
    writer.transport.pause_reading()
    async with asyncio.timeout(3):
        while echo.running or not echo.requests:
            await asyncio.sleep(0.01)
    await hang_up(writer)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_a_huge_body_is_refused_with_413(address: str, announced: bool, echo: Echo) -> None:
    if announced:
        raw = b"POST /x HTTP/1.1\r\ncontent-length: 1001\r\n\r\n"
    else:
        raw = b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"
    answer = await exchange(address, raw)
    assert answer.error() == (413, "too_large")
    assert answer.headers["connection"] == "close"
    assert echo.requests == []


async def test_a_refused_sender_can_read_why_although_it_is_still_sending(address: str) -> None:
    reader, writer = await connect(address)
    writer.write(b"POST /x HTTP/1.1\r\ncontent-length: 500000\r\n\r\n")
    for _ in range(50):
        writer.write(bytes(10_000))
        await asyncio.sleep(0)
    assert (await read_answer(reader)).status == 413
    await hang_up(writer)


async def test_huge_headers_are_refused(address: str) -> None:
    answer = await exchange(address, b"GET /x HTTP/1.1\r\n" + b"a: " + b"b" * 20_000 + b"\r\n\r\n")
    assert answer.error() == (400, "headers_too_large")
    answer = await exchange(address, b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n")
    assert answer.error() == (400, "headers_too_large")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello there\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /x HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /x HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=["tls", "text", "negative-length", "two-lengths", "smuggling", "http2", "upgrade"],
)
async def test_bytes_that_are_not_plain_http_are_refused(address: str, raw: bytes, echo: Echo) -> None:
    answer = await exchange(address, raw)
    assert answer.status in (400, 200)
    if answer.status == 400:
        assert answer.error() == (400, "bad_http")
    assert all(not request.body for request in echo.requests)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_random_bytes_never_reach_the_handler_as_a_request(data: bytes) -> None:
    handled: list[HttpRequest] = []

    async def scenario() -> None:
        async def handler(request: HttpRequest, answer: Exchange) -> None:
            handled.append(request)
            answer.reply(200, b"")

        front = Front(handler)
        host, port = await front.listen("127.0.0.1", 0)
        reader, writer = await connect(f"{host}:{port}")
        writer.write(data + b"\r\n\r\n")
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 2)
        await hang_up(writer)
        await front.stop(0.1)

    asyncio.run(scenario())
    assert handled == []


async def test_a_handler_that_fails_says_nothing_of_its_own(address: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = await exchange(address, http("/fail", b""))
    assert answer.error() == (500, "internal_error")
    assert b"SECRET" not in answer.body
    assert "SECRET" not in caplog.text and "RuntimeError" in caplog.text


async def test_a_broken_answer_never_looks_whole(address: str) -> None:
    reader, writer = await connect(address)
    writer.write(http("/break", b""))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await read_answer(reader)
    await hang_up(writer)


async def test_a_client_that_closes_the_connection_after_one_request_is_answered(address: str) -> None:
    reader, writer = await connect(address)
    writer.write(b"GET /x HTTP/1.1\r\nconnection: close\r\n\r\n")
    answer = await read_answer(reader)
    assert (answer.headers["connection"], await reader.read()) == ("close", b"")
    await hang_up(writer)


async def test_writes_are_not_held_back_for_full_segments(address: str) -> None:
    front = Front(Echo().answer)
    host, port = await front.listen("127.0.0.1", 0)
    reader, writer = await connect(f"{host}:{port}")
    writer.write(http("/x", b"x"))
    await read_answer(reader)
    [connection] = front.connections
    tcp = connection._transport.get_extra_info("socket")
    assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await hang_up(writer)
    await front.stop(0.1)


async def test_too_many_connections_are_cut(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "CONNECTIONS_MAX", 2)
    kept = [await connect(address) for _ in range(2)]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await exchange(address, http("/x", b""))
    for _, writer in kept:
        await hang_up(writer)


def test_all_of_it_holds_on_the_loop_that_production_runs_on() -> None:
    async def scenario() -> None:
        echo = Echo()
        front = Front(echo.answer, body_max=1000)
        host, port = await front.listen("127.0.0.1", 0)
        address = f"{host}:{port}"
        assert (await exchange(address, http("/parts", b""))).body == b"one two three"
        assert (await exchange(address, http("/x", bytes(1001)))).error() == (413, "too_large")
        reader, writer = await connect(address)
        writer.write(http("/slow", b"1") + http("/x", b"2") * 20)
        assert [(await read_answer(reader)).body for _ in range(21)] == [b"1", *[b"2"] * 20]
        writer.write(http("/flood", b""))
        await reader.readexactly(1000)
        await hang_up(writer)
        await asyncio.sleep(0.05)
        assert echo.running == 0
        await front.stop(0.1)

    uvloop.run(scenario())
