"""The control socket and the evidence endpoint of a running enclave."""

import asyncio
import json
import os
import stat
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.collect import Attestation, NoTee
from attestation.errors import AttesterError, RestartNeededError
from attestation.eventlog import LogEvent
from attestation.evidence import parse_evidence
from attestation.merkle import root_of
from attestation.simulate import SimulatedVendors
from attestation.transcript import Transcript
from attestation.verdict import TeeKind
from enclave.control import bind_control
from enclave.enclave import Enclave
from enclave.engine import Engine
from enclave.engine.echo import EchoEngine
from enclave.errors import NotFoundError, StartError, UnavailableError
from enclave.models import ModelShelf, ModelState
from tests.enclave.support import (
    MODEL,
    NOW,
    OTHER_MODEL,
    PAYEE,
    Client,
    Starter,
    control,
    eventually,
    evidence_ids,
    get,
    post,
    receipts,
    start_enclave,
)


@dataclass
class SlowHardware:
    """Counts quotes; each takes a while, as the real ones do."""

    latency_s: float = 0.03
    quotes: list[Transcript] = field(default_factory=list)
    logged: list[LogEvent] = field(default_factory=list)
    log_failure: Exception | None = None
    broken: bool = False
    failure: Exception = field(default_factory=lambda: AttesterError("no answer from the device"))

    def extend(self, event: LogEvent) -> None:
        assert not self.quotes, "logged after the first evidence"
        if self.log_failure is not None:
            raise self.log_failure
        self.logged.append(event)

    def attest(self, base: Transcript) -> Attestation:
        if self.broken:
            raise self.failure
        time.sleep(self.latency_s)
        self.quotes.append(base)
        return NoTee().attest(base)


async def test_health_is_for_everybody_and_says_nothing_private(enclave: Enclave) -> None:
    answer = await get(enclave.address, "/h/0102/health?x=1")
    assert json.loads(answer.body) == {
        "host_id": enclave.host_id.hex(),
        "ready": True,
        "loading": False,
        "running": 0,
        "waiting": 0,
        "models": [MODEL.hex()],
        "served": 0,
        "failed": 0,
        "abandoned": 0,
        "output_tokens": 0,
    }


async def test_the_control_socket_is_for_its_user_only(enclave: Enclave) -> None:
    mode = enclave._facts.control.stat().st_mode
    assert stat.S_ISSOCK(mode) and mode & 0o777 == 0o600


@pytest.mark.parametrize("path", ["/load", "/status", "/receipts", "/ack", "/prove", "/prepare", "/shutdown"])
async def test_the_open_side_has_no_control(enclave: Enclave, path: str) -> None:
    assert (await post(enclave.address, path, b'{"model_root": "00"}')).error() == (400, "malformed_envelope")
    assert (await get(enclave.address, path)).error() == (404, "unknown_route")


async def test_models_are_loaded_and_unloaded_from_outside(start: Starter) -> None:
    enclave = await start(load=False)
    root = {"model_root": MODEL.hex()}
    assert (await control(enclave, "GET", "/status"))["ready"] is False
    assert await control(enclave, "POST", "/load", root) == root | {"state": "loaded"}
    assert await control(enclave, "POST", "/load", root) == root | {"state": "loaded"}
    assert (await Client(enclave).ask()).text == "one two three"
    assert await control(enclave, "POST", "/unload", root) == root | {"state": "unloaded"}
    assert await control(enclave, "POST", "/prepare") == {"loading": False}, "this one has nothing to prepare"
    assert (await control(enclave, "GET", "/status"))["shelf"] == [
        {"model_root": OTHER_MODEL.hex(), "state": "unloaded"},
        {"model_root": MODEL.hex(), "state": "unloaded"},
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/load", {"model_root": "00"}, "invalid_value"),
        ("POST", "/load", {"model_root": 5}, "invalid_value"),
        ("POST", "/load", {"model_root": "ab" * 32}, "model_not_found"),
        ("POST", "/load", b"[]", "invalid_json"),
        ("POST", "/unload", {"model_root": "00" * 32, "notice_s": -1}, "invalid_value"),
        ("POST", "/unload", {"model_root": "00" * 32, "notice_s": 0.5}, "invalid_value"),
        ("POST", "/unload", {"model_root": "00" * 32, "notice_s": True}, "invalid_value"),
        ("POST", "/ack", {"seq": 7}, "invalid_value"),
        ("POST", "/ack", {"seq": True}, "invalid_value"),
        ("POST", "/ack", b"{", "invalid_json"),
        ("GET", "/receipts?after=x", b"", "invalid_value"),
        ("GET", "/receipts?limit=-1", b"", "invalid_value"),
        ("POST", "/prove", b"short", "invalid_value"),
        ("GET", "/elsewhere", b"", "unknown_route"),
    ],
)
async def test_a_wrong_control_request_is_refused(
    enclave: Enclave, method: str, path: str, body: object, code: str
) -> None:
    assert (await control(enclave, method, path, body))["error"]["code"] == code


async def test_receipts_come_in_pages_until_they_are_acknowledged(client: Client, enclave: Enclave) -> None:
    for _ in range(3):
        await client.ask()
    page = await control(enclave, "GET", "/receipts?after=1&limit=1")
    assert [row["seq"] for row in page["receipts"]] == [2]
    await control(enclave, "POST", "/ack", {"seq": 2})
    assert [row["seq"] for row in await receipts(enclave)] == [3]


async def test_old_receipts_are_delivered_after_a_restart(tmp_path: Path) -> None:
    first = await start_enclave(tmp_path)
    await Client(first).ask()
    stored = await receipts(first)
    await first.stop(0.1)
    second = await start_enclave(tmp_path)
    assert await receipts(second) == stored
    assert second.host_id != first.host_id
    await second.stop(0.1)


async def test_receipts_are_read_again_by_the_same_image_on_the_same_chip_only(tmp_path: Path) -> None:
    vendors = SimulatedVendors.create(NOW)
    host = vendors.make_host(TeeKind.TDX, quote_latency_s=0)
    first = await start_enclave(tmp_path, attester=host, sealing=host)
    await Client(first).ask()
    stored = await receipts(first)
    await first.stop(0.1)
    moved = vendors.make_host(TeeKind.TDX, quote_latency_s=0)
    for other in (replace(host, image=bytes(32)), moved):
        with pytest.raises(StartError, match="another image, configuration or chip"):
            await start_enclave(tmp_path, attester=other, sealing=other)
    again = await start_enclave(tmp_path, attester=host, sealing=host)
    assert await receipts(again) == stored
    await again.stop(0.1)


async def test_a_proof_of_possession_is_signed_by_the_receipt_key(enclave: Enclave) -> None:
    challenge = os.urandom(32)
    signature = await control(enclave, "POST", "/prove", challenge)
    key = Ed25519PublicKey.from_public_bytes(enclave.service.keys.receipt_public)
    key.verify(signature, b"chrysalis/1 prove" + challenge)


async def test_shutting_down_ends_the_enclave(tmp_path: Path) -> None:
    enclave = await start_enclave(tmp_path)
    running = asyncio.create_task(enclave.run())
    assert await control(enclave, "POST", "/shutdown") == {"stopping": True}
    await asyncio.wait_for(running, 3)
    assert not enclave._facts.control.exists()


async def test_a_control_socket_in_use_is_not_taken_over(enclave: Enclave) -> None:
    with pytest.raises(StartError, match="already listens"):
        bind_control(enclave._facts.control)


async def test_a_control_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    bind_control(tmp_path / "control").close()
    bind_control(tmp_path / "control").close()
    with pytest.raises(StartError, match="shorter path"):
        bind_control(tmp_path / ("x" * 120))


async def test_a_port_already_taken_stops_the_start_with_a_sentence(enclave: Enclave, tmp_path: Path) -> None:
    port = int(enclave.address.rpartition(":")[2])
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
        await start_enclave(tmp_path / "second", port=port)


async def test_evidence_names_this_enclave_and_the_nonce(enclave: Enclave) -> None:
    nonce = os.urandom(32)
    answer = await post(enclave.address, "/h/00/evidence", nonce)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/cbor")
    evidence = parse_evidence(answer.body)
    assert evidence_ids(answer.body) == enclave.host_id
    assert root_of(nonce, evidence.inclusion) == evidence.transcript.nonce_root
    assert evidence.transcript.payee == PAYEE
    assert evidence.transcript.models == (OTHER_MODEL, MODEL)
    assert evidence.transcript.digest() == enclave.service.evidence.transcript


async def test_engine_and_models_are_logged_before_the_first_evidence(start: Starter) -> None:
    hardware = SlowHardware()
    await start(attester=hardware, engine_digest=b"e" * 32)
    assert [(event.kind, event.digest) for event in hardware.logged] == [
        ("engine", b"e" * 32),
        ("model", OTHER_MODEL),
        ("model", MODEL),
    ]
    assert hardware.quotes


async def test_an_enclave_whose_log_is_in_doubt_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(RestartNeededError, match="RTMR3"):
        await start_enclave(tmp_path, attester=SlowHardware(log_failure=RestartNeededError("RTMR3 is another")))


async def test_nonces_that_come_together_share_one_quote(start: Starter) -> None:
    hardware = SlowHardware()
    enclave = await start(attester=hardware)
    before = len(hardware.quotes)
    nonces = [os.urandom(32) for _ in range(40)]
    answers = await asyncio.gather(*(post(enclave.address, "/evidence", nonce) for nonce in nonces))
    assert len(hardware.quotes) - before <= 3
    for nonce, answer in zip(nonces, answers, strict=True):
        evidence = parse_evidence(answer.body)
        assert root_of(nonce, evidence.inclusion) == evidence.transcript.nonce_root


async def test_slow_hardware_does_not_hold_up_prompts(start: Starter) -> None:
    enclave = await start(attester=SlowHardware(latency_s=0.4))
    challenge = asyncio.create_task(post(enclave.address, "/evidence", os.urandom(32)))
    await asyncio.sleep(0.05)
    assert (await Client(enclave).ask()).text == "one two three"
    assert not challenge.done()
    await challenge


@pytest.mark.parametrize("size", [0, 31, 33, 4000])
async def test_a_nonce_of_another_size_is_refused(enclave: Enclave, size: int) -> None:
    assert (await post(enclave.address, "/evidence", bytes(size))).error() == (400, "bad_nonce")


@pytest.mark.parametrize("failure", [AttesterError("no answer from the device"), OSError(5, "I/O"), KeyError("x")])
async def test_hardware_that_does_not_answer_is_said_so(start: Starter, failure: Exception) -> None:
    hardware = SlowHardware(failure=failure)
    enclave = await start(attester=hardware)
    hardware.broken = True
    assert (await post(enclave.address, "/evidence", bytes(32))).error() == (503, "attestation_failed")
    hardware.broken = False
    assert (await post(enclave.address, "/evidence", bytes(32))).status == 200


async def test_evidence_too_large_for_any_verifier_is_a_failure_not_silence(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    enclave = await start()
    monkeypatch.setattr("attestation.evidence.EVIDENCE_SIZE_MAX", 100)
    answers = await asyncio.gather(*(post(enclave.address, "/evidence", bytes(32)) for _ in range(3)))
    assert [answer.error() for answer in answers] == [(503, "attestation_failed")] * 3


async def test_an_enclave_whose_hardware_does_not_attest_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="could not attest"):
        await start_enclave(tmp_path, attester=SlowHardware(broken=True))


async def test_an_engine_is_prepared_once_and_counts_as_loading_meanwhile() -> None:
    go, calls = asyncio.Event(), 0

    async def prepare() -> None:
        nonlocal calls
        calls += 1
        await go.wait()
        raise ImportError("no torch")

    async def load(_: Path) -> Engine:
        return EchoEngine()

    shelf = ModelShelf({MODEL: Path("m")}, load, prepare)
    assert not shelf.loading
    shelf.prepare()
    shelf.prepare()
    assert shelf.loading
    go.set()
    await eventually(lambda: not shelf.loading)
    shelf.prepare()
    assert calls == 1
    await shelf.load(MODEL)  # which says what is wrong, if anything is
    assert shelf.serving == (MODEL,)


async def test_a_model_that_does_not_load_is_said_so_and_can_be_tried_again() -> None:
    outcomes: list[Engine | Exception] = [ValueError("no config.json"), EchoEngine()]

    async def load(_: Path) -> Engine:
        await asyncio.sleep(0.01)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    shelf = ModelShelf({MODEL: Path("m")}, load)
    waiting = [asyncio.create_task(shelf.load(MODEL)) for _ in range(2)]
    await eventually(lambda: shelf.state(MODEL) is ModelState.LOADING)
    with pytest.raises(UnavailableError, match="not loaded now"):
        shelf.engine(MODEL)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError, UnavailableError]
    assert shelf.state(MODEL) is ModelState.FAILED
    await shelf.load(MODEL)
    assert shelf.state(MODEL) is ModelState.LOADED
    with pytest.raises(NotFoundError):
        await shelf.load(OTHER_MODEL)
    await shelf.close()
    assert shelf.state(MODEL) is ModelState.UNLOADED


async def test_unloading_lets_running_answers_end_and_sends_new_requests_elsewhere(start: Starter) -> None:
    enclave = await start(engine=lambda: EchoEngine(delay_s=0.05))
    client, shelf = Client(enclave), enclave.service.models
    running = asyncio.create_task(client.ask())
    await eventually(lambda: enclave.service.counters.active == 1)
    unloading = asyncio.create_task(control(enclave, "POST", "/unload", {"model_root": MODEL.hex()}))
    await eventually(lambda: shelf.state(MODEL) is ModelState.UNLOADED)
    assert (await client.send(client.seal().data)).error() == (503, "model_not_loaded")
    assert not unloading.done()
    assert (await running).text == "one two three"
    assert (await unloading)["state"] == "unloaded"


async def test_a_retiring_model_is_not_offered_and_answers_until_its_notice_is_over(start: Starter) -> None:
    enclave = await start()
    shelf, order = enclave.service.models, {"model_root": MODEL.hex(), "notice_s": 600}
    client = Client(enclave)
    assert (await control(enclave, "POST", "/unload", order))["state"] == "retiring"
    assert (await control(enclave, "POST", "/unload", order | {"notice_s": 1}))[
        "state"
    ] == "retiring"  # changes nothing
    assert json.loads((await get(enclave.address, "/health")).body)["models"] == []
    assert (await client.ask()).text == "one two three"
    await shelf.load(MODEL)
    await control(enclave, "POST", "/unload", order | {"notice_s": 1})
    await eventually(lambda: shelf.state(MODEL) is ModelState.UNLOADED, within_s=10)
    assert (await client.send(client.seal().data)).error() == (503, "model_not_loaded")


async def test_a_retiring_model_is_taken_back_and_makes_room_for_another(start: Starter) -> None:
    enclave = await start()
    shelf, order = enclave.service.models, {"model_root": MODEL.hex(), "notice_s": 600}
    engine = shelf.engine(MODEL)
    await control(enclave, "POST", "/unload", order)
    assert (await control(enclave, "POST", "/load", {"model_root": MODEL.hex()}))["state"] == "loaded"
    assert (shelf.serving, shelf.engine(MODEL)) == ((MODEL,), engine)
    await control(enclave, "POST", "/unload", order)
    await shelf.load(OTHER_MODEL)
    assert (shelf.serving, shelf.state(MODEL), engine.alive) == ((OTHER_MODEL,), ModelState.UNLOADED, False)


async def test_an_answer_that_does_not_end_is_cut_when_the_time_for_unloading_is_over() -> None:
    engine = EchoEngine()

    async def load(_: Path) -> Engine:
        return engine

    shelf = ModelShelf({MODEL: Path("m")}, load)
    await shelf.load(MODEL)
    with shelf.answering(engine), shelf.answering(engine):
        await shelf.unload(MODEL, grace_s=0.01)
        assert not engine.alive


async def test_a_model_that_comes_back_while_it_is_unloaded_keeps_its_new_engine() -> None:
    engines = [EchoEngine(), EchoEngine()]
    old, new = engines

    async def load(_: Path) -> Engine:
        return engines.pop(0)

    shelf = ModelShelf({MODEL: Path("m")}, load)
    await shelf.load(MODEL)
    with shelf.answering(old):
        unloading = asyncio.create_task(shelf.unload(MODEL))
        await eventually(lambda: shelf.state(MODEL) is ModelState.UNLOADED)
        await shelf.load(MODEL)
    with shelf.answering(new):
        await unloading
    assert (old.alive, new.alive, shelf.serving) == (False, True, (MODEL,))
    await shelf.close()
