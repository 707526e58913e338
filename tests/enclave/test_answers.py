"""What a good request gets: OpenAI shapes inside the seal, a receipt that fits, and a settled lease."""

import base64

from attestation.frames import Endpoint
from billing.receipt import parse_receipt
from billing.tariff import Usage, price
from enclave.enclave import Enclave
from enclave.service import Limits
from tests.enclave.support import ACCOUNT, CAP, CHAT, MODEL, PAYEE, TARIFF, Client, Starter, control, receipts


async def test_a_chat_gets_one_completion_and_a_receipt_for_it(client: Client, enclave: Enclave) -> None:
    sealed = client.seal(CHAT | {"max_tokens": 9})
    http = await client.send(sealed.data)
    answer = client.open(sealed, http.body)
    assert (http.status, http.headers["content-type"]) == (200, "application/octet-stream")
    [completion] = answer.data
    usage = completion.pop("usage")
    assert usage == {
        "prompt_tokens": 18,
        "completion_tokens": 3,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "cost_nanotons": 18 * 100 + 3 * 300,
    }
    assert completion == {
        "id": f"chatcmpl-{sealed.request_hash.hex()[:32]}",
        "object": "chat.completion",
        "created": 1795435200,
        "model": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two three", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
    }
    receipt = answer.receipt
    assert receipt is not None and answer.finished
    assert (receipt.request_hash, receipt.response_hash) == (sealed.request_hash, answer.response_hash)
    assert (receipt.account, receipt.lease, receipt.host_id) == (ACCOUNT, client.terms["lease"], enclave.host_id)
    assert (receipt.model_root, receipt.payee) == (MODEL, PAYEE)
    assert receipt.usage == Usage(prompt_tokens=18, completion_tokens=3)
    assert receipt.price == usage["cost_nanotons"] == price(receipt.usage, TARIFF, coefficient=1000)
    assert receipt.transcript == enclave.service.evidence.transcript


async def test_a_streamed_chat_comes_in_chunks(client: Client) -> None:
    answer = await client.ask(CHAT | {"stream": True})
    deltas = [chunk["choices"][0] for chunk in answer.data]
    assert [delta["delta"] for delta in deltas] == [
        {"role": "assistant", "content": "one "},
        {"content": "two "},
        {"content": "three"},
    ]
    assert [delta["finish_reason"] for delta in deltas] == [None, None, "stop"]
    assert {chunk["object"] for chunk in answer.data} == {"chat.completion.chunk"}
    assert answer.receipt is not None and answer.receipt.response_hash == answer.response_hash


async def test_usage_ends_a_stream_that_asked_for_it(client: Client) -> None:
    answer = await client.ask(CHAT | {"stream": True, "stream_options": {"include_usage": True}})
    assert answer.data[-1]["choices"] == []
    assert answer.data[-1]["usage"]["cost_nanotons"] == answer.receipt.price
    assert answer.receipt.response_hash == answer.response_hash


async def test_a_plain_completion(client: Client) -> None:
    answer = await client.ask({"model": "echo", "prompt": "a b c d", "max_tokens": 2}, Endpoint.COMPLETIONS)
    assert answer.data[0]["object"] == "text_completion"
    assert answer.data[0]["choices"] == [{"index": 0, "finish_reason": "length", "logprobs": None, "text": "a b"}]


async def test_a_streamed_plain_completion(client: Client) -> None:
    answer = await client.ask({"model": "echo", "prompt": "a b", "stream": True}, Endpoint.COMPLETIONS)
    assert [chunk["choices"][0]["text"] for chunk in answer.data] == ["a ", "b"]
    assert answer.data[-1]["choices"][0]["finish_reason"] == "stop"


async def test_stop_strings_and_message_parts_reach_the_engine(client: Client) -> None:
    parts = [{"type": "text", "text": "one two "}, {"type": "text", "text": "three four"}]
    body = CHAT | {"messages": [{"role": "user", "content": parts}], "stop": "three"}
    answer = await client.ask(body)
    assert answer.text.strip() == "one two"


async def test_text_with_quotes_newlines_and_other_scripts_survives(client: Client) -> None:
    text = 'sagt:"früh" \\ 日本 \u2028 end'
    for stream in (False, True):
        answer = await client.ask(CHAT | {"messages": [{"role": "user", "content": text}], "stream": stream})
        assert answer.text.split() == text.split()


async def test_later_requests_use_the_session(client: Client) -> None:
    first = client.seal()
    await client.send(first.data)
    client.sender.confirm(client.enclave.host_id, first)
    sealed = client.seal()
    assert len(sealed.data) < len(first.data) - 1000
    assert client.open(sealed, (await client.send(sealed.data)).body).text == "one two three"


async def test_a_one_shot_request_is_answered(client: Client) -> None:
    sealed = client.seal_once()
    assert client.open(sealed, (await client.send(sealed.data)).body).text == "one two three"


async def test_the_receipt_is_stored_before_the_client_sees_it(client: Client, enclave: Enclave) -> None:
    answer = await client.ask()
    [stored] = await receipts(enclave)
    assert parse_receipt(base64.b64decode(stored["receipt"])) == answer.receipt
    assert await control(enclave, "POST", "/ack", {"seq": stored["seq"]}) == {"receipts": 0}


async def test_the_lease_is_charged_exactly_the_price(client: Client, enclave: Enclave) -> None:
    answers = [await client.ask(CHAT | {"max_tokens": 50, "stream": stream}) for stream in (False, True)]
    [lease] = enclave.service._credit._leases.values()
    assert lease.spent == sum(answer.receipt.price for answer in answers)
    assert (lease.reserved, lease.left) == (0, CAP - lease.spent)


async def test_events_within_the_window_are_joined_and_nothing_is_lost(start: Starter) -> None:
    enclave = await start(limits=Limits(coalesce_s=0.02))
    client = Client(enclave)
    words = " ".join(str(n) for n in range(200))
    answer = await client.ask(CHAT | {"messages": [{"role": "user", "content": words}], "stream": True})
    assert answer.text == words
    assert answer.data[0]["choices"][0]["delta"]["content"] == "0 "
    assert len(answer.data) < 20
    assert answer.receipt.usage.completion_tokens == 200


async def test_health_counts_what_was_served(client: Client, enclave: Enclave) -> None:
    await client.ask()
    status = await control(enclave, "GET", "/status")
    assert (status["served"], status["output_tokens"], status["running"], status["waiting"]) == (1, 3, 0, 0)
    assert status["models"] == [MODEL.hex()]
