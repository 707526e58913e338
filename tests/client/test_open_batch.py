"""Batches at open hosts, against real enclaves and real books: who agrees is paid, who lies is not."""

import asyncio
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attestation.simulate import SimulatedHost, SimulatedVendors
from billing.money import Nanotons
from billing.receipt import sign_receipt
from billing.review_book import REVIEW_S
from billing.voucher import Channel
from chrysalis.cli import app
from client.batch import BatchOptions
from client.batch_file import parse_line
from client.errors import BatchOutputError, BatchStoppedError, ConfigError
from client.open_batch import NOTICE, STANDINGS, run_open_batch
from client.receipts import ReceiptStore
from client.redundancy import RESULTS_MAX, TRUSTED_AFTER, Agreement, Judgement, Rule, UnitResult
from client.registry import ModelOffer
from client.running import open_parts
from client.standings import StandingStore
from client.vouchers import VoucherStore
from enclave.engine.echo import EchoEngine
from tests.billing.support import HOST_KEY, make_open_grant, make_open_receipt
from tests.client.open_network import DEPOSIT, LyingEngine, OpenNetwork, payee_of, run_open_network
from tests.client.support import MODEL, TARIFF, eventually
from tests.client.test_batch import read, request, write

EXACT = Rule(agreement=Agreement.EXACT)
Start = Callable[..., AbstractAsyncContextManager[OpenNetwork]]


@pytest.fixture
def start(tmp_path: Path, vendors: SimulatedVendors, simulated: list[SimulatedHost]) -> Start:
    def start(
        engines: Sequence[Callable[[], Any]], owners: Sequence[int] | None = None, **changes: Any
    ) -> AbstractAsyncContextManager[OpenNetwork]:
        return run_open_network(tmp_path, vendors, simulated, engines, owners=owners, **changes)

    return start


def question(name: str, text: str = "one two three", **changes: Any) -> dict[str, Any]:
    return request(name, text, temperature=0, **changes)


class Run:
    def __init__(self, network: OpenNetwork, folder: Path, draws: Callable[[], float] = lambda: 0.5) -> None:
        self.network, self.source, self.out, self.draws = network, folder / "in.jsonl", folder / "out.jsonl", draws
        self.events: list[Any] = []

    async def __call__(self, rule: Rule = EXACT, **options: Any):
        async def sleep(_: float) -> None:
            await asyncio.sleep(0)

        return await run_open_batch(
            self.network.parts(),
            self.source,
            self.out,
            BatchOptions(**options),
            rule=rule,
            report=self.events.append,
            random=self.draws,
            sleep=sleep,
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read(self.out)

    def standing(self, number: int) -> int:
        with closing(StandingStore(self.network.config.state / STANDINGS)) as store:
            return store.get((self.network.enclaves[number].host_id, payee_of(number))).valid_in_row


def check_money(network: OpenNetwork, rows: list[dict[str, Any]]) -> None:
    """Nothing is left in review, the client paid what its lines say, and the books balance."""
    ledger = network.operator.books.ledger
    assert list(ledger.reviews.open()) == []
    assert ledger.imbalance() == 0
    paid = sum(row["chrysalis"]["price_nanotons"] for row in rows if row["chrysalis"])
    held = sum(amount for name, amount in ledger.balances().items() if name.startswith("hold:"))
    assert ledger.available(network.wallet.account) + held == DEPOSIT - paid


async def test_two_owners_that_agree_are_both_paid_and_the_screen_says_who_can_read(
    start: Start, tmp_path: Path
) -> None:
    async with start([EchoEngine, EchoEngine]) as network:
        run = Run(network, tmp_path)
        write(run.source, [question(f"{number}") for number in range(6)])
        totals = await run(concurrency=3)
        assert (totals.answered, totals.lost, totals.left) == (6, 0, 0)
        for number, row in enumerate(run.rows):
            assert row["response"]["body"]["choices"][0]["message"]["content"] == f"one two three {number}"
            assert [copy["credited"] for copy in row["chrysalis"]["copies"]] == [True, True]
        assert len(network.operator.sealed) == 12
        assert network.operator.earned(0) == network.operator.earned(1) > 0
        check_money(network, run.rows)
        assert [event["text"] for event in run.events if event["event"] == "notice"] == [NOTICE]
        assert (run.standing(0), run.standing(1)) == (6, 6)


async def test_a_liar_is_not_paid_and_its_standing_falls(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, LyingEngine, EchoEngine]) as network:
        run = Run(network, tmp_path)
        write(run.source, [question(f"{number}") for number in range(12)])
        totals = await run(concurrency=2)
        assert totals.answered == 12
        texts = [row["response"]["body"]["choices"][0]["message"]["content"] for row in run.rows]
        assert texts == [f"one two three {number}" for number in range(12)]
        check_money(network, run.rows)
        assert network.operator.earned(1) == 0
        assert min(network.operator.earned(0), network.operator.earned(2)) > 0
        assert run.standing(1) == 0
        blamed = [copy for row in run.rows for copy in row["chrysalis"]["copies"] if not copy["credited"]]
        assert {copy["host"] for copy in blamed} == {network.enclaves[1].host_id.hex()}


async def test_what_was_refused_is_on_no_bill_and_counts_for_no_budget(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, LyingEngine, EchoEngine]) as network:
        run = Run(network, tmp_path)
        write(run.source, [question(f"{number}") for number in range(8)])
        totals = await run(concurrency=1)
        refused = [c for row in run.rows for c in row["chrysalis"]["copies"] if not c["credited"]]
        assert refused
        async with network.parts() as parts:
            assert parts.receipts.bill(network.wallet.account).total == totals.price
            assert all(parts.receipts.find(copy["receipt"]) is None for copy in refused)


async def test_a_trusted_host_is_asked_alone_until_a_check_is_drawn_and_one_miss_ends_it(
    start: Start, tmp_path: Path
) -> None:
    lying, draw = False, 0.5
    async with start([lambda: LyingEngine(share=lambda: lying), EchoEngine, EchoEngine]) as network:
        run = Run(network, tmp_path, lambda: draw)
        trust_everybody(network)
        turning = network.enclaves[0].host_id.hex()

        async def ask(name: str) -> list[dict[str, Any]]:
            """The copies of the lines that the host had a part in."""
            run.out = tmp_path / f"{name}.jsonl"
            write(run.source, [question(f"{name}{number}") for number in range(3)])
            await run(concurrency=1)
            lines = [row["chrysalis"]["copies"] for row in run.rows]
            return next(copies for copies in lines if turning in {copy["host"] for copy in copies})

        assert len(await ask("believed")) == 1
        lying = True
        assert [copy["credited"] for copy in await ask("fooled")] == [True]  # it could not know that nobody looks
        assert run.standing(0) == TRUSTED_AFTER
        draw = 0.05
        checked = await ask("checked")
        assert [copy["credited"] for copy in checked if copy["host"] == turning] == [False]
        assert run.standing(0) == 0
        draw = 0.5
        assert network.operator.books.ledger.imbalance() == 0
        assert list(network.operator.books.ledger.reviews.open()) == []


def trust_everybody(network: OpenNetwork) -> None:
    network.config.state.mkdir(parents=True, exist_ok=True)
    hosts = {enclave.host_id: payee_of(number) for number, enclave in enumerate(network.enclaves)}
    best = UnitResult(host=next(iter(hosts)), owner=payee_of(0), value=b"")
    with closing(StandingStore(network.config.state / STANDINGS)) as store:
        for unit in [*range(TRUSTED_AFTER), 0]:  # the same unit twice counts once
            store.judge(bytes([unit]) * 16, Judgement(result=best, credited=tuple(hosts)), hosts)


async def test_a_check_that_was_drawn_is_not_drawn_anew_by_waiting(start: Start, tmp_path: Path) -> None:
    """A host that must be checked, and no second owner: the line waits, and is not believed at the next draw."""
    draws = iter([0.05] + [0.5] * 100)
    async with start([EchoEngine]) as network:
        trust_everybody(network)
        run = Run(network, tmp_path, lambda: next(draws))
        write(run.source, [question("a")])
        for _ in range(2):
            with pytest.raises(BatchStoppedError, match="of 1 owners can be asked about echo now, 2 are needed"):
                await run()
        assert network.operator.earned(0) == 0


async def test_two_hosts_of_one_owner_are_not_asked_about_one_line(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, EchoEngine], owners=[0, 0]) as network:
        run = Run(network, tmp_path)
        write(run.source, [question("a")])
        with pytest.raises(BatchStoppedError, match="of 1 owners"):
            await run()
        assert network.operator.sealed == []


async def test_a_line_on_which_no_two_of_six_owners_agree_fails_and_nobody_is_paid(
    start: Start, tmp_path: Path
) -> None:
    engines = [lambda number=number: LyingEngine(f"lie{number}") for number in range(RESULTS_MAX)]
    async with start(engines) as network:
        run = Run(network, tmp_path)
        write(run.source, [question("a")])
        totals = await run()
        assert (totals.failed, totals.price, totals.lost) == (1, 0, 0)
        (row,) = run.rows
        assert (row["response"]["status_code"], row["response"]["body"]["error"]["code"]) == (502, "no_quorum")
        assert len(network.operator.sealed) == RESULTS_MAX
        assert len({host for host, _ in network.operator.sealed}) == RESULTS_MAX
        assert len({body for _, body in network.operator.sealed}) == RESULTS_MAX  # each sealed to one host alone
        assert [network.operator.earned(number) for number in range(RESULTS_MAX)] == [0] * RESULTS_MAX
        check_money(network, [])


async def test_a_line_that_three_owners_cannot_decide_fails_and_its_receipts_are_paid_later(
    start: Start, tmp_path: Path
) -> None:
    engines = [lambda number=number: LyingEngine(f"lie{number}") for number in range(3)]
    async with start(engines) as network:
        run = Run(network, tmp_path)
        write(run.source, [question("a")])
        totals = await run()
        await network.operator.post_all()
        reviewed = sum(review.price for review in network.operator.books.ledger.reviews.open())
        assert (totals.failed, totals.lost) == (1, reviewed)
        assert reviewed > 0
        assert network.operator.verdicts == []


async def test_sampled_lines_cannot_be_compared_and_are_refused(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, EchoEngine]) as network:
        run = Run(network, tmp_path)
        write(run.source, [request("default"), request("warm", temperature=0.7), question("greedy", seed=3)])
        totals = await run()
        assert (totals.answered, totals.failed) == (1, 2)
        errors = [row["response"]["body"].get("error") for row in run.rows]
        assert [error and error["param"] for error in errors] == ["temperature", "temperature", None]


async def test_numbers_agree_within_a_tolerance_and_text_does_not(start: Start, tmp_path: Path) -> None:
    engines = [lambda: LyingEngine("1.000"), lambda: LyingEngine("1.004"), lambda: LyingEngine("7")]
    async with start(engines) as network:
        run = Run(network, tmp_path)
        write(run.source, [question(f"{number}") for number in range(4)])
        totals = await run(Rule(agreement=Agreement.NUMERIC, relative=0.01))
        assert totals.answered == 4
        assert network.operator.earned(2) == 0
        assert min(network.operator.earned(0), network.operator.earned(1)) > 0
        check_money(network, run.rows)
        with pytest.raises(BatchOutputError, match="was begun at open hosts, numeric"):
            await run(EXACT)


async def test_a_refusal_of_one_host_does_not_decide_a_line(start: Start, tmp_path: Path) -> None:
    def small() -> EchoEngine:
        return EchoEngine(context=80)

    async with start([small, small, EchoEngine, EchoEngine]) as network:
        del network.operator.enclaves[1:2]  # one that refuses a long prompt, and two that take it
        run = Run(network, tmp_path)
        write(run.source, [question(f"{number}", "word " * 40) for number in range(3)])
        assert (await run(concurrency=1)).answered == 3
        assert network.operator.earned(0) == 0
        check_money(network, run.rows)


async def test_verdicts_that_did_not_arrive_are_sent_again_and_change_nothing_twice(
    start: Start, tmp_path: Path
) -> None:
    async with start([EchoEngine, LyingEngine, EchoEngine]) as network:
        run = Run(network, tmp_path)
        network.operator.lose_verdicts = 1000
        write(run.source, [question(f"{number}") for number in range(3)])
        await run(concurrency=1)
        assert run.events[-1]["verdicts_waiting"] == 3  # booked, and the client does not know
        network.operator.lose_verdicts = 0
        await run()
        assert run.events[-1]["verdicts_waiting"] == 0
        check_money(network, run.rows)
        assert network.operator.earned(1) == 0


async def test_owners_whose_client_is_silent_are_paid_a_day_later(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, EchoEngine]) as network:
        network.operator.refuse_verdicts = True
        run = Run(network, tmp_path)
        write(run.source, [question("a")])
        assert (await run()).answered == 1
        await network.operator.post_all()
        books = network.operator.books
        assert books.ledger.reviews.due(network.operator.now + REVIEW_S - 60) == []
        assert len(books.end_reviews(now=network.operator.now + REVIEW_S, most=10)) == 2
        assert min(network.operator.earned(0), network.operator.earned(1)) > 0
        check_money(network, run.rows)


async def test_the_budget_counts_copies_and_gives_back_what_was_refused(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, LyingEngine, EchoEngine]) as network:
        run = Run(network, tmp_path)
        write(run.source, [question(f"{number:03}") for number in range(30)])
        line = parse_line(1, run.source.read_bytes().splitlines()[0])
        offer = ModelOffer(name="echo", root=MODEL, tariff=TARIFF, context=32768)
        most = line.price_max(offer, network.config.coefficient_max)
        with pytest.raises(BatchStoppedError, match="more than the budget has"):
            await run(concurrency=2, budget=Nanotons(5 * most // 2))
        end = run.events[-1]
        assert 0 < end["price"] + end["lost"] <= 5 * most // 2
        check_money(network, run.rows)
        estimate = run.events[1]["estimate"]
        assert (estimate["copies"], estimate["copies_max"]) == (2, RESULTS_MAX)


async def test_a_policy_file_cannot_send_anything_to_open_hosts_by_itself(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, EchoEngine]) as network:
        policy = network.config.policy.read_text().replace("confidential-cpu", "open")
        network.config.policy.write_text(policy + "unsafe_accept_open_hosts: true\n")
        with pytest.raises(ConfigError, match="--tier open"):
            async with open_parts(network.config, network.wallet, network.registry, clock=network.clock):
                pass


async def test_an_operator_that_would_pay_open_hosts_without_a_review_is_refused(start: Start, tmp_path: Path) -> None:
    async with start([EchoEngine, EchoEngine]) as network:
        network.operator.grant_changes["review"] = False
        run = Run(network, tmp_path)
        write(run.source, [question("a")])
        with pytest.raises(BatchStoppedError, match="the grant is for attested hosts, asked for open"):
            await run()
        assert network.operator.sealed == []


async def test_a_process_killed_at_any_moment_goes_on_and_pays_no_copy_twice(start: Start, tmp_path: Path) -> None:
    def slow() -> EchoEngine:
        return EchoEngine(delay_s=0.004)

    async with start([slow, slow, LyingEngine]) as network:
        run = Run(network, tmp_path)
        write(run.source, [question(f"{number:03}", "a b c d e f g h") for number in range(40)])
        given = pickle.dumps((network.registry.state, network.config, str(run.source), str(run.out)))
        for _ in range(4):
            before = len(network.operator.sealed)
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.client.open_batch_process", stdin=asyncio.subprocess.PIPE
            )
            assert child.stdin is not None
            child.stdin.write(given)
            child.stdin.close()
            await eventually(lambda before=before: len(network.operator.sealed) > before + 9, within_s=60)
            child.send_signal(signal.SIGKILL)
            await child.wait()
        totals = await run(concurrency=4)
        await network.operator.post_all()
        assert (totals.answered, totals.left) == (40, 0)
        texts = [row["response"]["body"]["choices"][0]["message"]["content"] for row in run.rows]
        assert texts == [f"a b c d e f g h {number:03}" for number in range(40)]
        assert max(Counter(body for _, body in network.operator.sealed).values()) > 1  # sent again as they were
        ledger = network.operator.books.ledger
        assert (network.operator.earned(2), ledger.imbalance()) == (0, 0)
        held = sum(amount for name, amount in ledger.balances().items() if name.startswith("hold:"))
        paid = DEPOSIT - ledger.available(network.wallet.account) - held
        assert totals.price <= paid <= totals.price + totals.lost
        assert sum(review.price for review in ledger.reviews.open()) <= totals.lost


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tier", "confidential"], "only open can be named"),
        (["--agreement", "numeric"], "are of --tier open"),
        (["--tolerance", "0.1"], "are of --tier open"),
        (["--tier", "open", "--agreement", "fuzzy"], "'fuzzy' is not a valid Agreement"),
        (["--tier", "open", "--tolerance", "0.1"], "an exact rule has no tolerance"),
        (["--tier", "open", "--agreement", "numeric", "--tolerance", "1"], "below 1"),
    ],
)
def test_the_command_refuses_rules_that_mean_nothing(tmp_path: Path, options: list[str], words: str) -> None:
    command = ["submit", "batch", "in", "--out", "out", "--config", str(tmp_path / "none.yaml"), *options]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_refused_receipt_is_on_no_bill_of_a_voucher_client(tmp_path: Path) -> None:
    """Refused while its lease runs, or after the lease went to the bill with all its receipts."""
    channel, now = Channel(network_id=-777, account=b"c" * 32), datetime.now(UTC)
    ends_at = int(now.timestamp())
    grant = make_open_grant(1)
    running, ended = make_open_receipt(grant, 1, 0), make_open_receipt(grant, 2, 1)
    receipts, vouchers = ReceiptStore(tmp_path / "receipts"), VoucherStore(tmp_path / "vouchers")
    with closing(receipts), closing(vouchers):
        vouchers.ask(b"r" * 16, channel, Nanotons(100_000), ends_at=ends_at)
        vouchers.grant(b"r" * 16, grant.lease, Nanotons(100_000), ends_at=ends_at)
        for receipt in (running, ended):
            signed = sign_receipt(receipt, HOST_KEY)
            receipts.keep(signed, request_id="x", model="m", receipt_key=bytes(32), now=now)

        def refuse(request_hash: bytes) -> None:
            receipt = receipts.forget_refused(request_hash)
            if receipt is not None:
                vouchers.give_back(channel, receipt.lease, receipt.price)

        for _ in range(2):
            refuse(running.request_hash)
        late = ends_at + 10_000
        assert vouchers.account(channel, spent=receipts.spent, now=late).billed == ended.price
        for _ in range(2):
            refuse(ended.request_hash)
        assert vouchers.account(channel, spent=receipts.spent, now=late).billed == 0
        assert receipts.bill(grant.account).total == 0
