"""The first half of a sealed request's life: how busy, whose lease, which model, and opening it once.

    parse -> lease known, or its grant checked -> model -> open once -> `enclave.delivery`

Everything refused here is refused without the plaintext, in plain HTTP, and costs the client nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from attestation.errors import EnvelopeError
from attestation.sealing import NONCE, OpenedRequest, Random, parse_request
from attestation.session import SessionReceiver
from billing.money import Nanotons
from billing.receipt import receipt_body, sign_receipts
from billing.tariff import Usage
from enclave.credit import CreditDesk, Lease
from enclave.delivery import Counters, Delivery, Host
from enclave.engine import Engine
from enclave.errors import BadRequestError, BusyError, UnavailableError, refusal_of
from enclave.evidence import EvidenceDesk
from enclave.front import Exchange, HttpRequest
from enclave.journal import ReceiptJournal
from enclave.keys import EnclaveKeys
from enclave.models import ModelShelf
from enclave.receipts import ReceiptDesk

NONCES_DRAWN = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much at once, and how streams are cut into events."""

    running: int = 32
    waiting: int = 64
    coalesce_s: float = 0.0


class SealedService:
    """Answers sealed requests. One instance for each process."""

    def __init__(
        self,
        *,
        keys: EnclaveKeys,
        payee: bytes,
        credit: CreditDesk,
        models: ModelShelf,
        evidence: EvidenceDesk,
        journal: ReceiptJournal,
        limits: Limits,
        clock: Callable[[], datetime],
        random: Random,
    ) -> None:
        self.keys, self.models, self.evidence, self.journal = keys, models, evidence, journal
        self.counters, self.limits = Counters(), limits
        self._payee, self._credit, self._clock = payee, credit, clock
        self._receiver = SessionReceiver(keys.hpke, keys.host_id)
        self._host = Host(
            counters=self.counters,
            coalesce_s=limits.coalesce_s,
            cache_salt=keys.cache_salt,
            receipt=self._receipt,
            receipts=ReceiptDesk(lambda bodies: sign_receipts(bodies, keys.receipt), journal),
            nonce=_nonces(random).__next__,
        )

    async def answer(self, request: HttpRequest, exchange: Exchange) -> None:
        """Serve one sealed request; raises `RequestError` for what is refused in plain."""
        if self.counters.active >= self.limits.running + self.limits.waiting:
            raise BusyError("this host has all the requests it takes: try the next host of the lease", "busy")
        if not self.journal.usable:
            raise UnavailableError("this host cannot keep more receipts: try another host", "receipts_waiting")
        now = self._clock()
        opened, lease, engine = self._open(request.body, now)
        self.counters.active += 1
        try:
            with self.models.answering(engine):
                await Delivery(self._host, opened, lease, engine, exchange, began=now).run()
        finally:
            self.counters.active -= 1

    def forget_ended_leases(self) -> None:
        """Call now and then: memory of leases is kept only while they last."""
        self._credit.forget(self._receiver.expire(self._clock()))

    def _open(self, body: bytes, now: datetime) -> tuple[OpenedRequest, Lease, Engine]:
        """(1) layout (2) lease or grant (3) model (4) the envelope itself, once."""
        if not body:
            raise BadRequestError("the body is empty: send a sealed request", "empty_body")
        try:
            parsed = parse_request(body, self.keys.host_id)  # (1)
            header = parsed.header
            known = self._credit.find(header)
            lease = known or self._credit.check(header, now=now)  # (2)
            if header.model != lease.model_root:
                raise BadRequestError("the lease is for another model: take a lease for this one", "wrong_model")
            engine = self.models.engine(header.model)  # (3)
            if known is None:
                self._receiver.admit(header.lease, lease.account, lease.not_after)
                self._credit.add(header.lease, lease)
            opened = self._receiver.open(parsed, now=now)  # (4)
        except EnvelopeError as error:
            raise refusal_of(error) from None
        return opened, lease, engine

    def _receipt(self, opened: OpenedRequest, usage: Usage, price: Nanotons, response_hash: bytes) -> bytes:
        header = opened.header
        return receipt_body(
            request_hash=opened.request_hash,
            account=header.account,
            lease=header.lease,
            host_id=self.keys.host_id,
            model_root=header.model,
            usage=usage,
            price=price,
            response_hash=response_hash,
            transcript=self.evidence.transcript,
            payee=self._payee,
            issued_at=int(self._clock().timestamp()),
        )


def _nonces(random: Random) -> Iterator[bytes]:
    """Nonces of answers, drawn many at a time: each draw is a system call."""
    while True:
        drawn = random(NONCE * NONCES_DRAWN)
        yield from (drawn[at : at + NONCE] for at in range(0, len(drawn), NONCE))
