"""Bad input: each attack gets its status, its code and a sentence, and nothing is charged."""

import asyncio
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.frames import Endpoint
from enclave.enclave import Enclave
from enclave.engine.echo import EchoEngine
from enclave.errors import BadRequestError
from enclave.openai import parse_ask
from enclave.service import Limits
from tests.enclave.support import CAP, CHAT, OTHER_KEY, OTHER_MODEL, Client, Clock, Starter, get, make_grant, receipts


async def refused(client: Client, data: bytes) -> tuple[int, str]:
    answer = await client.send(data)
    assert answer.headers["content-type"] == "application/json"
    await nothing_is_charged(client.enclave)
    return answer.error()


async def refused_inside(
    client: Client, body: dict[str, Any] | bytes, endpoint: int = Endpoint.CHAT_COMPLETIONS
) -> Any:
    answer = await client.ask(body, endpoint)
    assert answer.finished and answer.receipt is None and answer.data == []
    await nothing_is_charged(client.enclave)
    error = answer.error["error"]
    assert len(error["message"]) > 10
    return answer.error["status"], error["code"], error["param"]


async def nothing_is_charged(enclave: Enclave) -> None:
    assert await receipts(enclave) == []
    assert all(lease.spent == lease.reserved == 0 for lease in enclave.service._credit._leases.values())


async def test_an_empty_body_is_refused(client: Client) -> None:
    assert await refused(client, b"") == (400, "empty_body")


@pytest.mark.parametrize(
    "data", [b"\0", b"hello", bytes(5000), os.urandom(3000)], ids=["a-zero", "text", "zeros", "noise"]
)
async def test_bytes_that_are_no_envelope_are_refused(client: Client, data: bytes) -> None:
    assert await refused(client, data) == (400, "malformed_envelope")


async def test_a_truncated_envelope_is_refused_wherever_it_is_cut(client: Client) -> None:
    sealed = client.seal().data
    for cut in [*range(0, len(sealed) - 1, 97), len(sealed) - 1]:
        status, _ = await refused(client, sealed[:cut])
        assert status in (400, 401)


async def test_an_altered_envelope_is_refused(client: Client) -> None:
    sealed = client.seal().data
    assert await refused(client, sealed[:-1] + bytes([sealed[-1] ^ 1])) == (400, "envelope_refused")


async def test_a_huge_body_is_refused_before_it_is_read(client: Client) -> None:
    assert await refused(client, bytes((1 << 20) + 1)) == (413, "too_large")


async def test_a_replayed_request_is_refused_and_tells_sdks_not_to_retry(client: Client) -> None:
    for sealed in (client.seal(), client.seal_once()):
        client.open(sealed, (await client.send(sealed.data)).body)
        again = await client.send(sealed.data)
        assert again.error() == (409, "replayed_request")
        assert again.headers["x-should-retry"] == "false"
    assert len(await receipts(client.enclave)) == 2


async def test_a_request_for_another_host_is_refused(client: Client, start: Starter) -> None:
    other = await start()
    answer = await Client(other).send(client.seal().data)
    assert answer.error() == (404, "not_a_recipient")


async def test_a_request_without_its_grant_is_refused(client: Client) -> None:
    client.sender._grant = b""
    assert await refused(client, client.seal().data) == (401, "unknown_lease")


async def test_a_session_the_enclave_does_not_know_is_refused(client: Client) -> None:
    await client.ask()
    client.sender.forget(client.enclave.host_id, client.seal())
    fresh = client.seal()
    client.sender.confirm(client.enclave.host_id, fresh)  # which never arrived
    assert (await client.send(client.seal().data)).error() == (401, "unknown_session")


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        pytest.param({"operator_key": OTHER_KEY}, (401, "invalid_grant"), id="signed-by-somebody-else"),
        pytest.param({"grant": b"not a grant"}, (401, "invalid_grant"), id="not-a-grant"),
        pytest.param({"not_after": 1_700_000_000}, (402, "lease_expired"), id="lease-expired"),
        pytest.param({"coefficient": 999}, (402, "coefficient_too_low"), id="pays-less-than-the-owner-asks"),
        pytest.param({"account_key": OTHER_KEY}, (401, "invalid_grant"), id="grant-of-another-account"),
        pytest.param({"model": OTHER_MODEL}, (503, "model_not_loaded"), id="model-not-loaded-here"),
        pytest.param({"model": b"?" * 32}, (404, "model_not_found"), id="model-unknown"),
    ],
)
async def test_a_grant_that_does_not_hold_is_refused(enclave: Enclave, terms: dict[str, Any], expected: Any) -> None:
    client = Client(enclave, **terms)
    assert await refused(client, client.seal().data) == expected
    assert await refused(client, client.seal_once().data) == expected


async def test_a_grant_that_names_other_hosts_is_refused(enclave: Enclave) -> None:
    client = Client(enclave)
    client.sender._grant = make_grant([b"somebody"], **client.terms)
    assert await refused(client, client.seal().data) == (401, "invalid_grant")


async def test_a_grant_for_another_lease_or_model_is_refused(enclave: Enclave) -> None:
    client = Client(enclave)
    for change in ({"lease": b"other lease id.."}, {"model": OTHER_MODEL}):
        client.sender._grant = make_grant([enclave.host_id], **(client.terms | change))
        assert await refused(client, client.seal().data) == (401, "invalid_grant")


async def test_a_known_lease_does_not_open_another_model(enclave: Enclave) -> None:
    await enclave.service.models.load(OTHER_MODEL)
    client = Client(enclave)
    await client.ask({"model": "echo"})  # refused inside, but the lease is known now
    client.sender._model = OTHER_MODEL
    assert await refused(client, client.seal().data) == (400, "wrong_model")


async def test_a_thief_without_the_account_key_cannot_spend_the_lease(client: Client) -> None:
    assert await refused(client, client.seal_once(key=OTHER_KEY).data) == (401, "bad_account_signature")
    thief = Client(client.enclave, **(client.terms | {"grant": client.grant}))
    thief.sender._account_key = OTHER_KEY
    assert await refused(thief, thief.seal().data) == (401, "bad_account_signature")


async def test_a_lease_that_ends_meanwhile_is_refused(start: Starter) -> None:
    clock = Clock()
    client = Client(await start(clock=clock))
    await client.ask({"model": "echo"})
    clock.forward(600)
    assert await refused(client, client.seal().data) == (402, "lease_expired")
    client.enclave.service.forget_ended_leases()
    assert client.enclave.service._credit._leases == {}
    assert await refused(client, client.seal().data) == (402, "lease_expired")


async def test_a_request_over_its_price_cap_never_reaches_the_engine(enclave: Enclave) -> None:
    client = Client(enclave, cap=100)
    assert await refused_inside(client, CHAT) == (402, "price_cap_exceeded", None)


async def test_a_client_without_credit_never_reaches_the_engine(enclave: Enclave) -> None:
    client = Client(enclave, slice=100)
    assert await refused_inside(client, CHAT | {"max_tokens": 5}) == (402, "slice_exhausted", None)


async def test_requests_that_run_together_cannot_spend_the_same_credit_twice(start: Starter) -> None:
    enclave = await start(engine=lambda: EchoEngine(delay_s=0.02))
    client = Client(enclave, slice=3000)  # one request may cost 18 * 100 + 3 * 300 = 2700
    answers = await asyncio.gather(*(client.ask(CHAT | {"max_tokens": 3}) for _ in range(3)))
    assert sorted((answer.error or {"status": 200})["status"] for answer in answers) == [200, 402, 402]


async def test_no_model_loaded_yet(start: Starter) -> None:
    client = Client(await start(load=False))
    answer = await client.send(client.seal().data)
    assert answer.error() == (503, "model_not_loaded")
    assert int(answer.headers["retry-after-ms"]) > 0
    assert json.loads((await get(client.enclave.address, "/health")).body)["ready"] is False


async def test_a_busy_host_says_so_before_opening_and_takes_the_same_bytes_later(start: Starter) -> None:
    enclave = await start(engine=lambda: EchoEngine(delay_s=0.05), limits=Limits(running=1, waiting=1))
    client = Client(enclave)
    first, second, third = (client.seal() for _ in range(3))
    running = [asyncio.create_task(client.send(sealed.data)) for sealed in (first, second)]
    await asyncio.sleep(0.03)
    busy = await client.send(third.data)
    assert busy.error() == (429, "busy")
    assert int(busy.headers["retry-after-ms"]) > 0
    await asyncio.gather(*running)
    assert client.open(third, (await client.send(third.data)).body).text == "one two three"


async def test_other_methods_are_refused(client: Client) -> None:
    assert (await get(client.enclave.address, "/anything")).error() == (404, "unknown_route")


@pytest.mark.parametrize("endpoint", [0, 3, 255])
async def test_an_unknown_endpoint_is_refused(client: Client, endpoint: int) -> None:
    assert (await refused_inside(client, CHAT, endpoint))[:2] == (400, "malformed_envelope")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", "empty_body", id="empty"),
        pytest.param(b"{", "invalid_json", id="cut"),
        pytest.param(b"[]", "invalid_json", id="list"),
        pytest.param(b"\xff{}", "invalid_json", id="not-utf8"),
        pytest.param(b'{"model":"a","model":"b"}', "invalid_json", id="doubled-key"),
        pytest.param(b'{"temperature":NaN}', "invalid_json", id="nan"),
        pytest.param(b"[" * 100_000, "invalid_json", id="depth-bomb"),
        pytest.param(b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "invalid_json", id="object-bomb"),
        pytest.param(b'{"max_tokens":' + b"9" * 5000 + b"}", "invalid_json", id="digit-bomb"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(client: Client, body: bytes, code: str) -> None:
    assert (await refused_inside(client, body))[:2] == (400, code)


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 7}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_type"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [USER] * 257}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        ({"messages": [USER | {"tool_calls": [1]}]}, "messages[0].tool_calls", "unknown_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "a\x1fb"}]}, "messages", "invalid_value"),
        ({"prompt": "x"}, "prompt", "unknown_parameter"),
        ({"surprise": 1}, "surprise", "unknown_parameter"),
        ({"\ud800": 1}, "?", "unknown_parameter"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"n": True}, "n", "unsupported_value"),
        ({"store": True}, "store", "unsupported_value"),
        ({"seed": 1}, "seed", "unsupported_value"),
        ({"logprobs": True}, "logprobs", "unsupported_value"),
        ({"tools": [{}]}, "tools", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
        ({"frequency_penalty": 1}, "frequency_penalty", "unsupported_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**6}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x" * 40000}]}, "messages", "context_length_exceeded"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": -1}, "top_p", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": 1}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"more": True}}, "stream_options.more", "unknown_parameter"),
    ],
    ids=lambda value: json.dumps(value)[:48] if isinstance(value, dict) else "",
)
async def test_a_field_the_host_cannot_honour_is_refused_by_name(
    client: Client, change: dict[str, Any], param: str, code: str
) -> None:
    body = {name: value for name, value in (CHAT | change).items() if value is not None}
    assert await refused_inside(client, body) == (400, code, param)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "u", "metadata": {"k": "v"}, "store": False, "n": 1, "logprobs": False, "seed": None},
        {"seed": 7, "temperature": 0},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"}},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "service_tier": "auto"},
        {"messages": [USER | {"name": "Ann", "refusal": None, "tool_calls": None}]},
        {"messages": [{"role": "developer", "content": "be brief"}, USER]},
        {"max_tokens": 5, "max_completion_tokens": 5},
    ],
    ids=lambda change: json.dumps(change)[:48],
)
async def test_fields_with_their_neutral_value_are_taken(client: Client, change: dict[str, Any]) -> None:
    answer = await client.ask(CHAT | change)
    assert answer.error is None and answer.receipt is not None


@pytest.mark.parametrize("prompt", [None, ["a", "b"], [1, 2], 5, [], ""])
async def test_a_prompt_that_is_not_one_text_is_refused(client: Client, prompt: object) -> None:
    status, _, param = await refused_inside(client, {"model": "echo", "prompt": prompt}, Endpoint.COMPLETIONS)
    assert (status, param) in {(400, "prompt"), (400, "messages")}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [*CHAT, "prompt", "max_tokens", "stop", "stream", "stream_options", "n", "seed", "logit_bias", "temperature", "x"]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(fields, json_values, max_size=6), st.sampled_from(list(Endpoint)))
def test_no_json_makes_the_parser_raise_anything_but_a_named_refusal(body: dict[str, Any], endpoint: Endpoint) -> None:
    for raw in (body, CHAT | body):
        try:
            parse_ask(endpoint, json.dumps(raw).encode())
        except BadRequestError as refusal:
            assert json.loads(refusal.encode())["error"]["code"]


async def test_a_thousandth_below_the_cap_is_enough(enclave: Enclave) -> None:
    client = Client(enclave, cap=2700, slice=2700)
    answer = await client.ask(CHAT | {"max_tokens": 3})
    assert answer.receipt is not None and answer.receipt.price == 2700 < CAP
