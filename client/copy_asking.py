"""Asking the copies of one line: which open hosts get them, what was sent again, and what came of it.

A copy is sealed to one host alone and durable before it is sent; what was sent and has no outcome is sent again as the
same bytes. Owners are all different, and one host alone decides nothing about a line.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from attestation.sealing import SealedRequest
from billing.money import Nanotons
from billing.verdict import QUORUM, UNIT_SIZE
from client.answer import Answer
from client.asking import Client, Question
from client.batch import LATER, Next, judge
from client.batch_cost import Purse
from client.batch_file import BatchLine
from client.batch_journal import SentRequest
from client.copy_journal import Copy, CopyJournal, CopyState, Unit
from client.errors import (
    AnswerError,
    BatchStoppedError,
    ClientError,
    NoHostError,
    NoQuorumError,
    NotAnsweredAgainError,
    NotEnoughOwnersError,
)
from client.lease import LeaseOffer
from client.lease_manager import Lease, LeasedHost
from client.receipts import ReceiptStore
from client.redundancy import needs_check
from client.standings import StandingStore

RESENDS_MAX = 3  # of one copy's bytes; then it is lost, and others can answer


@dataclass(slots=True)
class Asking:
    """What is known of one line while this process asks it."""

    over: Lease | None = None  # take another one
    declined: dict[bytes, ClientError] = field(default_factory=dict)  # payee -> why its host will not answer this
    away: set[bytes] = field(default_factory=set)  # payees whose hosts gave no answer in this round
    resent: dict[int, int] = field(default_factory=dict)  # copy -> how often


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyAsker:
    """Asks copies for a batch, and keeps what comes."""

    copies: CopyJournal
    purse: Purse
    standings: StandingStore
    receipts: ReceiptStore
    random: Callable[[], float]  # from 0 to below 1, for checks
    name: Callable[[int], str]  # of a line's requests, by its number
    offer: Callable[[BatchLine, SentRequest], LeaseOffer]  # under which a copy was sent; NotAnsweredAgainError

    async def round(self, client: Client, line: BatchLine, cap: Nanotons, wanted: int, asking: Asking) -> bool:
        """Send what was sent before and has no outcome, or else `wanted` new copies; True when that changed anything.

        Raises:
            ClientError: nothing came of it, and why.
        """
        copies = self.copies.copies(line.number)
        pending = [copy for copy in copies if copy.state is CopyState.SENT]
        if pending:
            outcomes = await asyncio.gather(*(self._resend(client, line, copy, asking) for copy in pending))
        else:
            lease, hosts = await self._choose(client, line, copies, wanted, asking)
            if not await self.purse.reserve(cap * len(hosts)):
                raise BatchStoppedError(f"the next line may cost {cap * len(hosts)} nanotons, more than the budget has")
            tasks = (self._ask_copy(client, line, (lease, host), cap, asking) for host in hosts)
            outcomes = await asyncio.gather(*tasks)
        errors = [error for error in outcomes if error is not None]
        if len(errors) < len(outcomes):
            return True
        codes = [error.code for error in asking.declined.values()]
        for error in asking.declined.values():  # one host alone does not decide that a line is wrong
            if codes.count(error.code) >= QUORUM:
                raise error
        again = [error for error in errors if judge(error, 1) is Next.AGAIN]
        if again:
            raise again[0]
        return any(error in asking.declined.values() for error in errors)

    async def _choose(
        self, client: Client, line: BatchLine, copies: list[Copy], wanted: int, asking: Asking
    ) -> tuple[Lease, list[LeasedHost]]:
        """Return the hosts that get the next copies, each of another owner than all that have a result.

        Whether the unit is checked is drawn here, after its first host was chosen, and kept before anything is sent:
        once for that host, again only when another one becomes the first.
        """
        lease, hosts = await client.lease(line.model, instead_of=asking.over)
        asking.over = None
        taken = {copy.payee for copy in copies if copy.state is CopyState.DONE}
        lost = {copy.payee for copy in copies if copy.state is CopyState.LOST}
        free = dict[bytes, LeasedHost]()
        for host in sorted(hosts, key=lambda host: host.verdict.payee in lost):
            if host.verdict.payee not in taken | asking.away | set(asking.declined):
                free.setdefault(host.verdict.payee, host)
        chosen = list(free.values())
        if chosen and not taken:
            wanted = QUORUM if self._draw(line, chosen[0]).checked else 1
        if len(chosen) < wanted:
            asking.over = None if client.is_new(lease) else lease
            if len(taken) >= QUORUM:
                raise NoQuorumError(len(taken))
            raise NotEnoughOwnersError(line.model, len(chosen) + len(taken), wanted + len(taken))
        return lease, chosen[:wanted]

    def _draw(self, line: BatchLine, first: LeasedHost) -> Unit:
        unit = self.copies.unit(line.number)
        if unit is None or unit.host != first.id:
            checked = needs_check(self.standings.get((first.id, first.verdict.payee)), self.random())
            name = os.urandom(UNIT_SIZE) if unit is None else unit.id
            unit = Unit(id=name, host=first.id, checked=checked)
            self.copies.keep_unit(line.number, unit)
        return unit

    async def _ask_copy(
        self, client: Client, line: BatchLine, place: tuple[Lease, LeasedHost], cap: Nanotons, asking: Asking
    ) -> ClientError | None:
        """Ask one host; None when it answered. The copy of a host that was lost meanwhile stays, to be sent again."""
        (lease, host), copy = place, 0
        payee = host.verdict.payee

        def keep(offer: LeaseOffer, sealed: SealedRequest) -> None:
            nonlocal copy
            copy = self.copies.keep_sent(
                line.number, copy=copy, host=(host.id, payee), offer=offer, sealed=sealed, price_cap=cap
            )

        try:
            answer = await client.ask_at(self._question(line, cap), lease, host, keep)
            await self._take(copy, cap, answer)
        except AnswerError as error:
            return error
        except ClientError as error:
            self.copies.drop(copy)
            self.purse.settle(cap, Nanotons(0))
            self._set_aside(error, payee, lease, asking)
            return error
        return None

    async def _resend(self, client: Client, line: BatchLine, copy: Copy, asking: Asking) -> ClientError | None:
        """Send the same bytes again; None when that gave the answer, or showed that there will be none."""
        cap = copy.sent.price_cap
        asking.resent[copy.id] = tries = asking.resent.get(copy.id, 0) + 1
        try:
            offer = self.offer(line, copy.sent)
            answer = await client.ask_again(self._question(line, cap), offer, copy.sent.sealed)
            await self._take(copy.id, cap, answer)
        except (NotAnsweredAgainError, NoHostError, AnswerError) as error:
            later = not isinstance(error, NotAnsweredAgainError) or error.should_retry
            if later and tries < RESENDS_MAX:
                return error
            self._lose(copy, line)
        except ClientError as error:
            self._lose(copy, line)
            asking.declined[copy.payee] = error
        return None

    def _lose(self, copy: Copy, line: BatchLine) -> None:
        self.copies.lose(copy.id, line.number, copy.sent.price_cap)
        self.purse.settle(copy.sent.price_cap, copy.sent.price_cap)

    def _set_aside(self, error: ClientError, payee: bytes, lease: Lease, asking: Asking) -> None:
        """Ask an owner no more: for now, when its host is away or busy; at all, when it refuses this very line."""
        if error.code in LATER:
            asking.over = lease
        elif isinstance(error, NoHostError) or error.should_retry:
            asking.away.add(payee)
        else:
            asking.declined[payee] = error

    async def _take(self, copy: int, cap: Nanotons, answer: Answer) -> None:
        """Read an answer to its end and keep it; one that is no single object agrees with nothing."""
        async with aclosing(aiter(answer)) as payloads:
            parts = [payload async for payload in payloads]
        kept = self.receipts.find(answer.request_hash.hex())
        if kept is None:
            raise RuntimeError("an answer was read to its end without a receipt")
        self.copies.answered(copy, parts[0] if len(parts) == 1 else b"", kept.signed, kept.receipt.price)
        self.purse.settle(cap, kept.receipt.price)

    def _question(self, line: BatchLine, cap: Nanotons) -> Question:
        name = self.name(line.number)
        return Question(id=name, endpoint=line.endpoint, model=line.model, body=line.body, price_cap=cap)
