"""The unmodified OpenAI SDK against the sidecar, with real enclaves behind it."""

import asyncio

import pytest
from openai import APIError, AsyncOpenAI, NotFoundError

from billing.receipt import verify_receipt
from tests.client.support import CHAT, SECRET, Network


async def test_a_chat_is_answered_by_a_verified_host_with_a_receipt(network: Network, sdk: AsyncOpenAI) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(**CHAT)
    answer = raw.parse()
    assert answer.choices[0].message.content == "one two three four five"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    kept = (await sdk.get(f"/receipts/{raw.headers['x-chrysalis-receipt']}", cast_to=dict)) or {}
    host = bytes.fromhex(raw.headers["x-chrysalis-host"])
    receipt = verify_receipt(bytes.fromhex(kept["signed"]), bytes.fromhex(kept["receipt_key"]))
    assert receipt.host_id == host
    assert receipt.account == network.wallet.account
    assert receipt.price == answer.usage.model_extra["cost_nanotons"] == kept["price_nanotons"] > 0
    assert raw.headers["x-request-id"] == kept["request_id"]
    assert answer._request_id == kept["request_id"]


async def test_a_stream_brings_every_word_and_ends_with_done(sdk: AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "one two three four five"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


async def test_a_plain_completion_works_too(sdk: AsyncOpenAI) -> None:
    answer = await sdk.completions.create(model="echo", prompt="alpha beta", max_tokens=10)
    assert answer.choices[0].text == "alpha beta"


async def test_models_are_listed_with_their_prices(sdk: AsyncOpenAI) -> None:
    (model,) = [model async for model in sdk.models.list()]
    assert (model.id, model.model_extra["pricing"]["prompt"]) == ("echo", 100_000_000)
    assert (await sdk.models.retrieve("echo")).id == "echo"
    with pytest.raises(NotFoundError):
        await sdk.models.retrieve("nope")


async def test_many_requests_at_once_spread_over_the_hosts_of_one_lease(network: Network, sdk: AsyncOpenAI) -> None:
    answers = await asyncio.gather(*(sdk.chat.completions.create(**CHAT) for _ in range(20)))
    assert all(answer.choices[0].message.content == "one two three four five" for answer in answers)
    served = [enclave.service.counters.served for enclave in network.enclaves]
    assert sum(served) == 20
    assert min(served) >= 4
    assert len(network.operator.leases) == 1


async def test_after_the_first_requests_sealing_needs_no_public_key(network: Network, sdk: AsyncOpenAI) -> None:
    for _ in range(4):
        await asyncio.gather(*(sdk.chat.completions.create(**CHAT) for _ in range(3)))
    first, last = network.operator.sealed[0][1], network.operator.sealed[-1][1]
    assert len(first) > 4000
    assert len(last) < 1200


async def test_the_prompt_never_leaves_the_client_in_clear(network: Network, sdk: AsyncOpenAI) -> None:
    await sdk.chat.completions.create(**CHAT)
    assert network.operator.sealed
    assert all(SECRET.encode() not in body for _, body in network.operator.sealed)


async def test_what_the_enclave_refuses_arrives_in_the_shape_of_the_api(sdk: AsyncOpenAI) -> None:
    with pytest.raises(APIError) as refused:
        await sdk.chat.completions.create(**(CHAT | {"temperature": 9}))
    assert (refused.value.status_code, refused.value.param) == (400, "temperature")


async def test_a_context_that_is_too_long_is_refused_before_a_stream_begins(sdk: AsyncOpenAI) -> None:
    with pytest.raises(APIError) as refused:
        await sdk.chat.completions.create(**(CHAT | {"max_tokens": 40_000}), stream=True)
    assert (refused.value.status_code, refused.value.code) == (400, "context_length_exceeded")


async def test_the_verdicts_held_are_shown(network: Network, sdk: AsyncOpenAI) -> None:
    await sdk.chat.completions.create(**CHAT)
    shown = await sdk.get("/attestation", cast_to=dict)
    assert {host["host_id"] for host in shown["hosts"]} == {enclave.host_id.hex() for enclave in network.enclaves}
    assert all(host["simulated"] for host in shown["hosts"])
    assert {check["outcome"] for host in shown["hosts"] for check in host["checks"]} <= {"held", "not applicable"}
