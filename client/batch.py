"""Batch inference: every line of an input asked at attested hosts, one paid result kept, the cost under a cap.

A line whose outcome is unknown (its host was lost, this process was killed) is sent again as the same bytes while its
lease lives: hosts refuse what they received before, and the ledger takes one receipt for them. Only when nobody answers
them any more is the line sealed anew, and what the first bytes may have cost then counts against the budget.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, closing
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, BinaryIO

from billing.errors import BillingError
from billing.grant import verify_grant
from billing.money import Nanotons
from client.asking import Client, Question
from client.batch_cost import Estimate, Purse, estimate
from client.batch_file import BatchLine, LineResult, make_answer, make_error, open_input
from client.batch_journal import BatchJournal, BatchTotals, SentRequest
from client.errors import (
    AnswerError,
    BadRequestError,
    BatchOutputError,
    BatchStoppedError,
    ClientError,
    GatewayError,
    LeaseRefusedError,
    NoHostError,
    NotAnsweredAgainError,
    RegistryUnavailableError,
)
from client.lease import LeaseOffer
from client.openai import parse_request
from client.running import ClientParts

ATTEMPTS_MAX = 8
BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
CONCURRENCY_MAX = 512
LANE = 8  # questions at a time that share a lease of three hosts
LANES_MAX = 16
LATER = frozenset({"slice_exhausted", "lease_expired", "coefficient_too_low"})  # the next lease may do
_MY_ACCOUNT = frozenset({401, 402, 403})  # of a lease: the next line would hear the same
Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What the caller wants. Money in nanotons."""

    concurrency: int = 16
    budget: Nanotons | None = None  # the most the whole batch may cost, earlier runs included; None: no cap
    retry_failed: bool = False  # ask lines again that ended in an error

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= CONCURRENCY_MAX:
            raise ValueError(f"concurrency must be 1 to {CONCURRENCY_MAX}")
        if self.budget is not None and self.budget < 0:
            raise ValueError("budget must not be negative")


class Next(Enum):
    """What follows when a line got no answer."""

    AGAIN = auto()  # wait, then once more
    ANEW = auto()  # nobody answers these bytes: seal others
    FAIL = auto()  # the error is the line's result
    STOP = auto()  # no line would fare better now


def judge(error: ClientError, attempt: int) -> Next:
    """Decide what follows `error` on the `attempt`th try, from 1."""
    last = attempt >= ATTEMPTS_MAX
    if isinstance(error, NotAnsweredAgainError):
        return Next.AGAIN if error.should_retry and not last else Next.ANEW
    if isinstance(error, LeaseRefusedError) and error.status in _MY_ACCOUNT:
        return Next.STOP
    if (error.should_retry or error.code in LATER or isinstance(error, AnswerError)) and not last:
        return Next.AGAIN
    refused = isinstance(error, LeaseRefusedError) and not error.should_retry
    if isinstance(error, GatewayError | NoHostError | RegistryUnavailableError) and not refused:
        return Next.STOP
    return Next.FAIL


class Batch:
    """One run over the lines that are left."""

    copies = 1, 1  # of a line: as a rule, and at most

    def __init__(
        self,
        parts: ClientParts,
        journal: BatchJournal,
        file: BinaryIO,
        options: BatchOptions,
        *,
        report: Report,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float],
    ) -> None:
        """`random` gives numbers from 0 to 1, which spread retries; `report` gets one mapping for each event."""
        self._parts, self._journal, self._file, self._options = parts, journal, file, options
        self._report, self._sleep, self._random = report, sleep, random
        totals = journal.totals()
        self._purse = Purse(options.budget, spent=totals.price + totals.lost, reserved=journal.sent_caps())
        self._lanes = [_Lane(parts.make_client()) for _ in range(min(LANES_MAX, -(-options.concurrency // LANE)))]
        self._stop: ClientError | None = None

    async def run(self) -> BatchTotals:
        """Ask all lines that are left.

        Raises:
            BatchStoppedError: lines are left, and why; everything that came is kept.
            BatchOutputError: the journal cannot be written.
        """
        lines = self._lines()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._options.concurrency):
                    group.create_task(self._work(lines))
        except BaseExceptionGroup as errors:
            trouble = errors.subgroup(sqlite3.Error)
            if trouble is None:
                raise
            raise BatchOutputError(
                f"cannot write the journal: {trouble.exceptions[0]}; make room, start again"
            ) from errors
        totals = self._journal.totals()
        if self._stop is not None:
            raise BatchStoppedError(f"{totals.left} lines are left: {self._stop}") from self._stop
        return totals

    async def carry_out(self, output: Path) -> BatchTotals:
        """`run`, with a report before and after; `output` has all results at the end, also when it stops."""
        journal = self._journal
        bounds = estimate_lines(journal.lines_left(self._file), self._parts, copies=self.copies)
        totals = journal.totals()
        self._report({"event": "start", "lines": totals.lines, "left": totals.left, "estimate": asdict(bounds)})
        try:
            await self.run()
        finally:
            more = await self._conclude_run()
            journal.write_output(output)
            totals = journal.totals()
            self._report(
                {"event": "end", **asdict(totals), "left": totals.left, "failures": journal.failures(), **more}
            )
        return totals

    async def _conclude_run(self) -> Mapping[str, Any]:
        """What is left to do once no line is asked any more; returns what the last report says of it."""
        return {}

    def _lines(self) -> Iterator[BatchLine]:
        return self._journal.lines_left(self._file)

    async def _work(self, lines: Iterator[BatchLine]) -> None:
        while self._stop is None and (line := next(lines, None)) is not None:
            lane = min(self._lanes, key=lambda lane: lane.busy)
            lane.busy += 1
            try:
                result = await self._settle_line(lane.client, line)
            finally:
                lane.busy -= 1
            if result is not None:
                self._report(_line_event(line, result))

    async def _settle_line(self, client: Client, line: BatchLine) -> LineResult | None:
        """Ask until the line has its result, which is kept then; None when the batch stops instead."""
        attempt = 0
        while self._stop is None:
            attempt += 1
            sent, held = self._journal.sent(line.number), Nanotons(0)
            try:
                cap = sent.price_cap if sent is not None else self._check(line)
                if sent is None and not await self._purse.reserve(cap):
                    self._stop_all(
                        BatchStoppedError(f"the next line may cost {cap} nanotons, more than the budget has")
                    )
                    return None
                held = cap
                result = await self._ask(client, line, cap, sent)
            except ClientError as error:
                failed, next_ = error, judge(error, attempt)
            else:
                self._journal.finish(line.number, result)
                self._purse.settle(cap, result.price)
                return result
            self._account(line, failed, next_, held=held, resent=sent is not None)
            if next_ is Next.FAIL:
                result = make_error(line, self._journal.name(line.number), failed)
                self._journal.finish(line.number, result)
                return result
            if next_ is Next.STOP:
                self._stop_all(failed)
            elif next_ is Next.AGAIN:
                await self._sleep(self._delay(failed, attempt))
        return None

    def _account(self, line: BatchLine, error: ClientError, next_: Next, *, held: Nanotons, resent: bool) -> None:
        """Give back what was held for a line, unless what was sent may still be answered, or may have been charged."""
        unknown = resent or isinstance(error, AnswerError)
        if unknown and next_ in {Next.AGAIN, Next.STOP}:
            return
        lost = held if unknown else Nanotons(0)
        self._journal.drop_sent(line.number, lost=lost)
        self._purse.settle(held, lost)

    def _stop_all(self, why: ClientError) -> None:
        self._stop = self._stop or why
        self._purse.close()

    def _delay(self, error: ClientError, attempt: int) -> float:
        """Seconds to wait: doubled each time, spread, never less than the answer asks for."""
        waited: float = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (attempt - 1)) * (0.5 + self._random() / 2)
        return max(waited, (error.retry_after_ms or 0) / 1000)

    def _check(self, line: BatchLine) -> Nanotons:
        """Return the most that the line may cost, which the enclave enforces; BadRequestError: it cannot be asked."""
        asked = parse_request(line.body)
        if asked.stream:
            raise BadRequestError("a batch has no streams: leave stream out", "invalid_value", "stream")
        most = self._parts.config.body_max
        if len(line.body) > most:
            raise BadRequestError(f"the body is over {most} bytes: shorten it", "request_too_large", None, 413)
        offer = self._parts.registry.view().model(line.model)
        return Nanotons(
            min(self._parts.config.price_cap, line.price_max(offer, self._parts.config.coefficient_max)),
        )

    async def _ask(self, client: Client, line: BatchLine, cap: Nanotons, sent: SentRequest | None) -> LineResult:
        name = self._journal.name(line.number)
        question = Question(id=name, endpoint=line.endpoint, model=line.model, body=line.body, price_cap=cap)
        if sent is None:
            answer = await client.ask(
                question, lambda offer, sealed: self._journal.keep_sent(line.number, offer, sealed, cap)
            )
        else:
            answer = await client.ask_again(question, self._offer(line, sent), sent.sealed)
        async with aclosing(aiter(answer)) as payloads:
            parts = [payload async for payload in payloads]
        host, receipt = answer.host.host_id.hex(), answer.receipt
        if len(parts) != 1:
            raise AnswerError(host, f"{len(parts)} JSON objects where one belongs")
        return make_answer(
            line, name, parts[0], host=host, receipt=answer.request_hash.hex(), usage=receipt.usage, price=receipt.price
        )

    def _offer(self, line: BatchLine, sent: SentRequest) -> LeaseOffer:
        """The lease under which a request was sent, if it lives; NotAnsweredAgainError otherwise."""
        view = self._parts.registry.view()
        operator = view.operator().terms.public_key
        try:
            model, grant = view.model(line.model), verify_grant(sent.signed_grant, operator)
        except (BadRequestError, BillingError):
            raise NotAnsweredAgainError({}, should_retry=False) from None
        if grant.model_root != model.root or grant.not_after <= self._parts.clock().timestamp():
            raise NotAnsweredAgainError({}, should_retry=False)
        return LeaseOffer(model=model, grant=grant, signed_grant=sent.signed_grant, candidates=sent.candidates)


@dataclass(slots=True)
class _Lane:
    """A client with leases of its own: the more lanes, the more hosts share the batch."""

    client: Client
    busy: int = 0


def _line_event(line: BatchLine, result: LineResult) -> Mapping[str, Any]:
    return {
        "event": "line",
        "line": line.number,
        "custom_id": line.custom_id,
        "status": result.status,
        "code": result.code,
        "price_nanotons": result.price,
    }


async def estimate_batch(
    parts: AbstractAsyncContextManager[ClientParts], source: Path, *, copies: tuple[int, int] = (1, 1)
) -> Estimate:
    """Return what a whole input can cost, with so many copies of each line as a rule and at most.

    Asks nobody but the registry.

    Raises:
        BatchError: the input cannot be used.
        ClientError: the registry cannot be read.
    """
    with open_input(source) as file, closing(BatchJournal.scan(file)) as journal:
        async with parts as opened:
            return estimate_lines(journal.lines_all(file), opened, copies=copies)


async def run_batch(
    parts: AbstractAsyncContextManager[ClientParts],
    source: Path,
    output: Path,
    options: BatchOptions,
    *,
    report: Report,
    random: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> BatchTotals:
    """Ask every line of `source` that has no result yet; `output` has all results at the end, also when it stops.

    Raises:
        BatchError: input or output cannot be used, or lines are left (`BatchStoppedError`).
        ClientError: the client cannot start.
    """
    with open_input(source) as file, closing(BatchJournal.open(output, file)) as journal:
        if options.retry_failed:
            journal.reopen_failed()
        async with parts as opened:
            batch = Batch(opened, journal, file, options, report=report, random=random, sleep=sleep)
            return await batch.carry_out(output)


def estimate_lines(lines: Iterator[BatchLine], parts: ClientParts, *, copies: tuple[int, int] = (1, 1)) -> Estimate:
    """Return what these lines can cost, by the registry's prices and the client's settings."""
    config, models = parts.config, parts.registry.view().models
    return estimate(lines, models, coefficient=config.coefficient_max, cap=config.price_cap, copies=copies)
