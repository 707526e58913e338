"""The sidecar's own manners: bad input, who may call, idempotency, what it shows and what it never writes down."""

import asyncio
import io
import json
import logging
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from openai import APIStatusError, AsyncOpenAI

from billing.errors import ChainUnreachableError
from enclave.engine.echo import EchoEngine
from tests.client.conftest import StartNetwork
from tests.client.support import CHAT, SECRET, Network, always

JSON = {"content-type": "application/json"}
CHAT_PATH = "/v1/chat/completions"


async def send(network: Network, path: str, body: bytes, headers: dict[str, str] = JSON) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(network.url + path, data=io.BytesIO(body), headers=headers) as answer,
    ):
        assert answer.headers["x-should-retry"]
        return answer.status, (await answer.json())["error"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"", 400, "invalid_json", id="empty"),
        pytest.param(b"{", 400, "invalid_json", id="half"),
        pytest.param(b"[]", 400, "invalid_json", id="list"),
        pytest.param(b"\xff\xfe", 400, "invalid_json", id="not-utf8"),
        pytest.param(b"[" * 100_000, 400, "invalid_json", id="deep"),
        pytest.param(b'{"model": "echo", "model": "other"}', 400, "invalid_json", id="key-twice"),
        pytest.param(b'{"model": "echo", "temperature": NaN}', 400, "invalid_json", id="nan"),
        pytest.param(b"{}", 400, "invalid_value", id="no-model"),
        pytest.param(b'{"model": 7}', 400, "invalid_value", id="model-is-a-number"),
        pytest.param(b'{"model": "' + b"x" * 200 + b'"}', 400, "invalid_value", id="model-too-long"),
        pytest.param(b'{"model": "nope"}', 404, "model_not_found", id="unknown-model"),
        pytest.param(b'{"model": "echo", "stream": "yes"}', 400, "invalid_value", id="stream-is-text"),
        pytest.param(b'{"model": "echo", "pad": "' + b"x" * (1 << 20) + b'"}', 413, "request_too_large", id="huge"),
    ],
)
async def test_a_malformed_request_is_refused_in_the_shape_of_the_api(
    network: Network, body: bytes, status: int, code: str
) -> None:
    got, error = await send(network, CHAT_PATH, body)
    assert (got, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert network.operator.leases == []


async def test_the_largest_request_reaches_the_enclave(network: Network) -> None:
    room = network.config.body_max - len(json.dumps(CHAT | {"user": ""}))
    body = json.dumps(CHAT | {"user": "x" * room}).encode()
    assert len(body) == network.config.body_max
    url, data = network.url + CHAT_PATH, io.BytesIO(body)
    async with aiohttp.ClientSession() as http, http.post(url, data=data, headers=JSON) as answer:
        assert answer.status == 200
        assert (await answer.json())["choices"]


async def test_an_unknown_path_and_a_wrong_method_are_refused_in_the_same_shape(network: Network) -> None:
    assert (await send(network, "/v1/embeddings", b"{}"))[1]["code"] == "not_found"
    assert (await send(network, "/v1/models", b"{}"))[0] == 405
    async with aiohttp.ClientSession() as http, http.get(network.url + "/v1/receipts/unknown") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "receipt_not_found")


async def test_a_web_page_cannot_call_the_sidecar(network: Network) -> None:
    rebound = JSON | {"host": "evil.example"}
    assert (await send(network, CHAT_PATH, json.dumps(CHAT).encode(), rebound))[1]["code"] == "wrong_host"
    simple = {"content-type": "text/plain"}
    assert (await send(network, CHAT_PATH, json.dumps(CHAT).encode(), simple))[1]["code"] == "unsupported_media_type"


async def test_with_a_key_set_callers_must_have_it(start_network: StartNetwork) -> None:
    wrong = {"authorization": "Bearer wrong"}
    async with start_network(api_key="right") as network:
        status, error = await send(network, CHAT_PATH, json.dumps(CHAT).encode(), JSON | wrong)
        assert (status, error["code"]) == (401, "invalid_api_key")
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="right") as sdk:
            assert (await sdk.chat.completions.create(**CHAT)).choices


# --- Idempotency-Key ----------------------------------------------------------------------------------------------


def served(network: Network) -> int:
    return sum(enclave.service.counters.served for enclave in network.enclaves)


async def test_the_same_key_gives_the_same_answer_and_one_charge(network: Network, sdk: AsyncOpenAI) -> None:
    key = {"Idempotency-Key": "order-7"}
    first, second = [await sdk.chat.completions.create(**CHAT, extra_headers=key) for _ in range(2)]
    assert first.id == second.id
    assert served(network) == 1
    assert (await sdk.chat.completions.create(**CHAT)).id != first.id


async def test_the_same_key_while_the_answer_is_made_waits_for_it(start_network: StartNetwork) -> None:
    async with start_network(engine=lambda: EchoEngine(delay_s=0.05)) as network:
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk:
            key = {"Idempotency-Key": "order-7"}
            answers = await asyncio.gather(*(sdk.chat.completions.create(**CHAT, extra_headers=key) for _ in range(5)))
        assert len({answer.id for answer in answers}) == 1
        assert served(network) == 1


async def test_a_stream_is_replayed_from_its_beginning(network: Network, sdk: AsyncOpenAI) -> None:
    texts = []
    for _ in range(2):
        stream = await sdk.chat.completions.create(**CHAT, stream=True, extra_headers={"Idempotency-Key": "k"})
        chunks = [chunk async for chunk in stream]
        texts.append("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices))
    assert texts == ["one two three four five"] * 2
    assert served(network) == 1


async def test_the_same_key_with_another_body_is_refused(network: Network, sdk: AsyncOpenAI) -> None:
    key = {"Idempotency-Key": "order-7"}
    await sdk.chat.completions.create(**CHAT, extra_headers=key)
    with pytest.raises(APIStatusError) as refused:
        await sdk.chat.completions.create(**(CHAT | {"max_tokens": 9}), extra_headers=key)
    assert (refused.value.status_code, refused.value.code) == (422, "idempotency_key_reused")
    assert refused.value.response.headers["x-should-retry"] == "false"


async def test_a_refusal_does_not_use_up_the_key(network: Network, sdk: AsyncOpenAI) -> None:
    key = {"Idempotency-Key": "order-7"}
    network.fault_everywhere(always(429, "busy"))
    with pytest.raises(APIStatusError):
        await sdk.chat.completions.create(**CHAT, extra_headers=key)
    network.operator.faults.clear()
    assert (await sdk.chat.completions.create(**CHAT, extra_headers=key)).choices


async def test_when_all_who_asked_with_a_key_have_left_the_work_stops(start_network: StartNetwork) -> None:
    async with start_network(engine=lambda: EchoEngine(delay_s=0.01)) as network:
        long = CHAT | {"messages": [{"role": "user", "content": "word " * 300}], "max_tokens": 300}
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk:
            async for _ in await sdk.chat.completions.create(
                **long, stream=True, extra_headers={"Idempotency-Key": "k"}
            ):
                break
        async with asyncio.timeout(2):
            while sum(enclave.service.counters.abandoned for enclave in network.enclaves) != 1:
                await asyncio.sleep(0.01)
        assert not network.sidecar._client._leases._running


# --- registry -----------------------------------------------------------------------------------------------------


async def test_a_registry_that_cannot_be_read_any_more_is_not_acted_on_for_ever(start_network: StartNetwork) -> None:
    async with start_network(registry_age_max_s=60) as network:
        network.registry.failure = ChainUnreachableError("account", "down")
        network.clock.ahead = timedelta(seconds=61)
        status, error = await send(network, CHAT_PATH, json.dumps(CHAT).encode())
        assert (status, error["code"]) == (503, "registry_unavailable")


# --- privacy ------------------------------------------------------------------------------------------------------


async def test_no_prompt_or_answer_is_logged_or_stored(
    network: Network, sdk: AsyncOpenAI, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="client")
    caplog.set_level(logging.DEBUG, logger="attestation")
    caplog.set_level(logging.DEBUG, logger="uvicorn")
    await sdk.chat.completions.create(**CHAT)
    async for _ in await sdk.chat.completions.create(**CHAT, stream=True):
        pass
    for wrong in ({"temperature": 9}, {"max_tokens": 40_000}, {"unknown": SECRET}, {"model": SECRET}):
        with pytest.raises(APIStatusError):
            await sdk.chat.completions.create(**(CHAT | wrong) if "unknown" not in wrong else CHAT, extra_body=wrong)
    ours = [r.getMessage() for r in caplog.records if r.name.split(".")[0] in {"client", "attestation", "uvicorn"}]
    assert ours
    assert not any(SECRET in line for line in ours)
    assert SECRET not in "".join(capfd.readouterr())
    for path in network.config.state.rglob("*"):
        assert SECRET.encode() not in path.read_bytes()


async def test_an_unforeseen_failure_tells_its_kind_and_nothing_else(
    network: Network, sdk: AsyncOpenAI, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise ValueError(f"cannot parse {SECRET}")

    monkeypatch.setattr(network.sidecar._client, "ask", fail)
    with pytest.raises(APIStatusError) as refused:
        await sdk.chat.completions.create(**CHAT)
    assert refused.value.status_code == 500
    assert SECRET not in str(refused.value)
    assert any("failed: ValueError" in record.getMessage() for record in caplog.records)
    assert SECRET not in caplog.text.replace("DEBUG", "")
