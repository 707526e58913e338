"""What happens when an answer does not come to its end: clients that leave, engines that die, disks that are full."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from attestation.frames import ResponseHash, parse_frame
from attestation.sealing import ResponseOpener
from billing.receipt import parse_receipt
from billing.tariff import Usage
from enclave import delivery, journal
from enclave.enclave import Enclave
from enclave.engine import Ask, AskError, Message, Piece
from enclave.engine.echo import EchoEngine
from enclave.service import Limits
from tests.enclave.support import (
    CHAT,
    MODEL,
    OTHER_KEY,
    TARIFF,
    Client,
    Starter,
    connect,
    control,
    eventually,
    get,
    hang_up,
    http,
    receipts,
)

LONG = CHAT | {"messages": [{"role": "user", "content": "word " * 500}], "stream": True}


class WatchedEngine(EchoEngine):
    """Says how many answers are being computed, and what they were asked."""

    def __init__(self, *, delay_s: float = 0.01) -> None:
        super().__init__(delay_s=delay_s)
        self.running = 0
        self.asks: list[Ask] = []

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        self.asks.append(ask)
        self.running += 1
        try:
            async for piece in super().answer(ask):
                yield piece
        finally:
            self.running -= 1


class BrokenEngine(EchoEngine):
    """Fails in the middle of an answer, with a text that must not get out."""

    def __init__(self, error: Exception, after: int) -> None:
        super().__init__()
        self._error, self._after = error, after

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        async for piece in super().answer(ask):
            if piece.output_tokens > self._after:
                raise self._error
            yield piece


async def read_some(client: Client, body: dict, frames: int) -> tuple[list[bytes], asyncio.StreamWriter]:
    """Send a request and read until so many frames are there."""
    sealed = client.seal(body)
    reader, writer = await connect(client.enclave.address)
    writer.write(http("/sealed", sealed.data))
    await reader.readuntil(b"\r\n\r\n")
    opener, received = ResponseOpener(sealed.content_key, sealed.request_hash), []
    while len(received) < frames:
        size = int(await reader.readline(), 16)
        received += opener.feed((await reader.readexactly(size + 2))[:-2])
    return received, writer


@pytest.mark.parametrize("coalesce_s", [0.0, 0.005])
async def test_a_client_that_leaves_stops_the_engine_and_pays_for_what_it_got(
    start: Starter, coalesce_s: float
) -> None:
    engine = WatchedEngine()
    enclave = await start(engine=lambda: engine, limits=Limits(coalesce_s=coalesce_s))
    frames, writer = await read_some(Client(enclave), LONG, 3)
    await hang_up(writer)
    await eventually(lambda: engine.running == 0, within_s=1.0)
    await eventually(lambda: len(enclave.service.journal) == 1)
    [stored] = await receipts(enclave)
    receipt = parse_receipt(base64.b64decode(stored["receipt"]))
    assert receipt.usage.prompt_tokens == len(engine.asks[0].prompt)
    assert 3 <= receipt.usage.completion_tokens < 100
    [lease] = enclave.service._credit._leases.values()
    assert (lease.spent, lease.reserved) == (receipt.price, 0)
    assert enclave.service.counters.abandoned == 1
    if receipt.usage.completion_tokens == 3:
        response_hash = ResponseHash()
        for frame in frames:
            response_hash.add(parse_frame(frame)[1])
        assert receipt.response_hash == response_hash.digest()


async def test_a_client_that_leaves_before_any_answer_pays_nothing(start: Starter) -> None:
    engine = WatchedEngine()
    enclave = await start(engine=lambda: engine)
    client = Client(enclave)
    _, writer = await connect(enclave.address)
    writer.write(http("/sealed", client.seal(LONG | {"stream": False}).data))
    await eventually(lambda: engine.running == 1)
    await hang_up(writer)
    await eventually(lambda: engine.running == 0, within_s=1.0)
    await eventually(lambda: enclave.service.counters.active == 0)
    assert await receipts(enclave) == []
    [lease] = enclave.service._credit._leases.values()
    assert (lease.spent, lease.reserved) == (0, 0)


async def test_an_answer_that_outlasts_its_lease_is_cut_while_its_receipt_is_still_paid(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "ANSWER_GRACE_S", 0.3 - 600)  # the lease of the test lasts 600 s
    engine = WatchedEngine()
    enclave = await start(engine=lambda: engine)
    answer = await Client(enclave).ask(LONG)
    assert answer.error["error"]["code"] == "lease_expired"
    assert answer.receipt is None
    assert 0 < len(answer.data) < 500
    assert engine.running == 0
    [stored] = await receipts(enclave)
    usage = parse_receipt(base64.b64decode(stored["receipt"])).usage
    assert usage.completion_tokens == len(answer.text.split())


async def test_an_answer_of_one_piece_that_outlasts_its_lease_costs_nothing(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "ANSWER_GRACE_S", 0.3 - 600)
    enclave = await start(engine=WatchedEngine)
    answer = await Client(enclave).ask(LONG | {"stream": False})
    assert answer.error["error"]["code"] == "lease_expired"
    assert await receipts(enclave) == []


async def test_many_clients_that_leave_free_every_place(start: Starter) -> None:
    engine = WatchedEngine()
    enclave = await start(engine=lambda: engine, limits=Limits(running=30, waiting=0))
    writers = [(await read_some(Client(enclave), LONG, 1))[1] for _ in range(30)]
    for writer in writers:
        await hang_up(writer)
    await eventually(lambda: engine.running == 0, within_s=1.0)
    await eventually(lambda: len(enclave.service.journal) == 30)
    assert enclave.service.counters.active == 0


async def test_a_slow_reader_holds_back_its_own_stream_only(start: Starter) -> None:
    engine = WatchedEngine(delay_s=0)
    enclave = await start(engine=lambda: engine, limits=Limits())
    client = Client(enclave, cap=10**12, slice=10**12)
    words = CHAT | {"messages": [{"role": "user", "content": "w " * 14000}], "stream": True, "max_tokens": 4000}
    _, writer = await read_some(client, words, 1)
    writer.transport.pause_reading()
    await asyncio.sleep(0.3)
    assert (await client.ask()).text == "one two three"
    await hang_up(writer)
    await eventually(lambda: engine.running == 0)


async def test_an_engine_that_dies_mid_stream_is_said_so_and_costs_nothing(start: Starter) -> None:
    enclave = await start(engine=lambda: EchoEngine(dies_after=2))
    client = Client(enclave)
    answer = await client.ask(CHAT | {"stream": True})
    assert answer.text == "one two " and answer.finished and answer.receipt is None
    assert (answer.error["status"], answer.error["error"]["code"]) == (503, "worker_lost")
    [lease] = enclave.service._credit._leases.values()
    assert (lease.spent, lease.reserved, await receipts(enclave)) == (0, 0, [])
    assert (await client.send(client.seal().data)).error() == (503, "worker_lost")
    status = await control(enclave, "GET", "/status")
    assert (status["ready"], status["models"]) == (False, [])
    assert {"model_root": MODEL.hex(), "state": "failed"} in status["shelf"]


async def test_an_engine_that_dies_before_the_first_byte_lets_the_client_try_another_host(start: Starter) -> None:
    client = Client(await start(engine=lambda: EchoEngine(dies_after=0)))
    for stream in (False, True):
        answer = await client.send(client.seal(CHAT | {"stream": stream}).data)
        assert answer.error() == (503, "worker_lost")
        assert "retry-after-ms" in answer.headers


async def test_a_dead_engine_can_be_loaded_again(start: Starter) -> None:
    engines = [EchoEngine(dies_after=0), EchoEngine()]
    enclave = await start(engine=lambda: engines.pop(0))
    client = Client(enclave)
    assert (await client.send(client.seal().data)).status == 503
    await control(enclave, "POST", "/load", {"model_root": MODEL.hex()})
    assert (await client.ask()).text == "one two three"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("SECRET"), (500, "internal_error")),
        (AskError("SECRET", code="engine_error"), (500, "internal_error")),
        (AskError("temperature is too hot", param="temperature"), (400, "invalid_value")),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
async def test_an_engine_that_fails_one_request_costs_nothing_and_says_nothing_of_its_own(
    start: Starter, error: Exception, expected: tuple[int, str], after: int
) -> None:
    enclave = await start(engine=lambda: BrokenEngine(error, after))
    answer = await Client(enclave).ask(CHAT | {"stream": True})
    assert (answer.error["status"], answer.error["error"]["code"]) == expected
    assert "SECRET" not in str(answer.error)
    assert answer.finished and await receipts(enclave) == []


async def test_a_full_disk_is_an_error_and_charges_nothing(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    enclave = await start()

    def no_space(_: int, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_write_all", no_space)
    answer = await Client(enclave).ask()
    assert (answer.error["status"], answer.error["error"]["code"]) == (500, "receipt_not_stored")
    [lease] = enclave.service._credit._leases.values()
    assert (lease.spent, lease.reserved) == (0, 0)


async def test_stopping_ends_running_streams_without_a_clean_end(start: Starter) -> None:
    enclave = await start(engine=WatchedEngine)
    sealed = Client(enclave).seal(LONG)
    reader, writer = await connect(enclave.address)
    writer.write(http("/sealed", sealed.data))
    await reader.readuntil(b"\r\n\r\n")
    await enclave.stop(0.05)
    rest = await asyncio.wait_for(read_to_end(reader), 2)
    assert not rest.endswith(b"0\r\n\r\n")
    await hang_up(writer)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    parts = []
    try:
        while part := await reader.read(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


async def test_accounts_never_share_a_cache_salt_and_one_account_keeps_its_own(start: Starter) -> None:
    engine = WatchedEngine(delay_s=0)
    enclave = await start(engine=lambda: engine)
    other = {"account_key": OTHER_KEY, "account": OTHER_KEY.public_key().public_bytes_raw()}
    for terms in ({}, {}, other):
        await Client(enclave, **terms).ask()
    first, second, third = (ask.cache_salt for ask in engine.asks)
    assert first == second != third


async def test_usage_is_counted_here_and_not_taken_from_the_engine(client: Client, enclave: Enclave) -> None:
    answer = await client.ask(CHAT | {"max_tokens": 2, "stream": True})
    assert answer.receipt.usage == Usage(prompt_tokens=18, completion_tokens=2)
    assert answer.data[-1]["choices"][0]["finish_reason"] == "length"


class ThinkingEngine(WatchedEngine):
    """Found half of the prompt in its cache, and reasons with every other token."""

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        async for piece in super().answer(ask):
            cached, reasoning = len(ask.prompt) // 2, piece.output_tokens // 2
            yield replace(piece, cached_tokens=cached, reasoning_tokens=reasoning)


@pytest.mark.parametrize("coalesce_s", [0.0, 0.005])
async def test_what_an_engine_reports_as_cached_and_as_reasoning_is_charged_as_such(
    start: Starter, coalesce_s: float
) -> None:
    tariff = replace(TARIFF, cached_price=TARIFF.prompt_price // 4, reasoning_price=2 * TARIFF.completion_price)
    enclave = await start(engine=ThinkingEngine, limits=Limits(coalesce_s=coalesce_s))
    for stream in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
        answer = await Client(enclave, tariff=tariff, lease=bytes([len(stream)]) * 16).ask(CHAT | stream)
        assert answer.receipt.usage == Usage(prompt_tokens=18, completion_tokens=3, cached_tokens=9, reasoning_tokens=1)
        assert answer.receipt.price == 9 * 100 + 9 * 25 + 2 * 300 + 1 * 600
        assert answer.data[-1]["usage"] == {
            "prompt_tokens": 18,
            "completion_tokens": 3,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 9},
            "completion_tokens_details": {"reasoning_tokens": 1},
            "cost_nanotons": answer.receipt.price,
        }


async def test_a_client_that_leaves_pays_the_reasoning_it_got(start: Starter) -> None:
    enclave = await start(engine=ThinkingEngine)
    _, writer = await read_some(Client(enclave), LONG, 3)
    await hang_up(writer)
    await eventually(lambda: len(enclave.service.journal) == 1)
    [stored] = await receipts(enclave)
    usage = parse_receipt(base64.b64decode(stored["receipt"])).usage
    assert usage.reasoning_tokens == usage.completion_tokens // 2 >= 1
    assert usage.cached_tokens == usage.prompt_tokens // 2


class ForgetfulEngine(WatchedEngine):
    """Says that it took more tokens from its cache than the prompt has."""

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        async for piece in super().answer(ask):
            yield replace(piece, cached_tokens=len(ask.prompt) + 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_takes_more_from_its_cache_than_was_asked_charges_nothing(
    start: Starter, stream: bool
) -> None:
    enclave = await start(engine=ForgetfulEngine)
    answer = await Client(enclave).ask(CHAT | {"stream": stream})
    assert (answer.error["status"], answer.error["error"]["code"]) == (500, "internal_error")
    assert await receipts(enclave) == []
    _, writer = await read_some(Client(enclave), LONG, 3)
    await hang_up(writer)
    await eventually(lambda: enclave.service.counters.abandoned == 1)
    assert await receipts(enclave) == []
    assert all((lease.spent, lease.reserved) == (0, 0) for lease in enclave.service._credit._leases.values())


class GenerousEngine(WatchedEngine):
    """Counts ten times the tokens it was allowed."""

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        async for piece in super().answer(ask):
            yield Piece(text=piece.text, output_tokens=10 * ask.max_tokens, finish=piece.finish)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_counts_more_than_was_reserved_charges_nothing(start: Starter, stream: bool) -> None:
    enclave = await start(engine=GenerousEngine)
    client = Client(enclave)
    answer = await client.ask(CHAT | {"stream": stream, "max_tokens": 5})
    assert (answer.error["status"], answer.error["error"]["code"]) == (500, "internal_error")
    assert await receipts(enclave) == []
    lease = enclave.service._credit._leases[client.terms["lease"]]
    assert (lease.spent, lease.reserved) == (0, 0)


async def test_an_answer_too_long_to_seal_in_one_piece_costs_nothing(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CHUNK_MAX", 300)
    monkeypatch.setattr("attestation.chunks.CHUNK_MAX", 300)
    enclave = await start()
    answer = await Client(enclave).ask(LONG | {"stream": False})
    assert (answer.error["status"], answer.error["error"]["code"]) == (400, "answer_too_long")
    assert await receipts(enclave) == []


class SlowReader(EchoEngine):
    """Takes its time over a prompt, as tokenizers do over a megabyte."""

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        time.sleep(0.5)
        return super().render(messages)


async def test_a_huge_prompt_does_not_stop_the_answers_of_others(start: Starter) -> None:
    enclave = await start(engine=SlowReader)
    huge = CHAT | {"messages": [{"role": "user", "content": "word " * 20_000}]}
    began = time.monotonic()
    asked = asyncio.create_task(Client(enclave).ask(huge))
    await eventually(lambda: enclave.service.counters.active == 1)
    assert (await get(enclave.address, "/health")).status == 200
    assert time.monotonic() - began < 0.3
    assert (await asked).error["error"]["code"] == "context_length_exceeded"
