"""Busy, gone and silent hosts: the next one answers, but only while no answer has begun."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web
from openai import APIError, APIStatusError, AsyncOpenAI

from billing.money import Nanotons
from enclave.engine.echo import EchoEngine
from enclave.service import Limits
from tests.client.conftest import StartNetwork
from tests.client.support import CHAT, Network, always, eventually

AWAY = (502, {"error": {"message": "it is away", "type": "x", "code": "unknown"}})
LONG = CHAT | {"messages": [{"role": "user", "content": "word " * 400}], "max_tokens": 400, "stream": True}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "busy"),
        (502, "host_failed"),
        (503, "model_not_loaded"),
        (404, "host_gone"),
        (400, "malformed_envelope"),
        (413, "too_large"),
        (500, "internal_error"),
    ],
)
async def test_the_same_bytes_go_to_the_next_host_when_one_takes_no_work(
    network: Network, sdk: AsyncOpenAI, status: int, code: str
) -> None:
    network.operator.faults[network.enclaves[0].host_id] = always(status, code)
    answer = await sdk.chat.completions.create(**CHAT)
    assert answer.choices[0].message.content == "one two three four five"
    (first, one), (second, two) = network.operator.sealed
    assert first == network.enclaves[0].host_id != second
    assert one == two


async def test_a_host_that_is_gone_is_replaced(network: Network, sdk: AsyncOpenAI) -> None:
    await sdk.chat.completions.create(**CHAT)
    await network.enclaves[0].stop(0)
    for _ in range(6):
        assert (await sdk.chat.completions.create(**CHAT)).choices[0].message.content
    assert sum(enclave.service.counters.served for enclave in network.enclaves[1:]) >= 6


async def test_hosts_that_agree_that_the_request_is_wrong_are_believed(network: Network, sdk: AsyncOpenAI) -> None:
    network.fault_everywhere(always(413, "too_large"))
    with pytest.raises(APIStatusError) as refused:
        await sdk.chat.completions.create(**CHAT)
    assert (refused.value.status_code, refused.value.code) == (413, "too_large")
    assert (len(network.operator.sealed), len(network.operator.leases)) == (3, 1)


async def test_busy_hosts_everywhere_are_a_429_that_says_when_to_come_back(network: Network, sdk: AsyncOpenAI) -> None:
    network.fault_everywhere(always(429, "busy"))
    with pytest.raises(APIStatusError) as refused:
        await sdk.chat.completions.create(**CHAT)
    assert (refused.value.status_code, refused.value.code) == (429, "busy")
    assert refused.value.response.headers["x-should-retry"] == "true"
    assert int(refused.value.response.headers["retry-after-ms"]) > 0
    assert len(network.operator.sealed) == 3


async def test_hosts_gone_everywhere_are_a_503_with_the_reasons(network: Network, sdk: AsyncOpenAI) -> None:
    network.fault_everywhere(always(503, "host_unreachable"))
    with pytest.raises(APIStatusError, match="503 host_unreachable") as refused:
        await sdk.chat.completions.create(**CHAT)
    assert (refused.value.status_code, refused.value.code) == (503, "no_host")
    assert len(network.operator.leases) == 1


async def test_an_old_lease_whose_hosts_are_all_gone_is_replaced(network: Network, sdk: AsyncOpenAI) -> None:
    await sdk.chat.completions.create(**CHAT)
    gone = network.enclaves[1:]
    network.operator.enclaves = network.enclaves[:1]
    network.operator.faults[network.enclaves[0].host_id] = always(503, "host_unreachable")
    network.clock.ahead = timedelta(seconds=60)
    network.operator.enclaves = gone
    assert (await sdk.chat.completions.create(**CHAT)).choices


async def test_a_relay_that_refuses_everything_makes_a_request_hold_two_more_budgets_at_most(
    network: Network, sdk: AsyncOpenAI
) -> None:
    network.fault_everywhere(always(401, "ticket_invalid"))
    with pytest.raises(APIStatusError):
        await sdk.chat.completions.create(**CHAT)
    assert len(network.operator.leases) == 3


@pytest.mark.parametrize(("status", "code"), [(401, "ticket_invalid"), (403, "unknown"), (402, "lease_expired")])
async def test_one_host_that_calls_every_lease_over_does_not_lock_up_the_deposit(
    network: Network, sdk: AsyncOpenAI, status: int, code: str
) -> None:
    network.operator.faults[network.enclaves[0].host_id] = always(status, code)
    for _ in range(8):
        assert (await sdk.chat.completions.create(**CHAT)).choices
    assert len(network.operator.leases) == 1


async def test_a_relay_that_gives_up_on_a_silent_host_is_not_asked_again(network: Network, sdk: AsyncOpenAI) -> None:
    network.fault_everywhere(always(504, "host_silent"))
    with pytest.raises(APIStatusError) as refused:
        await sdk.chat.completions.create(**CHAT)
    assert (refused.value.status_code, refused.value.code) == (502, "worker_lost")
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(network.operator.sealed) == 1


async def test_a_silent_host_ends_the_request_in_time(start_network: StartNetwork) -> None:
    async with start_network(read_timeout_s=1) as network:

        async def sleep(request: web.Request, _: bytes) -> web.StreamResponse | None:
            if request.match_info["what"] == "sealed":
                await asyncio.sleep(30)
            return None

        network.fault_everywhere(sleep)
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk:
            with pytest.raises(APIStatusError) as refused:
                await sdk.chat.completions.create(**CHAT)
        assert refused.value.code == "worker_lost"


async def test_a_host_killed_in_the_middle_of_a_stream_is_an_error_on_that_stream_only(
    start_network: StartNetwork,
) -> None:
    slow = start_network(engine=lambda: EchoEngine(delay_s=0.01))
    async with slow as network, AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk:
        streams = [await sdk.chat.completions.create(**LONG) for _ in range(3)]
        hosts = [stream.response.headers["x-chrysalis-host"] for stream in streams]
        assert len(set(hosts)) == 3
        dead = next(enclave for enclave in network.enclaves if enclave.host_id.hex() == hosts[0])

        async def read(index: int) -> str:
            text = ""
            async for chunk in streams[index]:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
                if index == 0 and len(text) > 50:
                    await dead.stop(0)
            return text

        first, *others = await asyncio.gather(*(read(i) for i in range(3)), return_exceptions=True)
        assert isinstance(first, APIError)
        assert first.code == "worker_lost"
        assert all(isinstance(text, str) and len(text.split()) == 400 for text in others)
        assert (await sdk.chat.completions.create(**CHAT)).choices[0].message.content
        assert len(network.sidecar._receipts.latest()) == 3


async def test_a_broken_stream_ends_in_an_error_event_without_done(start_network: StartNetwork) -> None:
    async with start_network(engine=lambda: EchoEngine(dies_after=10)) as network, aiohttp.ClientSession() as http:
        async with http.post(f"{network.url}/v1/chat/completions", json=LONG) as answer:
            raw = (await answer.read()).decode()
        last = raw.strip().split("\n\n")[-1]
        assert "[DONE]" not in raw
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "worker_lost"


async def test_a_host_that_forgot_its_sessions_gets_a_new_one(network: Network, sdk: AsyncOpenAI) -> None:
    for _ in range(6):
        await sdk.chat.completions.create(**CHAT)
    for enclave in network.enclaves:
        for lease in enclave.service._receiver._leases.values():
            lease.sessions.clear()
    for _ in range(6):
        assert (await sdk.chat.completions.create(**CHAT)).choices[0].message.content
    assert len(network.operator.leases) == 1


async def test_a_lease_near_its_end_is_replaced_before_it_ends(network: Network, sdk: AsyncOpenAI) -> None:
    await sdk.chat.completions.create(**CHAT)
    network.clock.ahead = timedelta(seconds=580)
    await sdk.chat.completions.create(**CHAT)
    leases = [kept.receipt.lease for kept in network.sidecar._receipts.latest()]  # newest first
    assert leases == [grant.lease for grant in reversed(network.operator.leases)]
    assert len(set(leases)) == 2


async def test_the_next_lease_is_taken_at_half_time_and_used_at_the_end_without_the_gateway(
    network: Network, sdk: AsyncOpenAI
) -> None:
    await sdk.chat.completions.create(**CHAT)
    network.clock.ahead = timedelta(seconds=280)
    await sdk.chat.completions.create(**CHAT)
    assert len(network.operator.leases) == 1
    network.operator.grant_changes = {"not_after": int(datetime.now(UTC).timestamp()) + 900}
    network.clock.ahead = timedelta(seconds=310)
    await sdk.chat.completions.create(**CHAT)
    await eventually(lambda: len(network.operator.leases) == 2)
    network.operator.refuse = AWAY
    network.clock.ahead = timedelta(seconds=575)
    await sdk.chat.completions.create(**CHAT)
    assert network.sidecar._receipts.latest()[0].receipt.lease == network.operator.leases[1].lease


async def test_a_lease_that_is_used_up_early_is_followed_by_the_one_taken_in_advance(
    start_network: StartNetwork,
) -> None:
    async with (
        start_network(budget=Nanotons(120_000)) as network,
        AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk,
    ):
        while len(network.operator.leases) < 2:
            await sdk.chat.completions.create(**CHAT)
        network.operator.refuse = AWAY
        used = {kept.receipt.lease for kept in network.sidecar._receipts.latest(100)}
        assert used == {network.operator.leases[0].lease}, "the next lease was there before it was needed"
        with pytest.raises(APIStatusError, match="away"):
            for _ in range(50):
                await sdk.chat.completions.create(**CHAT)
        used = {kept.receipt.lease for kept in network.sidecar._receipts.latest(100)}
        assert used == {grant.lease for grant in network.operator.leases}


async def test_what_a_lease_holds_for_hosts_that_are_gone_counts_as_used(network: Network, sdk: AsyncOpenAI) -> None:
    await sdk.chat.completions.create(**CHAT)
    await network.enclaves[0].stop(0)
    for _ in range(4):
        await sdk.chat.completions.create(**CHAT)
    assert len(network.operator.leases) == 1, "two thirds are left"
    await network.enclaves[1].stop(0)
    for _ in range(4):
        await sdk.chat.completions.create(**CHAT)
    await eventually(lambda: len(network.operator.leases) == 2)


async def test_a_host_that_the_relay_does_not_reach_is_tried_last_for_some_seconds(
    network: Network, sdk: AsyncOpenAI
) -> None:
    first = network.enclaves[0].host_id
    network.operator.faults[first] = always(503, "host_unreachable")
    for seconds in (0, 1, 2, 6):
        network.clock.ahead = timedelta(seconds=seconds)
        await sdk.chat.completions.create(**CHAT)
    assert [host for host, _ in network.operator.sealed].count(first) == 2


async def test_a_lease_goes_on_while_the_gateway_gives_no_other_and_the_gateway_is_left_in_peace(
    network: Network, sdk: AsyncOpenAI
) -> None:
    await sdk.chat.completions.create(**CHAT)
    network.operator.refuse = AWAY
    for seconds in range(310, 560, 5):
        network.clock.ahead = timedelta(seconds=seconds)
        assert (await sdk.chat.completions.create(**CHAT)).choices
    assert 5 <= network.operator.refusals <= 45
    network.operator.refuse = None
    for seconds in (591, 592):
        network.clock.ahead = timedelta(seconds=seconds)
        assert (await sdk.chat.completions.create(**CHAT)).choices


async def test_a_caller_that_leaves_stops_the_engine_and_pays_for_what_it_got(start_network: StartNetwork) -> None:
    async with start_network(engine=lambda: EchoEngine(delay_s=0.01)) as network:
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=0) as sdk:
            async for chunk in await sdk.chat.completions.create(**LONG):
                if chunk.choices[0].delta.content:
                    break
        await eventually(lambda: sum(e.service.counters.abandoned for e in network.enclaves) == 1, within_s=1)
        assert sum(enclave.service.counters.output_tokens for enclave in network.enclaves) < 100
        assert not network.sidecar._client._leases._running


async def test_a_caller_that_leaves_while_it_waits_stops_the_engine_too(start_network: StartNetwork) -> None:
    async with start_network(engine=lambda: EchoEngine(delay_s=0.01)) as network:
        async with aiohttp.ClientSession() as http:
            asking = asyncio.create_task(
                http.post(f"{network.url}/v1/chat/completions", json=LONG | {"stream": False}).__aenter__()
            )
            await eventually(lambda: any(e.service.counters.active for e in network.enclaves))
            asking.cancel()
        await eventually(lambda: sum(e.service.counters.abandoned for e in network.enclaves) == 1, within_s=1)
        assert not network.sidecar._client._leases._running


async def test_more_requests_than_hosts_take_are_refused_and_not_lost(start_network: StartNetwork) -> None:
    changes = {"limits": Limits(running=1, waiting=0)}
    async with start_network(engine=lambda: EchoEngine(delay_s=0.02), enclave_changes=changes) as network:
        async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="x", max_retries=8) as sdk:
            answers = await asyncio.gather(*(sdk.chat.completions.create(**CHAT) for _ in range(8)))
        assert all(answer.choices[0].message.content == "one two three four five" for answer in answers)
