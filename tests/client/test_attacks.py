"""Hosts, gateways and relays that lie. Each test is named after what they try."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from openai import APIError, APIStatusError, AsyncOpenAI

from attestation.errors import NotRecipientError
from attestation.eventlog import EventKind, LogEvent
from attestation.sealing import parse_request
from attestation.simulate import Fault, SimulatedHost, SimulatedVendors
from attestation.verdict import TeeKind
from billing.money import Nanotons
from billing.receipt import encode_receipt, parse_receipt, sign_receipts
from billing.tariff import Tariff, Usage
from billing.ton.registry import ModelTerms
from tests.client.conftest import StartNetwork
from tests.client.support import CHAT, MODEL, TARIFF, Network


async def ask(network: Network, **changes: Any) -> Any:
    async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="local", max_retries=0) as sdk:
        return await sdk.chat.completions.create(**(CHAT | changes))


async def ask_and_fail(network: Network, **changes: Any) -> tuple[int, str, str]:
    with pytest.raises(APIStatusError) as refused:
        await ask(network, **changes)
    assert refused.value.response.headers["x-should-retry"] in {"true", "false"}
    return refused.value.status_code, str(refused.value.code), refused.value.message


async def read_stream(network: Network, **changes: Any) -> tuple[str, APIError | None]:
    """Text so far, and the error that ended the stream."""
    async with AsyncOpenAI(base_url=f"{network.url}/v1", api_key="local", max_retries=0) as sdk:
        body = CHAT | {"stream": True} | changes
        text, failure = "", None
        try:
            async for chunk in await sdk.chat.completions.create(**body):
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
        except APIError as error:
            failure = error
        return text, failure


# --- hosts that are not what they say -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault.DEBUG_GUEST, "GuestPolicyError"),
        (Fault.FOREIGN_MEASUREMENT, "MeasurementNotAllowedError"),
        (Fault.WRONG_NONCE, "FreshnessError"),
        (Fault.REPLAYED_QUOTE, "BindingMismatchError"),
        (Fault.SWAPPED_KEYS, "BindingMismatchError"),
        (Fault.UNLOGGED_EXTENSION, "EventLogMismatchError"),
        (Fault.UNNAMED_MODEL, "EventLogMismatchError"),
    ],
)
async def test_nothing_is_sealed_to_a_host_that_does_not_verify(
    start_network: StartNetwork, vendors: SimulatedVendors, fault: Fault, why: str
) -> None:
    liar = vendors.make_host(TeeKind.TDX, faults=[fault], quote_latency_s=0)
    async with start_network([liar]) as network:
        status, code, message = await ask_and_fail(network)
        assert (status, code) == (503, "no_host")
        assert why in message
        assert network.operator.sealed == []


async def test_a_model_loaded_behind_the_enclaves_back_ends_the_trust_in_its_host(
    start_network: StartNetwork, vendors: SimulatedVendors
) -> None:
    host = vendors.make_host(TeeKind.TDX, quote_latency_s=0)
    async with start_network([host]) as network:
        host.extend(LogEvent(kind=EventKind.MODEL, digest=b"x" * 32))
        status, code, message = await ask_and_fail(network)
        assert (status, code) == (503, "no_host")
        assert "EventLogMismatchError: event log models" in message
        assert network.operator.sealed == []


async def test_a_host_with_a_measurement_that_is_not_allowed_is_left_out(
    start_network: StartNetwork, simulated: list[SimulatedHost], vendors: SimulatedVendors
) -> None:
    stranger = vendors.make_host(TeeKind.TDX, image=b"i" * 32, quote_latency_s=0)
    async with start_network([stranger, simulated[0]], allowed=simulated) as network:
        for _ in range(3):
            await ask(network)
        good = network.enclaves[1].host_id
        assert {host for host, _ in network.operator.sealed} == {good}
        with pytest.raises(NotRecipientError):
            parse_request(network.operator.sealed[0][1], network.enclaves[0].host_id)


async def test_simulated_vendors_of_somebody_else_are_not_believed(
    start_network: StartNetwork, simulated: list[SimulatedHost]
) -> None:
    other = SimulatedVendors.create(datetime.now(UTC)).make_host(TeeKind.TDX, quote_latency_s=0)
    async with start_network([other], allowed=[other]) as network:
        status, _, message = await ask_and_fail(network)
        assert status == 503
        assert "UntrustedRootError" in message


async def test_a_host_whose_measurement_is_withdrawn_gets_nothing_more(network: Network) -> None:
    await ask(network)
    state = network.registry.state
    gone = network.sidecar._verifier.verdicts[0].measurement
    left = {key: value for key, value in state.measurements.items() if key != gone}
    network.registry.state = replace(state, seqno=2, measurements=left)
    await network.sidecar._registry.refresh()
    network.operator.sealed.clear()
    for _ in range(3):
        await ask(network)
    bad = {v.host_id for v in network.sidecar._verifier.verdicts if v.measurement == gone}
    assert not bad
    used = {host for host, _ in network.operator.sealed}
    assert 0 < len(used) < 3


# --- gateways that lie --------------------------------------------------------------------------------------------


async def test_a_gateway_cannot_pass_off_one_host_as_another(start_network: StartNetwork) -> None:
    async with start_network() as network:
        real, other = network.enclaves[0], network.enclaves[1]

        async def reroute(request: web.Request, body: bytes) -> web.StreamResponse:
            answer = await network.operator._http.post(f"http://{other.address}{request.path}", data=body)
            return web.Response(body=await answer.read(), status=answer.status)

        network.operator.enclaves = [real]
        network.operator.faults[real.host_id] = reroute
        status, code, message = await ask_and_fail(network)
        assert (status, code) == (503, "no_host")
        assert f"the evidence is of host {other.host_id.hex()}" in message


FOREIGN = Ed25519PrivateKey.from_private_bytes(b"f" * 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"account": b"a" * 32}, "another account", id="another-account"),
        pytest.param({"model_root": b"x" * 32}, "model root", id="another-model"),
        pytest.param({"tariff": Tariff(prompt_price=1, completion_price=10**12)}, "prices", id="higher-prices"),
        pytest.param({"not_after": 1_000}, "ends at", id="over-already"),
        pytest.param({"not_after": 1 << 40}, "ends at", id="never-ending"),
    ],
)
async def test_a_grant_that_is_not_what_was_asked_for_is_refused(
    network: Network, changes: dict[str, Any], words: str
) -> None:
    network.operator.grant_changes = changes
    status, code, message = await ask_and_fail(network)
    assert (status, code) == (502, "lease_mismatch")
    assert words in message
    assert network.operator.sealed == []


async def list_models(network: Network, **names: bytes) -> None:
    """Have the registry list further roots, under these names."""
    state = network.registry.state
    models = {root: ModelTerms(name=name, tariff=TARIFF, context=32768) for name, root in names.items()}
    network.registry.state = replace(state, seqno=state.seqno + 1, models={**models, **state.models})
    await network.sidecar._registry.refresh()


async def test_a_grant_for_a_root_that_is_listed_under_another_name_is_refused(network: Network) -> None:
    await list_models(network, cheap=b"x" * 32)
    network.operator.grant_changes = {"model_root": b"x" * 32}
    status, code, message = await ask_and_fail(network)
    assert (status, code, "model root" in message) == (502, "lease_mismatch", True)
    assert network.operator.sealed == []


@pytest.mark.parametrize("other", [bytes(32), b"\xff" * 32])
async def test_a_lease_may_be_for_any_root_that_is_listed_under_the_name(network: Network, other: bytes) -> None:
    await list_models(network, echo=other)
    assert (await ask(network)).choices[0].message.content == "one two three four five"
    assert (await ask(network)).choices[0].message.content == "one two three four five"
    assert [grant.model_root for grant in network.operator.leases] == [MODEL]


async def test_a_lease_ends_when_its_root_is_not_listed_any_more(network: Network) -> None:
    await list_models(network, echo=b"\xff" * 32)
    await ask(network)
    state = network.registry.state
    left = {root: terms for root, terms in state.models.items() if root != MODEL}
    network.registry.state = replace(state, seqno=state.seqno + 1, models=left)
    await network.sidecar._registry.refresh()
    assert (await ask_and_fail(network))[1] == "lease_mismatch"


async def test_a_grant_of_another_operator_is_refused(network: Network) -> None:
    network.operator.sign_with = FOREIGN
    assert (await ask_and_fail(network))[1] == "lease_mismatch"


async def test_a_gateway_cannot_hold_more_than_the_budget(network: Network) -> None:
    network.operator.budget_share = network.config.budget
    _, code, message = await ask_and_fail(network)
    assert code == "lease_mismatch"
    assert "budget" in message


async def test_a_gateway_cannot_sneak_in_a_dearer_host(network: Network) -> None:
    network.operator.coefficient = network.config.coefficient_max + 1
    assert "thousandths" in (await ask_and_fail(network))[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"grant": "!"},
        {"grant": None},
        {"relay": "file:///etc/passwd"},
        {"relay": 7},
        {"candidates": []},
        {"candidates": [{"host_id": "00" * 8, "ticket": "t"}]},
        {"candidates": [{"host_id": "../../x", "ticket": "t"}]},
        {"candidates": [{"host_id": "00" * 8, "ticket": "a\r\nx: y"}]},
        {"candidates": "all"},
        {"candidates": [7]},
    ],
)
async def test_a_malformed_lease_is_refused(network: Network, changes: dict[str, Any]) -> None:
    network.operator.answer_changes = changes
    assert (await ask_and_fail(network))[:2] == (502, "lease_mismatch")


# --- relays that touch the bytes ----------------------------------------------------------------------------------


def corrupting(network: Network, at: int) -> Callable[[web.Request, bytes], Any]:
    async def corrupt(request: web.Request, body: bytes) -> web.StreamResponse | None:
        if request.match_info["what"] != "sealed":
            return None
        seen = 0

        def change(part: bytes) -> bytes:
            nonlocal seen
            index = at - seen
            seen += len(part)
            return part[:index] + bytes([part[index] ^ 1]) + part[index + 1 :] if 0 <= index < len(part) else part

        return await network.operator.forward(request, body, change)

    return corrupt


@pytest.mark.parametrize("at", [0, 16, 17, 40, 300])
async def test_an_answer_with_one_changed_bit_is_refused_and_the_host_avoided(network: Network, at: int) -> None:
    network.fault_everywhere(corrupting(network, at))
    status, code, _ = await ask_and_fail(network)
    assert (status, code) in {(502, "answer_tampered"), (502, "worker_lost")}
    network.operator.faults.clear()
    if code == "answer_tampered":
        bad = network.operator.sealed[0][0]
        for _ in range(4):
            await ask(network)
        assert bad not in {host for host, _ in network.operator.sealed[1:]}


async def test_a_stream_that_is_cut_ends_in_an_error_and_not_in_done(network: Network) -> None:
    def cut_after(parts: int) -> Callable[[web.Request, bytes], Any]:
        async def cut(request: web.Request, body: bytes) -> web.StreamResponse | None:
            if request.match_info["what"] != "sealed":
                return None
            left = parts

            def change(part: bytes) -> bytes | None:
                nonlocal left
                left -= 1
                return part if left >= 0 else None

            return await network.operator.forward(request, body, change)

        return cut

    network.fault_everywhere(cut_after(1))
    _, failure = await read_stream(network)
    assert failure is not None
    assert failure.code == "worker_lost"


async def test_a_clean_end_before_the_last_chunk_is_an_error_too(network: Network) -> None:
    async def shorten(request: web.Request, body: bytes) -> web.StreamResponse | None:
        if request.match_info["what"] != "sealed":
            return None
        target = network.operator.enclave(bytes.fromhex(request.match_info["host"]))
        assert target is not None
        got = await network.operator._http.post(f"http://{target.address}{request.path}", data=body)
        whole = await got.read()
        return web.Response(body=whole[: len(whole) - 600], content_type="application/octet-stream")

    network.fault_everywhere(shorten)
    text, failure = await read_stream(network)
    assert text
    assert failure is not None
    assert failure.code == "worker_lost"


async def test_an_old_answer_is_not_taken_for_a_new_request(network: Network) -> None:
    answers: list[bytes] = []

    async def replay(request: web.Request, body: bytes) -> web.StreamResponse | None:
        if request.match_info["what"] != "sealed":
            return None
        if answers:
            return web.Response(body=answers[0], content_type="application/octet-stream")
        target = network.operator.enclave(bytes.fromhex(request.match_info["host"]))
        assert target is not None
        got = await network.operator._http.post(f"http://{target.address}{request.path}", data=body)
        answers.append(await got.read())
        return web.Response(body=answers[0], content_type="application/octet-stream")

    network.fault_everywhere(replay)
    await ask(network)
    assert (await ask_and_fail(network))[:2] == (502, "answer_tampered")


async def test_a_request_replayed_by_the_relay_is_refused_by_the_enclave(network: Network) -> None:
    await ask(network)
    host, body = network.operator.sealed[0]
    target = network.operator.enclave(host)
    assert target is not None
    served = target.service.counters.served
    answer = await network.operator._http.post(f"http://{target.address}/sealed", data=body)
    assert (answer.status, (await answer.json())["error"]["code"]) == (409, "replayed_request")
    assert target.service.counters.served == served


# --- hosts that cheat on the receipt ------------------------------------------------------------------------------


def forge(network: Network, change: Callable[[Any], Any], key: Ed25519PrivateKey | None = None) -> None:
    """Make every enclave sign something else than what happened."""
    for enclave in network.enclaves:
        desk = enclave.service._host.receipts

        def sign(bodies: Sequence[bytes], honest: Any = desk._sign, own: Any = enclave.service.keys.receipt) -> Any:
            changed = [change(parse_receipt(receipt)) for receipt in honest(bodies)]
            return sign_receipts([encode_receipt(receipt) for receipt in changed], key or own)

        desk._sign = sign


FORGERIES = [
    pytest.param(lambda r: r, FOREIGN, "not signed by", id="signed-by-another-key"),
    pytest.param(lambda r: replace(r, price=Nanotons(r.price + 1)), None, "tariff and usage", id="price-invented"),
    pytest.param(lambda r: replace(r, request_hash=b"x" * 32), None, "request_hash", id="of-another-request"),
    pytest.param(lambda r: replace(r, response_hash=b"x" * 32), None, "response_hash", id="of-another-answer"),
    pytest.param(lambda r: replace(r, account=b"x" * 32), None, "account", id="of-another-account"),
    pytest.param(lambda r: replace(r, lease=b"x" * 16), None, "lease", id="of-another-lease"),
    pytest.param(lambda r: replace(r, payee=b"x" * 33), None, "payee", id="to-another-payee"),
    pytest.param(
        lambda r: replace(
            r,
            usage=Usage(prompt_tokens=10**6, completion_tokens=10**6),
            price=Nanotons(sum((TARIFF.prompt_price, TARIFF.completion_price))),
        ),
        None,
        "the cap was",
        id="above-the-cap",
    ),
]


@pytest.mark.parametrize(("change", "key", "words"), FORGERIES)
async def test_a_forged_receipt_is_an_error_and_the_host_is_avoided(
    network: Network, change: Callable[[Any], Any], key: Ed25519PrivateKey | None, words: str
) -> None:
    forge(network, change, key)
    status, code, message = await ask_and_fail(network)
    assert (status, code) == (502, "receipt_invalid")
    assert words in message
    assert network.sidecar._receipts.latest() == ()
    await ask_and_fail(network)
    assert network.operator.sealed[0][0] != network.operator.sealed[1][0]


async def test_a_forged_receipt_ends_a_stream_in_an_error(network: Network) -> None:
    forge(network, lambda r: replace(r, price=Nanotons(r.price + 1)))
    text, failure = await read_stream(network)
    assert text.strip() == "one two three four five"
    assert failure is not None
    assert failure.code == "receipt_invalid"


async def test_when_every_host_has_cheated_nobody_is_asked_again(network: Network) -> None:
    forge(network, lambda r: replace(r, payee=b"x" * 33))
    for _ in range(3):
        await ask_and_fail(network)
    sent = len(network.operator.sealed)
    status, code, message = await ask_and_fail(network)
    assert (status, code) == (503, "no_host")
    assert "avoided" in message
    assert len(network.operator.sealed) == sent


# --- money --------------------------------------------------------------------------------------------------------


async def test_a_request_that_could_cost_more_than_the_cap_is_not_begun(start_network: StartNetwork) -> None:
    async with start_network(price_cap=Nanotons(10)) as network:
        assert (await ask_and_fail(network))[:2] == (402, "price_cap_exceeded")
        assert network.enclaves[0].service.counters.served == 0


async def test_a_client_without_funds_is_told_what_to_do(network: Network) -> None:
    error = {"message": "client has 0 nanoton: deposit at least 5 more", "type": "x", "code": "insufficient_funds"}
    network.operator.refuse = (402, {"error": error})
    status, code, message = await ask_and_fail(network)
    assert (status, code) == (402, "insufficient_funds")
    assert "deposit" in message


async def test_a_lease_that_is_used_up_is_renewed(start_network: StartNetwork) -> None:
    async with start_network(budget=Nanotons(120_000)) as network:
        for _ in range(24):
            assert (await ask(network)).choices[0].message.content == "one two three four five"
        assert len(network.operator.leases) > 1
        assert sum(enclave.service.counters.served for enclave in network.enclaves) == 24


async def test_the_price_paid_is_the_one_of_tariff_and_coefficient(start_network: StartNetwork) -> None:
    async with start_network() as network:
        network.operator.coefficient = 1500
        answer = await ask(network)
        usage = answer.usage
        exact = (usage.prompt_tokens * TARIFF.prompt_price + usage.completion_tokens * TARIFF.completion_price) * 1500
        assert network.sidecar._receipts.latest()[0].receipt.price == -(-exact // 10**9)
        assert network.operator.leases[0].model_root == MODEL
        assert json.dumps(usage.model_extra)
