"""Batches at open hosts: each line is a unit, asked at hosts of different owners until enough of them agree.

The rules are those of `client.redundancy`. A copy is sealed to one host alone and durable before it is sent; what was
sent and has no outcome is sent again as the same bytes. Credit goes to the hosts that agree, by a verdict that the
account signs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any, BinaryIO

from billing.money import Nanotons
from billing.receipt import parse_receipt
from billing.verdict import QUORUM, RESULTS_MAX
from client.agreement import check_comparable, read_value
from client.asking import Client
from client.batch import ATTEMPTS_MAX, Batch, BatchOptions, Next, Report, judge
from client.batch_cost import Purse
from client.batch_file import BatchLine, LineResult, make_answer, make_error, open_input
from client.batch_journal import BatchJournal, BatchTotals
from client.copy_asking import Asking, CopyAsker
from client.copy_journal import Copy, CopyJournal, CopyState
from client.errors import (
    BatchStoppedError,
    ClientError,
    NoQuorumError,
    NotAnsweredAgainError,
)
from client.redundancy import Judgement, Rule, UnitResult
from client.redundancy import judge as judge_results
from client.running import ClientParts
from client.standings import StandingStore
from client.unit_verdicts import deliver, make_verdict

STANDINGS = "standings.sqlite"  # in the client's state folder
COPIES = QUORUM, RESULTS_MAX  # of a line, as a rule until its host is trusted, and at most
NOTICE = "open tier: the owners of these hosts can read the prompts and the answers; send public data only"
DELIVERIES_MAX, DELIVERY_PAUSE_S = 3, 1.0  # of a verdict that waits, at the end of a run


class OpenBatch(Batch):
    """One run over the lines that are left, at open hosts."""

    copies = COPIES

    def __init__(
        self,
        parts: ClientParts,
        journal: BatchJournal,
        file: BinaryIO,
        options: BatchOptions,
        *,
        rule: Rule,
        standings: StandingStore,
        report: Report,
        random: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """As `Batch`; `rule` says when answers agree, `standings` what hosts have shown before."""
        super().__init__(parts, journal, file, options, report=report, random=random, sleep=sleep)
        self._rule, self._standings = rule, standings
        self._copies = CopyJournal(journal)
        totals = journal.totals()
        spent = totals.price + totals.lost + self._copies.spent()
        self._purse = Purse(options.budget, spent=spent, reserved=self._copies.sent_caps())
        self._asker = CopyAsker(
            copies=self._copies,
            purse=self._purse,
            standings=standings,
            receipts=parts.receipts,
            random=random,
            name=journal.name,
            offer=self._offer,
        )

    async def _conclude_run(self) -> Mapping[str, Any]:
        return {"verdicts_waiting": await self._deliver_verdicts()}

    async def _deliver_verdicts(self) -> int:
        """Bring the verdicts that wait to the operator's books; returns how many still wait."""
        waiting = self._copies.waiting()
        for number, verdict in enumerate(waiting):
            for _ in range(DELIVERIES_MAX):
                if await deliver(self._parts, self._copies, verdict):
                    break
                await self._sleep(DELIVERY_PAUSE_S)
            else:
                return len(waiting) - number
        return 0

    def _lines(self) -> Iterator[BatchLine]:
        return self._journal.lines_left(self._file, self._copies.begun())

    async def _settle_line(self, client: Client, line: BatchLine) -> LineResult | None:
        """Ask copies until the line has its result, which is kept then; None when the batch stops instead."""
        attempt, asking = 0, Asking()
        while self._stop is None:
            judgement = self._judge(line)
            try:
                if judgement.result is not None:
                    return await self._conclude(line, judgement, judgement.result)
                if judgement.failed:
                    return await self._fail(line, NoQuorumError(len(self._done(line))), judgement)
                cap = self._check(line)
                if await self._asker.round(client, line, cap, judgement.wanted, asking):
                    continue
                raise NotAnsweredAgainError({}, should_retry=True)
            except BatchStoppedError as error:
                self._stop_all(error)
                return None
            except ClientError as error:
                attempt += 1
                failed, next_ = error, judge(error, attempt)
            asking.away.clear()
            if next_ is Next.FAIL:
                return await self._fail(line, failed, judgement)
            if next_ is Next.STOP:
                self._stop_all(failed)
            elif next_ is Next.AGAIN:
                await self._sleep(self._delay(failed, attempt))
            elif attempt >= ATTEMPTS_MAX:
                return await self._fail(line, failed, judgement)
        return None

    def _check(self, line: BatchLine) -> Nanotons:
        check_comparable(line)
        return super()._check(line)

    def _done(self, line: BatchLine) -> list[Copy]:
        return [copy for copy in self._copies.copies(line.number) if copy.state is CopyState.DONE]

    def _judge(self, line: BatchLine) -> Judgement:
        unit = self._copies.unit(line.number)
        agreement = self._rule.agreement
        results = [
            UnitResult(host=copy.host, owner=copy.payee, value=read_value(line.endpoint, copy.answer, agreement))
            for copy in self._done(line)
        ]
        return judge_results(results, self._rule, check=unit is None or unit.checked)

    # --- results ------------------------------------------------------------------------------------------------

    async def _conclude(self, line: BatchLine, judgement: Judgement, best: UnitResult) -> LineResult:
        copies = self._copies.copies(line.number)
        done = {copy.host: copy for copy in copies if copy.state is CopyState.DONE}
        credited = [done[host] for host in judgement.credited]
        chosen = done[best.host]
        result = make_answer(
            line,
            self._journal.name(line.number),
            chosen.answer,
            host=chosen.host.hex(),
            receipt=chosen.request_hash.hex(),
            usage=parse_receipt(chosen.receipt).usage,
            price=Nanotons(sum(copy.price for copy in credited)),
            copies=[
                {
                    "host": copy.host.hex(),
                    "owner": copy.payee.hex(),
                    "receipt": copy.request_hash.hex(),
                    "price_nanotons": copy.price,
                    "credited": copy.host in judgement.credited,
                }
                for copy in done.values()
            ],
        )
        await self._finish(line, result, judgement, copies)
        return result

    async def _fail(self, line: BatchLine, error: ClientError, judgement: Judgement) -> LineResult:
        result = make_error(line, self._journal.name(line.number), error)
        await self._finish(line, result, judgement, self._copies.copies(line.number))
        return result

    async def _finish(self, line: BatchLine, result: LineResult, judgement: Judgement, copies: list[Copy]) -> None:
        """Keep result, standings and verdict, then tell the operator's books."""
        unit, verdict = self._copies.unit(line.number), None
        open_caps = [copy.sent.price_cap for copy in copies if copy.state is CopyState.SENT]
        unjudged = Nanotons(sum(open_caps))
        if unit is not None and (judgement.result is not None or judgement.failed):
            self._standings.judge(unit.id, judgement, {copy.host: copy.payee for copy in copies})
            verdict = make_verdict(self._parts, line.number, unit, copies, judgement)
        else:
            unjudged = Nanotons(unjudged + sum(copy.price for copy in copies))
        self._copies.finish(line.number, result, verdict, unjudged=unjudged)
        self._purse.settle(sum(open_caps), sum(open_caps))
        if verdict is not None:
            self._purse.settle(0, -verdict.refused_price)
            await deliver(self._parts, self._copies, verdict)


async def run_open_batch(
    parts: AbstractAsyncContextManager[ClientParts],
    source: Path,
    output: Path,
    options: BatchOptions,
    *,
    rule: Rule,
    report: Report,
    random: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> BatchTotals:
    """As `run_batch`, at open hosts; the parts were opened for tier open. Verdicts that wait are brought to the books.

    Raises:
        BatchError: input or output cannot be used, or lines are left (`BatchStoppedError`).
        ClientError: the client cannot start.
    """
    kind = f"at open hosts, {rule.agreement} {rule.relative:g}"
    with open_input(source) as file, closing(BatchJournal.open(output, file, kind=kind)) as journal:
        if options.retry_failed:
            journal.reopen_failed()
        async with parts as opened, _standings(opened) as standings:
            batch = OpenBatch(
                opened,
                journal,
                file,
                options,
                rule=rule,
                standings=standings,
                report=report,
                random=random,
                sleep=sleep,
            )
            report({"event": "notice", "text": NOTICE})
            return await batch.carry_out(output)


@asynccontextmanager
async def _standings(parts: ClientParts) -> AsyncIterator[StandingStore]:
    with closing(StandingStore(parts.config.state / STANDINGS)) as standings:
        yield standings
