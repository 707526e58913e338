"""Batches against real enclaves: one paid result a line, whatever is killed in between, and never over the budget."""

import asyncio
import json
import pickle
import signal
import sys
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from billing.money import Nanotons
from chrysalis.cli import app
from client.batch import ATTEMPTS_MAX, Batch, BatchOptions, Next, estimate_batch, judge, run_batch
from client.batch_cost import Purse, estimate
from client.batch_file import LINE_MAX, parse_line
from client.batch_journal import BatchJournal
from client.errors import (
    BatchError,
    BatchInputError,
    BatchOutputError,
    BatchStoppedError,
    ClientError,
    GatewayError,
    HostRefusedError,
    LeaseMismatchError,
    LeaseRefusedError,
    NoHostError,
    NotAnsweredAgainError,
    SealedRefusalError,
    WorkerLostError,
)
from client.registry import ModelOffer
from client.running import open_parts
from enclave.engine.echo import EchoEngine
from enclave.service import Limits
from tests.client.conftest import StartNetwork
from tests.client.support import CAP, MODEL, TARIFF, Network, always, eventually, refusal


def request(name: str, text: str = "one two three", **changes: Any) -> dict[str, Any]:
    body = {"model": "echo", "max_tokens": 50, "messages": [{"role": "user", "content": f"{text} {name}"}]}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body | changes}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Run:
    """Runs batches on a network; waits for nothing."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.source, self.out = network, folder / "in.jsonl", folder / "out.jsonl"
        self.events: list[Any] = []
        self.waits: list[float] = []

    @asynccontextmanager
    async def parts(self):
        network = self.network
        async with open_parts(network.config, network.wallet, network.registry, clock=network.clock) as parts:
            yield parts

    async def __call__(self, **options: Any):
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            await asyncio.sleep(0)

        return await run_batch(
            self.parts(),
            self.source,
            self.out,
            BatchOptions(**options),
            report=self.events.append,
            random=lambda: 0.5,
            sleep=sleep,
        )

    @property
    def served(self) -> int:
        return sum(enclave.service.counters.served for enclave in self.network.enclaves)


@pytest.fixture
def run(network: Network, tmp_path: Path) -> Run:
    return Run(network, tmp_path)


async def test_every_line_gets_one_paid_answer_in_the_order_of_the_input(run: Run) -> None:
    names = [f"name-{number}" for number in range(40)]
    write(run.source, [request(name) for name in names])
    totals = await run(concurrency=8)
    rows = read(run.out)
    assert [row["custom_id"] for row in rows] == names
    for row in rows:
        assert row["response"]["body"]["choices"][0]["message"]["content"] == f"one two three {row['custom_id']}"
        assert (row["response"]["status_code"], row["error"]) == (200, None)
    assert (totals.lines, totals.answered, totals.left, totals.lost) == (40, 40, 0, 0)
    assert totals.price == sum(row["chrysalis"]["price_nanotons"] for row in rows)
    assert len({row["chrysalis"]["receipt"] for row in rows}) == run.served == 40
    assert len({row["chrysalis"]["host"] for row in rows}) == 3
    assert run.out.stat().st_mode & 0o777 == 0o600
    start, *_, end = run.events
    assert end["price"] <= start["estimate"]["at_tariff"] <= start["estimate"]["most"]


async def test_a_finished_batch_asks_nothing_again(run: Run) -> None:
    write(run.source, [request(f"{number}") for number in range(5)])
    await run()
    before = run.out.read_bytes()
    run.out.unlink()
    await run()
    assert (run.out.read_bytes(), run.served) == (before, 5)


BAD = '{"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": {}'


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param([request("a"), BAD], "line 2: it is not one JSON object", id="broken-json"),
        pytest.param([request("a"), request("a") | {"custom_id": 3}], "line 2: custom_id must be text", id="number"),
        pytest.param([request("a"), request("b"), request("a")], "line 3: its custom_id is that of line 1", id="twice"),
        pytest.param([request("a") | {"url": "/v1/embeddings"}], "line 1: url must be one of", id="url"),
        pytest.param([request("a") | {"url": ["x"]}], "line 1: url must be one of", id="url-list"),
        pytest.param([request("a") | {"method": "GET"}], 'line 1: method must be "POST"', id="method"),
        pytest.param([request("a") | {"more": 1}], "look at: more", id="unknown-field"),
        pytest.param([{"custom_id": "a"}], "look at: body, method, url", id="missing"),
        pytest.param([request("a", "\ud800")], "half of a surrogate pair", id="surrogate"),
        pytest.param(["", "x" * (LINE_MAX + 1)], f"line 2: it has more than {LINE_MAX} bytes", id="long-line"),
        pytest.param(["[" * 100_000], "line 1: it is not one JSON object", id="deep"),
        pytest.param([request("a") | {"body": []}], "line 1: body must be a JSON object", id="body"),
        pytest.param([], "the input has no lines", id="empty"),
        pytest.param(["", " "], "the input has no lines", id="blank"),
    ],
)
def test_input_that_is_no_batch_is_refused_by_its_line_before_anything_is_asked(
    tmp_path: Path, rows: list[Any], words: str
) -> None:
    source, out = write(tmp_path / "in", rows), tmp_path / "out"
    with source.open("rb") as file, pytest.raises(BatchError, match=words.replace("(", r"\(")):
        BatchJournal.open(out, file)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_repaired_input_begins_anew(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", [request("a"), request("a")]), tmp_path / "out"
    with source.open("rb") as file, pytest.raises(BatchInputError):
        BatchJournal.open(out, file)
    write(source, [request("a"), request("b")])
    with source.open("rb") as file, closing(BatchJournal.open(out, file)) as journal:
        assert journal.totals().left == 2


async def test_an_output_of_another_input_is_refused(run: Run) -> None:
    write(run.source, [request("a")])
    await run()
    before = run.out.read_bytes()
    write(run.source, [request("b")])
    with pytest.raises(BatchOutputError, match="belongs to an input of"):
        await run()
    run.out.with_name("out.jsonl.journal").unlink()
    with pytest.raises(BatchOutputError, match="not the output of a batch"):
        await run()
    assert (run.out.read_bytes(), run.served) == (before, 1)


def test_a_second_process_at_the_same_batch_is_refused(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", [request("a")]), tmp_path / "out"
    with (
        source.open("rb") as file,
        closing(BatchJournal.open(out, file)),
        pytest.raises(BatchOutputError, match="another process"),
    ):
        BatchJournal.open(out, file)


async def test_lines_that_cannot_be_answered_keep_their_codes_and_stop_nobody(run: Run) -> None:
    rows = [
        request("ok"),
        request("unknown", model="nothing"),
        request("stream", stream=True),
        request("tools", tools=[{}]),
        request("nameless", model=None),
        request("last"),
    ]
    write(run.source, rows)
    totals = await run(concurrency=2)
    codes = {row["custom_id"]: row["response"]["body"].get("error", {}).get("code") for row in read(run.out)}
    assert codes == {
        "ok": None,
        "unknown": "model_not_found",
        "stream": "invalid_value",
        "tools": "unsupported_value",
        "nameless": "invalid_value",
        "last": None,
    }
    assert (totals.answered, totals.failed, totals.lost, run.waits) == (2, 4, 0, [])
    assert (await run(retry_failed=True)).failed == 4
    assert run.served == 2


async def test_busy_hosts_are_asked_again_later_and_others_not(run: Run) -> None:
    busy = 7

    async def fault(request: Any, _: bytes) -> Any:
        nonlocal busy
        if request.match_info["what"] == "sealed" and busy:
            busy -= 1
            return refusal(429, "busy")
        return None

    run.network.fault_everywhere(fault)
    write(run.source, [request("a")])
    assert (await run()).answered == 1
    assert (run.waits, run.served) == ([0.5, 0.75], 1)  # 500 ms is the least that a busy host asks for


async def test_the_batch_stops_where_the_next_line_would_hear_the_same(run: Run) -> None:
    run.network.operator.refuse = (402, {"error": {"code": "insufficient_funds", "message": "deposit first"}})
    write(run.source, [request(f"{number}") for number in range(5)])
    with pytest.raises(BatchStoppedError, match="5 lines are left: the gateway gives no lease: deposit first"):
        await run()
    run.network.operator.refuse = None
    run.network.fault_everywhere(always(503, "host_unreachable"))
    with pytest.raises(BatchStoppedError, match="no host can take a request"):
        await run()
    run.network.operator.faults.clear()
    assert (await run()).answered == 5


async def test_the_budget_is_never_passed_and_the_batch_goes_on_with_more(run: Run) -> None:
    write(run.source, [request(f"{number:03}") for number in range(60)])
    await run(concurrency=4)
    each = read(run.out)[0]["chrysalis"]["price_nanotons"]
    for path in (run.out, run.out.with_name("out.jsonl.journal")):
        path.unlink()
    most = run.events[0]["estimate"]["most"] // 60
    budget = Nanotons(10 * each + most)
    with pytest.raises(BatchStoppedError, match="more than the budget has"):
        await run(concurrency=4, budget=budget)
    answered = run.events[-1]["answered"]
    assert answered == 11
    assert run.events[-1]["price"] == answered * each <= budget
    assert len(read(run.out)) == answered
    assert (await run(budget=Nanotons(60 * each + most))).answered == 60
    assert run.served == 120


async def test_an_answer_that_was_lost_is_asked_for_with_the_same_bytes(run: Run) -> None:
    """The first host has answered, and the answer never came: another gives it, and the ledger takes one receipt."""
    lost = run.network.enclaves[0].host_id

    async def cut(request: Any, body: bytes) -> Any:
        if request.match_info["what"] != "sealed":
            return None
        return await run.network.operator.forward(request, body, lambda part: part[:-10])

    run.network.operator.faults[lost] = cut
    write(run.source, [request(f"{number}") for number in range(6)])
    totals = await run(concurrency=1)
    assert (totals.answered, totals.lost) == (6, 0)
    sent = Counter(body for _, body in run.network.operator.sealed)
    assert len(sent) == 6
    assert max(sent.values()) > 1


async def test_bytes_that_nobody_answers_again_count_against_the_budget(run: Run) -> None:
    cuts = 1

    async def cut(request: Any, body: bytes) -> Any:
        nonlocal cuts
        if request.match_info["what"] != "sealed" or not cuts:
            return None
        cuts -= 1
        return await run.network.operator.forward(request, body, lambda part: part[:-10])

    del run.network.operator.enclaves[1:]
    run.network.fault_everywhere(cut)
    write(run.source, [request("a")])
    totals = await run()
    assert (totals.answered, run.served) == (1, 2)
    assert totals.lost >= totals.price > 0
    with pytest.raises(BatchStoppedError):
        write(run.source, [request("a"), request("b")])
        run.out = run.out.with_name("other.jsonl")
        cuts = 1
        await run(concurrency=1, budget=Nanotons(totals.lost + totals.price))
    assert run.events[-1]["price"] + run.events[-1]["lost"] <= totals.lost + totals.price


async def test_a_journal_that_cannot_be_written_stops_before_anything_is_sent(run: Run) -> None:
    write(run.source, [request("a"), request("b")])
    with run.source.open("rb") as file, closing(BatchJournal.open(run.out, file)) as journal:
        journal._database.execute("PRAGMA query_only = ON")
        async with run.parts() as parts:
            batch = Batch(parts, journal, file, BatchOptions(), report=run.events.append, random=lambda: 0.5)
            with pytest.raises(BatchOutputError, match="cannot write the journal"):
                await batch.run()
    assert run.network.operator.sealed == []


async def test_a_process_killed_at_any_moment_goes_on_without_a_second_payment(
    start_network: StartNetwork, tmp_path: Path
) -> None:
    """SIGKILL in the middle, again and again: each line has one result, and no request hash was charged twice."""
    limits = {"limits": Limits(running=32, waiting=32)}
    async with start_network(engine=lambda: EchoEngine(delay_s=0.004), enclave_changes=limits) as network:
        run = Run(network, tmp_path)
        write(run.source, [request(f"{number:03}", "a b c d e f g h") for number in range(60)])
        await kill_in_the_middle(run, times=4)
        totals = await run(concurrency=4)
    rows = read(run.out)
    assert [row["custom_id"] for row in rows] == [f"{number:03}" for number in range(60)]
    assert (totals.answered, totals.left) == (60, 0)
    assert len({row["chrysalis"]["receipt"] for row in rows}) == 60
    sent = Counter(body for _, body in network.operator.sealed)
    assert max(sent.values()) > 1  # some were resent as they were
    each = max(event["estimate"]["most"] // event["left"] for event in run.events if event["event"] == "start")
    assert len(sent) <= 60 + totals.lost // each  # sealed anew only where what was sent counts as lost


async def kill_in_the_middle(run: Run, times: int) -> None:
    network = run.network
    given = pickle.dumps((network.registry.state, network.config, str(run.source), str(run.out)))
    for _ in range(times):
        before = len(network.operator.sealed)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.client.batch_process", stdin=asyncio.subprocess.PIPE
        )
        assert child.stdin is not None
        child.stdin.write(given)
        child.stdin.close()
        await eventually(lambda before=before: len(network.operator.sealed) > before + 6, within_s=60)
        child.send_signal(signal.SIGKILL)
        await child.wait()


async def test_an_estimate_asks_nobody_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    write(run.source, [request("a"), request("b", model="nothing")])
    before = sorted(path.name for path in tmp_path.iterdir() if path.name != "state")
    bounds = await estimate_batch(run.parts(), run.source)
    assert (bounds.lines, bounds.unknown, bounds.completion_tokens) == (2, 1, 50)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == before
    assert run.network.operator.orders == []


def test_an_estimate_bounds_tokens_by_bytes_and_context_and_price_by_the_cap() -> None:
    offer = ModelOffer(name="echo", root=MODEL, tariff=TARIFF, context=1000)
    rows = [request("a", max_tokens=None), request("b", max_tokens=7), request("c", "x" * 5000, max_tokens=9000)]
    lines = [parse_line(number, json.dumps(row).encode()) for number, row in enumerate(rows, start=1)]
    bounds = estimate(iter(lines), {"echo": offer}, coefficient=2000, cap=CAP)
    small = len(lines[0].body) + 80
    assert bounds.prompt_tokens == small + len(lines[1].body) + 80 + 1000
    assert bounds.completion_tokens == 1000 + 7 + 1000
    assert bounds.most == 2 * bounds.at_tariff
    assert estimate(iter(lines), {"echo": offer}, coefficient=2000, cap=1).most == 3


async def test_a_budget_gives_back_what_was_not_spent_and_nothing_twice() -> None:
    purse = Purse(10, spent=2, reserved=0)
    assert await purse.reserve(5)
    waiting = asyncio.create_task(purse.reserve(4))
    await asyncio.sleep(0)
    assert not waiting.done()
    purse.settle(5, 4)
    assert await waiting
    purse.settle(4, 4)
    assert not await purse.reserve(1)
    assert await purse.reserve(0)
    blocked = asyncio.create_task(Purse(1, spent=0, reserved=1).reserve(1))
    await asyncio.sleep(0)
    assert not blocked.done()
    blocked.cancel()


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (HostRefusedError("h", 429, "busy"), Next.AGAIN, Next.FAIL),
        (HostRefusedError("h", 413, "too_large"), Next.FAIL, Next.FAIL),
        (SealedRefusalError(402, "slice_exhausted", "x", "y"), Next.AGAIN, Next.FAIL),
        (SealedRefusalError(400, "context_length_exceeded", "x", "y"), Next.FAIL, Next.FAIL),
        (WorkerLostError("h", "gone"), Next.AGAIN, Next.FAIL),
        (NotAnsweredAgainError({}, True), Next.AGAIN, Next.ANEW),
        (NotAnsweredAgainError({}, False), Next.ANEW, Next.ANEW),
        (GatewayError("down"), Next.AGAIN, Next.STOP),
        (LeaseMismatchError("lies"), Next.STOP, Next.STOP),
        (LeaseRefusedError(402, "insufficient_funds", "no"), Next.STOP, Next.STOP),
        (LeaseRefusedError(503, "no_eligible_host", "no"), Next.AGAIN, Next.STOP),
        (LeaseRefusedError(404, "model_not_found", "no"), Next.FAIL, Next.FAIL),
        (NoHostError("m", {}), Next.AGAIN, Next.STOP),
    ],
)
def test_what_follows_an_error(error: ClientError, first: Next, last: Next) -> None:
    assert (judge(error, 1), judge(error, ATTEMPTS_MAX)) == (first, last)


def test_a_large_input_is_read_as_a_stream(tmp_path: Path) -> None:
    source = tmp_path / "in"
    with source.open("w") as out:
        for number in range(60):
            out.write(json.dumps(request(f"{number}", "x" * 1_000_000)) + "\n")
    tracemalloc.start()
    with source.open("rb") as file, closing(BatchJournal.open(tmp_path / "out", file)) as journal:
        assert sum(1 for _ in journal.lines_left(file)) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_the_command_refuses_settings_and_amounts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "client.yaml").write_text("wallet: 3\n")
    command = ["submit", "batch", "in", "--out", "out", "--config", str(tmp_path / "client.yaml")]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "a path is expected" in done.stderr or "registry" in done.stderr) == (2, True)
    assert CliRunner().invoke(app, [*command, "--budget", "1e3"]).exit_code == 2
