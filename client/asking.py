"""One question from lease to receipt: seal, send, open, check. Used by the sidecar, and by programs directly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from attestation.frames import Endpoint, encode_plain_request
from attestation.sealing import SealedRequest
from billing.money import Nanotons
from billing.receipt import Receipt
from client.answer import Answer
from client.errors import (
    ClientError,
    HostRefusedError,
    NoHostError,
    NotAnsweredAgainError,
    SealedRefusalError,
    WorkerLostError,
)
from client.lease import LeaseOffer
from client.lease_manager import Lease, LeasedHost, LeaseManager
from client.receipts import Expected, ReceiptStore, check_receipt
from client.transport import AnswerLostError, HostUnreachableError, PlainRefusal, Stream, Transport

ROUNDS_MAX = 6  # sealed at most this often: each of three hosts may have forgotten its session, leases may end
RENEWALS_MAX = 2  # each holds another budget until it ends
_AWAY = frozenset({404, 502, 503})  # there, or on the way there, is nothing that answers
_NEXT_HOST = _AWAY | {405, 429}
_LEASE_OVER = frozenset({"lease_expired", "coefficient_too_low", "slice_exhausted"})
_Refusal = HostRefusedError | SealedRefusalError
Keep = Callable[[LeaseOffer, SealedRequest], None]  # called with what is about to be sent


class _Next(Enum):
    """What to do after a host said no."""

    HOST = auto()  # the same bytes to the next host
    SEAL = auto()  # the host forgot the session: seal again
    LEASE = auto()  # the lease is used up or over: take another
    STOP = auto()  # no host would say otherwise


class _TryAgain(Exception):  # noqa: N818  (a signal inside this module, not an error)
    """This round gave no answer; another may."""

    def __init__(self, next_: _Next, error: ClientError) -> None:
        super().__init__(next_, error)
        self.next, self.error = next_, error


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request of the OpenAI API."""

    id: str
    endpoint: Endpoint
    model: str
    body: bytes  # JSON
    price_cap: Nanotons


def now_utc() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


class Client:
    """Asks attested hosts. Verifies, seals, pays, and believes nobody in between."""

    def __init__(
        self,
        leases: LeaseManager,
        transport: Transport,
        receipts: ReceiptStore,
        *,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self._leases, self._transport, self._receipts, self._clock = leases, transport, receipts, clock

    async def ask(self, question: Question, keep: Keep | None = None) -> Answer:
        """Return an answer that has begun.

        The same bytes go to the next host only while no answer has begun; a lease that is over is replaced. `keep` is
        called before anything is sent; what it was called with before was refused and costs nothing.

        Raises:
            ClientError: there is no answer, or it cannot be used.
        """
        plain = encode_plain_request(question.endpoint, question.body)
        lease, last, renewals = await self._leases.current(question.model), None, 0
        for _ in range(ROUNDS_MAX):
            if last is not None and last.next is _Next.LEASE:
                if renewals == RENEWALS_MAX:
                    raise last.error
                renewals += 1
                lease = await self._leases.current(question.model, instead_of=lease)
            sealed = lease.sender.seal(plain, price_cap=question.price_cap)
            if keep is not None:
                keep(lease.offer, sealed)
            try:
                return await self._ask_hosts(lease, sealed, question)
            except _TryAgain as again:
                last = again
        assert last is not None
        raise last.error

    async def lease(self, model: str, *, instead_of: Lease | None = None) -> tuple[Lease, list[LeasedHost]]:
        """Return the lease in use and its hosts, those to try first in front; raises as `LeaseManager.current`."""
        lease = await self._leases.current(model, instead_of=instead_of)
        return lease, list(self._leases.in_order(lease))

    def is_new(self, lease: Lease) -> bool:
        """Tell whether another lease would name no other hosts now."""
        return self._leases.is_new(lease)

    async def ask_at(self, question: Question, lease: Lease, host: LeasedHost, keep: Keep) -> Answer:
        """Return an answer of this open host that has begun; the bytes are sealed to it alone. `keep` as in `ask`.

        Raises:
            ClientError: it gives none, or it cannot be used.
        """
        plain = encode_plain_request(question.endpoint, question.body)
        alone = lease.only(host)
        for _ in range(ROUNDS_MAX):
            sealed = alone.sender.seal(plain, price_cap=question.price_cap)
            keep(alone.offer, sealed)
            try:
                return await self._ask_hosts(alone, sealed, question)
            except _TryAgain as again:
                if again.next is not _Next.SEAL:
                    raise again.error from again
                last = again.error
        raise last

    async def ask_again(self, question: Question, offer: LeaseOffer, sealed: SealedRequest) -> Answer:
        """Send bytes that were sent before, when nobody knows what became of them.

        A host that received them refuses them, the ledger takes one receipt for them, whoever answers.

        Raises:
            NotAnsweredAgainError: no host answers them; `should_retry` when one may later.
            ClientError: as `ask`.
        """
        lease = await self._leases.verify_again(offer)
        reasons, later = dict(lease.refused), bool(lease.refused)
        for host in self._leases.in_order(lease):
            try:
                return await self._ask_host(lease, host, sealed, question)
            except HostUnreachableError as error:
                self._leases.unreachable(host.id)
                reasons[host.name], later = str(error), True
            except AnswerLostError as error:
                self._leases.unreachable(host.id)
                raise WorkerLostError(host.name, str(error)) from error
            except (HostRefusedError, SealedRefusalError) as error:
                if _classify(error) is _Next.STOP:
                    raise
                reasons[host.name] = f"{error.status} {error.code}"
                later |= error.should_retry
        raise NotAnsweredAgainError(reasons, later)

    async def _ask_hosts(self, lease: Lease, sealed: SealedRequest, question: Question) -> Answer:
        """Offer the same bytes to one host after the other."""
        reasons, refusals = dict(lease.refused), list[_Refusal]()
        for host in self._leases.in_order(lease):
            try:
                return await self._ask_host(lease, host, sealed, question)
            except HostUnreachableError as error:
                self._leases.unreachable(host.id)
                reasons[host.name] = str(error)
            except AnswerLostError as error:
                self._leases.unreachable(host.id)
                raise WorkerLostError(host.name, str(error)) from error
            except (HostRefusedError, SealedRefusalError) as error:
                next_ = _classify(error)
                if next_ is _Next.STOP:
                    raise
                if next_ is _Next.SEAL:
                    lease.sender.forget(host.id, sealed)
                if next_ is not _Next.HOST:
                    raise _TryAgain(next_, error) from error
                if error.status in _AWAY:
                    self._leases.unreachable(host.id)
                refusals.append(error)
                reasons[host.name] = f"{error.status} {error.code}"
        raise self._give_up(lease, refusals, NoHostError(question.model, reasons))

    def _give_up(self, lease: Lease, refusals: list[_Refusal], no_host: NoHostError) -> ClientError | _TryAgain:
        """Return what follows when every host said no: the caller waits for busy ones, an old lease is replaced."""
        for refusal in refusals:
            if refusal.status == 429:
                return refusal
        over = next((refusal for refusal in refusals if _says_over(refusal)), None)
        if over is None and refusals and all(refusal.status not in _NEXT_HOST for refusal in refusals):
            return refusals[0]  # they agree that the request itself is wrong
        if over is None and self._leases.is_new(lease):
            return no_host
        return _TryAgain(_Next.LEASE, over or no_host)

    async def _ask_host(self, lease: Lease, host: LeasedHost, sealed: SealedRequest, question: Question) -> Answer:
        stream = await self._begin(host, sealed)
        expected = Expected(
            request_hash=sealed.request_hash,
            grant=lease.offer.grant,
            verdict=host.verdict,
            price_cap=question.price_cap,
        )
        answer = Answer(
            host,
            sealed,
            stream,
            leases=self._leases,
            confirm=lambda: lease.sender.confirm(host.id, sealed),
            check=lambda signed, response_hash: self._keep_receipt(signed, response_hash, expected, question),
        )
        await answer.begin()
        return answer

    async def _begin(self, host: LeasedHost, sealed: SealedRequest) -> Stream:
        """Send to one host and wait until its answer begins; counts it as busy from now until the answer is closed."""
        self._leases.started(host)
        try:
            return _check_begun(host, await self._send(host, sealed))
        except BaseException:
            self._leases.ended(host)
            raise

    async def _send(self, host: LeasedHost, sealed: SealedRequest) -> Stream | PlainRefusal:
        """Send once; once more to the same host if a kept connection broke. It refuses what it has already received."""
        try:
            return await self._transport.send_sealed(host.candidate, sealed.data)
        except HostUnreachableError as error:
            if not error.broken:
                raise
        again = await self._transport.send_sealed(host.candidate, sealed.data)
        if isinstance(again, PlainRefusal) and again.status == 409:
            raise WorkerLostError(host.name, "it received the request, and the connection broke before the answer")
        return again

    def _keep_receipt(self, signed: bytes, response_hash: bytes, expected: Expected, question: Question) -> Receipt:
        receipt = check_receipt(signed, response_hash, expected)
        self._leases.paid(receipt)
        self._receipts.keep(
            signed,
            request_id=question.id,
            model=question.model,
            receipt_key=expected.verdict.receipt,
            now=self._clock(),
        )
        return receipt


def _check_begun(host: LeasedHost, outcome: Stream | PlainRefusal) -> Stream:
    if isinstance(outcome, Stream):
        return outcome
    if outcome.status == 504:
        raise WorkerLostError(host.name, "it fell silent")
    raise HostRefusedError(host.name, outcome.status, outcome.code)


def _classify(error: _Refusal) -> _Next:
    """Decide by status and code.

    A plain refusal is nobody's word: it may cost time and rounds, never more money, nor an answer that another host
    would give. So whatever it says sends us to the next host first.
    """
    plain = isinstance(error, HostRefusedError)
    if error.code == "unknown_session":
        return _Next.SEAL
    if error.code == "slice_exhausted" or plain:
        return _Next.HOST
    return _Next.LEASE if _says_over(error) else _Next.STOP


def _says_over(error: _Refusal) -> bool:
    return error.code in _LEASE_OVER or (isinstance(error, HostRefusedError) and error.status in {401, 403})
