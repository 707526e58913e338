"""All parts of one enclave put together: what listens, what runs in the background, and how it ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from attestation.collect import Attester, extend_named
from attestation.sealed_state import SealingKeySource
from attestation.sealing import Random
from attestation.transcript import Transcript
from enclave.bundles import ApprovedBundles, BundleDesk
from enclave.control import Control, bind_control, health
from enclave.credit import CreditDesk
from enclave.errors import NotFoundError, StartError
from enclave.evidence import EvidenceDesk
from enclave.front import Exchange, Front, HttpRequest, reply_json
from enclave.journal import SEALING_CONTEXT, ReceiptJournal
from enclave.keys import EnclaveKeys
from enclave.models import Loader, ModelShelf, Preparer
from enclave.service import Limits, SealedService
from enclave.tls import TlsFront

logger = logging.getLogger(__name__)

EVIDENCE = "application/cbor"
CONTROL_BODY_MAX = 64 << 10
SWEEP_S = 10.0
STOP_S = 10.0  # for running answers when the enclave is asked to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is fixed about one enclave before it starts."""

    host: str
    port: int
    control: Path
    state: Path
    payee: bytes  # 33
    operator_key: bytes  # 32
    coefficient: int  # thousandths of the tariff, the least the owner accepts
    models: Mapping[bytes, Path]  # manifest root -> folder
    engine_digest: bytes  # 32
    limits: Limits
    tls: tuple[str, int] | None = None  # where attested TLS listens too
    job_bundles: frozenset[bytes] = frozenset()  # SHA-256 of jobs' code that may run on this host
    job_policy: Path | None = None  # a file that says so anew when it changes


class Enclave:
    """One enclave instance. `start`, then `run` until it is asked to stop, or `stop` at once."""

    def __init__(
        self,
        service: SealedService,
        bundles: BundleDesk,
        journal: ReceiptJournal,
        facts: Facts,
        clock: Callable[[], datetime],
    ) -> None:
        self.service, self._bundles, self._journal, self._facts = service, bundles, journal, facts
        self.address = ""
        self._front, self._tls, self._tls_port = Front(self._answer), self._make_tls(clock), 0
        self._control: Front | None = None
        self._stopping, self._stopped = asyncio.Event(), False
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        facts: Facts,
        *,
        attester: Attester,
        sealing: SealingKeySource,
        load: Loader,
        prepare: Preparer | None = None,
        clock: Callable[[], datetime],
        random: Random,
    ) -> "Enclave":
        """Log engine and models, make keys, have the hardware attest all of it once, and listen.

        Raises:
            StartError: a port, path or journal is not usable.
            AttesterError: the hardware does not log them.
            UnavailableError: the hardware does not attest.
        """
        keys = EnclaveKeys.generate(random)
        shelf = ModelShelf(facts.models, load, prepare)
        base = _base_transcript(keys, facts, shelf)
        extend_named(attester, base)
        evidence = EvidenceDesk(attester, base)
        await evidence.answer(random(32))
        key = await asyncio.to_thread(sealing.sealing_key, SEALING_CONTEXT)
        journal = ReceiptJournal.open(facts.state / "receipts", key)
        credit = CreditDesk(operator_key=facts.operator_key, host_id=keys.host_id, coefficient=facts.coefficient)
        service = SealedService(
            keys=keys,
            payee=facts.payee,
            credit=credit,
            models=shelf,
            evidence=evidence,
            journal=journal,
            limits=facts.limits,
            clock=clock,
            random=random,
        )
        approved = ApprovedBundles(facts.job_bundles, facts.job_policy)
        enclave = cls(service, BundleDesk(attester, approved), journal, facts, clock)
        try:
            await enclave._listen()
        except BaseException:
            await enclave.stop()
            raise
        return enclave

    @property
    def host_id(self) -> bytes:
        """Names this instance, 8 bytes."""
        return self.service.keys.host_id

    def ask_to_stop(self) -> None:
        """Let `run` return."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until asked to stop, then end running answers and write what is unwritten."""
        await self._stopping.wait()
        await self.stop()

    async def stop(self, grace_s: float = STOP_S) -> None:
        """End everything. Answers still running after `grace_s` are cut; their receipts are kept."""
        if self._stopped:
            return
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        fronts = [self._front] if self._tls is None else [self._front, self._tls]
        await asyncio.gather(*(front.stop(grace_s) for front in fronts))
        if self._control is not None:
            await self._control.stop(1.0)
            self._facts.control.unlink(missing_ok=True)
            self._control = None
        await self.service.models.close()
        await self.service.evidence.close()
        await self._journal.close()

    async def _listen(self) -> None:
        facts = self._facts
        try:
            host, port = await self._front.listen(facts.host, facts.port)
        except OSError as error:
            raise StartError(f"cannot listen on {facts.host}:{facts.port}: {error.strerror or error}") from error
        self.address = f"{host}:{port}"
        await self._listen_tls()
        listening = bind_control(facts.control)
        control = Control(self.service, self._bundles, self.address, self.ask_to_stop)
        self._control = Front(control.answer, body_max=CONTROL_BODY_MAX)
        await self._control.listen_unix(listening)
        self._sweeper = asyncio.create_task(self._sweep())

    def _make_tls(self, clock: Callable[[], datetime]) -> TlsFront | None:
        if self._facts.tls is None:
            return None
        service = self.service
        return TlsFront(self._answer, keys=service.keys, evidence=service.evidence, clock=clock)

    async def _listen_tls(self) -> None:
        if self._tls is None or self._facts.tls is None:
            return
        host, port = self._facts.tls
        try:
            _, self._tls_port = await self._tls.listen(host, port)
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        except ValueError as error:
            raise StartError(f"no TLS on this host: {error}; leave `listen_tls` out") from error

    def _answer(self, request: HttpRequest, exchange: Exchange) -> Awaitable[None]:
        """The open side. Only the end of the path counts: relays put their own routes in front."""
        last = request.path.rpartition("/")[2]
        if request.method == "POST" and last != "evidence":
            return self.service.answer(request, exchange)
        return self._answer_other(request, exchange, last)

    async def _answer_other(self, request: HttpRequest, exchange: Exchange, last: str) -> None:
        if request.method == "GET" and last == "health":
            reply_json(exchange, health(self.service) | ({"tls_port": self._tls_port} if self._tls else {}))
        elif request.method != "POST":
            raise NotFoundError(
                "POST a sealed request, POST a nonce to .../evidence, or GET .../health", "unknown_route"
            )
        else:
            exchange.reply(200, await self.service.evidence.answer(request.body), EVIDENCE)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.service.forget_ended_leases()


def _base_transcript(keys: EnclaveKeys, facts: Facts, shelf: ModelShelf) -> Transcript:
    return Transcript(
        nonce_root=bytes(32),
        hpke=keys.hpke.public,
        receipt=keys.receipt_public,
        payee=facts.payee,
        models=shelf.roots,
        engine=facts.engine_digest,
    )
