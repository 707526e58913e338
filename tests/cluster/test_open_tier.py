"""The open tier on one real network: three owners' hosts, real engines, one lies; the batch is killed and resumed."""

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from client.standings import StandingStore
from tests.cluster.network_process import MODEL
from tests.cluster.test_network import Network

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`"),
]
BASE_PORT = 23800
LINES = 40
WORDS = ("the red house", "a small dog", "two green birds", "my old friend")


@pytest.fixture(scope="module")
def network():
    network = Network(BASE_PORT, "tests.cluster.open_process")
    try:
        network.admissions = network.do("start")
        yield network
    finally:
        assert network.stop() == []


def line(number: int) -> str:
    message = {"role": "user", "content": f"{WORDS[number % len(WORDS)]}"}
    body = {"model": "demo", "temperature": 0, "max_tokens": 16, "messages": [message]}
    return json.dumps({"custom_id": f"{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"


def batch(network, source: Path, out: Path, *more: str) -> list[str]:
    config = network.do("client")["config"]
    command = ["submit", "batch", str(source), "--out", str(out), "--config", config, "--json", "--concurrency", "4"]
    return [sys.executable, "-m", "chrysalis", *command, *more]


def kill_when_begun(argv: list[str], done: int) -> None:
    """SIGKILL once so many lines are done, while copies of others are on their way."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for row in child.stdout:
            done -= json.loads(row)["event"] == "line"
            if done <= 0:
                break
        child.send_signal(signal.SIGKILL)


def test_a_batch_at_open_hosts_is_right_and_pays_who_agrees_though_it_is_killed_and_one_host_lies(
    network, tmp_path
) -> None:
    assert all(admission["accepted"] for admission in network.admissions.values()), network.admissions
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(map(line, range(LINES))))
    argv = batch(network, source, out, "--tier", "open")
    for done in (3, 8):
        kill_when_begun(argv, done)
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    events = [json.loads(row) for row in ended.stdout.splitlines()]
    assert sum(event["event"] == "notice" for event in events) == 1
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [f"{number}" for number in range(LINES)]

    hosts = network.do("hosts")
    answers = {}
    for number, row in enumerate(rows):
        copies = {copy["host"]: copy["credited"] for copy in row["chrysalis"]["copies"]}
        assert copies.pop(hosts["liar"], False) is False
        assert all(copies.values())
        text = row["response"]["body"]["choices"][0]["message"]["content"]
        assert answers.setdefault(number % len(WORDS), text) == text

    books = network.do("earnings")
    lost = events[-1]["lost"]
    assert (books["imbalance"], books["owners"]["liar"]) == (0, 0)
    assert (
        books["in_review"] <= lost
    )  # answers of a killed process: their owners were paid for another copy of the line
    assert min(books["owners"]["anna"], books["owners"]["boris"]) > 0
    earned = sum(books["owners"].values()) + books["balances"]["operator:fees"]
    credited = sum(row["chrysalis"]["price_nanotons"] for row in rows)
    assert credited <= earned <= earned + books["in_review"] <= credited + lost
    config = Path(network.do("client")["config"])
    with closing(StandingStore(config.parent / "state" / "standings.sqlite")) as standings:
        shown = dict(standings._database.execute("SELECT host, valid_in_row FROM standings"))
    assert shown[bytes.fromhex(hosts["liar"])] == 0
    assert shown[bytes.fromhex(hosts["anna"])] > 0


def test_without_the_tier_nothing_is_sent_to_open_hosts(network, tmp_path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line(0))
    before = network.do("earnings")
    ended = subprocess.run(batch(network, source, out), capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "tier" in ended.stderr
    assert network.do("earnings")["owners"] == before["owners"]
    assert out.read_text() == ""
