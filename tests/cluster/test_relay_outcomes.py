"""What the relay counts for a host's reputation: real HAProxy, hosts that fail in every way they can."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from cluster.relay import RelayProcess
from cluster.relay_config import RelayLimits
from cluster.reputation import HostCounts
from tests.cluster.test_relay import HOST, KEY, OTHER, send, ticket

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ERROR = json.dumps({"error": {"message": "no", "type": "any", "param": None, "code": "any"}}).encode()
JSON = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(ERROR), ERROR)
BUSY = b"HTTP/1.1 429 Busy\r\n" + JSON
BROKEN = b"HTTP/1.1 500 Broken\r\n" + JSON
CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf"


@pytest.fixture
def relay():
    relay = RelayProcess("127.0.0.1:0", KEY, limits=RelayLimits(connect_s=1, silence_s=2))
    yield relay
    relay.stop()


@contextlib.asynccontextmanager
async def answering(relay: RelayProcess, answer: bytes | None, *, hold_s: float = 0) -> AsyncIterator[None]:
    """A host that answers every request with these bytes and hangs up; None: hangs up at once."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(b"sealed bytes"))
            writer.write(answer or b"")
            await writer.drain()
            await asyncio.sleep(hold_s)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    relay.add_host(HOST, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    yield
    server.close()


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        pytest.param(GOOD, HostCounts(answered=2, failed=0), id="answers"),
        pytest.param(BUSY, HostCounts(answered=0, failed=0), id="busy-is-not-a-failure"),
        pytest.param(BROKEN, HostCounts(answered=0, failed=2), id="fails"),
        pytest.param(None, HostCounts(answered=0, failed=2), id="hangs-up"),
        pytest.param(b"\0garbage\r\n\r\n", HostCounts(answered=0, failed=2), id="garbage"),
        pytest.param(CUT, HostCounts(answered=2, failed=0), id="an-answer-that-breaks-off-may-be-anybodys-fault"),
    ],
)
async def test_how_requests_end_is_counted_for_their_host(relay, answer, counts) -> None:
    async with answering(relay, answer):
        for _ in range(2):
            with contextlib.suppress(aiohttp.ClientError, OSError, ValueError):
                await send(relay)
    assert relay.outcomes() == {HOST: counts}


async def test_a_host_that_does_not_listen_is_counted_as_failing(relay) -> None:
    async with answering(relay, GOOD):
        pass
    assert (await send(relay))[0] == 503
    assert relay.outcomes() == {HOST: HostCounts(answered=0, failed=1)}


async def test_refusals_and_challenges_are_not_outcomes(relay) -> None:
    async with answering(relay, GOOD):
        assert (await send(relay, path=f"/h/{HOST.hex()}/evidence"))[0] == 200
        assert (await send(relay, bearer=None))[0] == 401
        assert (await send(relay, host=OTHER, bearer=ticket(OTHER)))[0] == 404
    assert relay.outcomes() == {}


async def test_a_client_that_hangs_up_in_the_middle_of_an_answer_does_not_harm_the_host(relay) -> None:
    head = f"POST /h/{HOST.hex()}/sealed HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ticket()}\r\n"
    async with answering(relay, CUT, hold_s=0.3):
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*relay.address.split(":"))
            writer.write(f"{head}content-length: 12\r\n\r\nsealed bytes".encode())
            await reader.readuntil(b"half")
            writer.transport.abort()
        await asyncio.sleep(0.6)
    assert relay.outcomes() == {HOST: HostCounts(answered=5, failed=0)}
