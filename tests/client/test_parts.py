"""Registry view, idempotency cache, receipt store and direct mode, each alone."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI

from billing.errors import ChainUnreachableError
from billing.receipt import sign_receipt
from client import idempotency
from client.errors import (
    GatewayError,
    IdempotencyError,
    LeaseRefusedError,
    RegistryUnavailableError,
    UnknownModelError,
)
from client.idempotency import IdempotencyCache, Reply
from client.lease import Candidate
from client.receipts import ReceiptStore
from client.registry import Registry
from client.transport import Transport
from tests.billing.support import HOST_KEY, make_grant, make_receipt, public
from tests.client.conftest import StartNetwork
from tests.client.support import CHAT, MODEL, Clock, StaticRegistry, eventually, make_registry

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def registry_of(source: StaticRegistry, clock: Clock, refresh_s: int = 60) -> Registry:
    return Registry(source, clock=clock, refresh_s=refresh_s, age_max_s=3600)


async def test_a_server_that_shows_an_older_registry_is_not_believed() -> None:
    source = StaticRegistry(replace(make_registry([], bytes(32), "http://x"), seqno=5))
    registry = registry_of(source, Clock())
    await registry.refresh()
    source.state = replace(source.state, seqno=4)
    with pytest.raises(RegistryUnavailableError, match="5 was seen before"):
        await registry.refresh()
    assert registry.view().seqno == 5


@pytest.mark.parametrize("failure", [ChainUnreachableError("account", "down"), KeyError("tampered")])
async def test_the_registry_is_read_again_in_the_background_and_survives_trouble(failure: Exception) -> None:
    source, state = StaticRegistry(make_registry([], bytes(32), "http://x")), None
    registry = registry_of(source, Clock(), refresh_s=0)
    await registry.start()
    source.failure = failure
    await asyncio.sleep(0.01)
    source.failure, state = None, replace(source.state, seqno=2)
    source.state = state
    await eventually(lambda: registry.view().seqno == 2)
    await registry.close()


async def test_without_a_first_reading_there_is_no_view() -> None:
    source = StaticRegistry(make_registry([], bytes(32), "http://x"))
    source.failure = ChainUnreachableError("account", "down")
    registry = registry_of(source, Clock())
    with pytest.raises(RegistryUnavailableError, match="cannot be read"):
        await registry.start()
    with pytest.raises(RegistryUnavailableError, match="not read yet"):
        registry.view()


async def test_a_view_names_its_models() -> None:
    registry = registry_of(StaticRegistry(make_registry([], bytes(32), "http://x")), Clock())
    view = await registry.refresh()
    assert view.model("echo").root == MODEL
    with pytest.raises(UnknownModelError, match="ask for one of echo"):
        view.model("nope")


async def body_of(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


async def nothing() -> None: ...


class Maker:
    def __init__(self, size: int = 4, status: int = 200) -> None:
        self.made, self.size, self.status = 0, size, status

    async def __call__(self) -> Reply:
        self.made += 1
        return Reply(status=self.status, headers={}, body=body_of(b"x" * self.size), close=nothing)


async def take(cache: IdempotencyCache, key: str, make: Any, request: bytes = b"q") -> bytes:
    reply = await cache.reply(key, request, make)
    parts = [part async for part in reply.body]
    await reply.close()
    return b"".join(parts)


async def test_an_answer_is_kept_for_a_day() -> None:
    clock, make = Clock(), Maker()
    cache = IdempotencyCache(clock)
    for ahead, made in ((0, 1), (23, 1), (25, 2)):
        clock.ahead = timedelta(hours=ahead)
        assert await take(cache, "key", make) == b"xxxx"
        assert make.made == made
    with pytest.raises(IdempotencyError):
        await take(cache, "key", make, b"other")


async def test_a_failed_answer_is_not_kept() -> None:
    cache, make = IdempotencyCache(Clock()), Maker(status=503)
    for made in (1, 2):
        await take(cache, "key", make)
        assert make.made == made

    async def fail() -> Reply:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await take(cache, "other", fail)


async def test_what_is_kept_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "ENTRIES_MAX", 8)
    monkeypatch.setattr(idempotency, "BYTES_MAX", 100)
    cache, small, large = IdempotencyCache(Clock()), Maker(), Maker(size=40)
    for number in range(50):
        await take(cache, f"small{number}", small)
    assert len(cache._recordings) <= 8
    for number in range(10):
        await take(cache, f"large{number}", large)
    assert sum(recording.size for recording in cache._recordings.values()) <= 140
    await take(cache, "large9", large)
    assert large.made == 10


def test_a_receipt_is_found_by_request_hash_and_by_request_id(tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path / "receipts.sqlite")
    receipt = make_receipt(make_grant())
    for _ in range(2):
        store.keep(sign_receipt(receipt, HOST_KEY), request_id="req_1", model="m", receipt_key=public(2), now=NOW)
    store.close()
    store = ReceiptStore(tmp_path / "receipts.sqlite")
    for name in (receipt.request_hash.hex(), "req_1"):
        kept = store.find(name)
        assert kept is not None
        assert kept.receipt == receipt
    assert store.find("zz") is None
    assert len(store.latest()) == 1
    store.close()


async def test_in_direct_mode_the_same_bytes_go_to_the_host_itself(start_network: StartNetwork) -> None:
    async with start_network(direct=True) as network:
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk:
            assert (await sdk.chat.completions.create(**CHAT)).choices
        assert network.operator.sealed == []


async def test_a_host_behind_the_relay_cannot_mark_a_client_with_a_cookie() -> None:
    seen: list[str] = []

    async def mark(request: web.Request) -> web.Response:
        seen.append(request.headers.get("cookie", ""))
        return web.Response(body=b"evidence", headers={"set-cookie": "who=you; path=/"})

    app = web.Application()
    app.router.add_post("/h/{host}/evidence", mark)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    transport = Transport(read_timeout_s=5)
    for host in ("aa", "bb"):
        url = f"http://localhost:{runner.addresses[0][1]}/h/{host}"
        await transport.fetch_evidence(Candidate(host_id=bytes(8), url=url, ticket="t"), bytes(32))
    await transport.close()
    await runner.cleanup()
    assert seen == ["", ""]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        pytest.param(404, b"Path '/v1/leases' not found.", GatewayError, id="an-ingress-without-routes"),
        pytest.param(503, b"<html>no server</html>", GatewayError, id="an-ingress-without-servers"),
        pytest.param(
            404, b'{"error": {"code": "model_not_found", "message": "no"}}', LeaseRefusedError, id="the-gateway"
        ),
    ],
)
async def test_only_a_gateway_can_refuse_a_lease(status: int, body: bytes, error: type[GatewayError]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_post("/v1/leases", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    transport = Transport(read_timeout_s=5)
    with pytest.raises(GatewayError) as raised:
        await transport.take_lease(f"http://localhost:{runner.addresses[0][1]}", {})
    await transport.close()
    await runner.cleanup()
    assert (type(raised.value), raised.value.should_retry) == (error, error is GatewayError)
