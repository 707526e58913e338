"""Answers challenges: the nonces of a short window go under one hardware quote.

Each challenger gets the quote with the proof of its own nonce's place in it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from attestation.collect import Attestation, Attester
from attestation.errors import AttesterError, RestartNeededError
from attestation.evidence import encode_evidence
from attestation.merkle import NONCE_SIZE, inclusion_proofs, nonce_root
from attestation.transcript import Transcript
from enclave.errors import BadRequestError, BusyError, UnavailableError

logger = logging.getLogger(__name__)

WINDOW_S = 0.005  # how long the first challenger waits for others
BATCH_MAX = 1024  # nonces under one quote
WAITING_MAX = 8192


class EvidenceDesk:
    """Serialises the slow hardware: while one quote is made, later nonces gather for the next."""

    def __init__(self, attester: Attester, base: Transcript) -> None:
        """`base` is the transcript of this instance; its nonce root is replaced for each quote."""
        self._attester, self._base = attester, base
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._working: asyncio.Task[None] | None = None
        self._latest: bytes | None = None

    @property
    def transcript(self) -> bytes:
        """Digest of the newest attested transcript, 48 bytes: what receipts name."""
        if self._latest is None:
            raise RuntimeError("answer a challenge first: nothing is attested yet")
        return self._latest

    async def answer(self, nonce: bytes) -> bytes:
        """Encoded evidence for one challenger.

        Raises:
            BadRequestError: not a nonce.
            BusyError: too many challengers wait.
            UnavailableError: the hardware did not answer.
        """
        if len(nonce) != NONCE_SIZE:
            raise BadRequestError(f"send a nonce of {NONCE_SIZE} bytes, not {len(nonce)}", "bad_nonce")
        if len(self._waiting) >= WAITING_MAX:
            raise BusyError("too many challenges wait for the hardware: try again", "busy")
        result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((nonce, result))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await result

    async def close(self) -> None:
        """Wait for a quote that is being made."""
        while self._working is not None:
            await asyncio.wait([self._working])

    async def _work(self) -> None:
        try:
            await asyncio.sleep(WINDOW_S)
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                await self._serve(batch)
        finally:
            self._working = None

    async def _serve(self, batch: Sequence[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        nonces = [nonce for nonce, _ in batch]
        try:
            attestation = await asyncio.to_thread(self._quote, nonces)
            self._latest = attestation.transcript.digest()
            for (_, result), proof in zip(batch, inclusion_proofs(nonces), strict=True):
                if not result.done():
                    result.set_result(encode_evidence(attestation.evidence(proof)))
                    await asyncio.sleep(0)  # a document takes a millisecond; answers that are streaming go on
        except Exception as error:  # noqa: BLE001  drivers fail in many ways, and nobody may wait for ever
            if isinstance(error, RestartNeededError):
                logger.error("the guest must restart: %s", error)  # noqa: TRY400
            elif not isinstance(error, AttesterError):
                logger.error("the hardware did not attest: %s", type(error).__name__)  # noqa: TRY400
            for _, result in batch:
                if not result.done():
                    result.set_exception(
                        UnavailableError("the hardware could not attest: try again", "attestation_failed")
                    )

    def _quote(self, nonces: Sequence[bytes]) -> Attestation:
        return self._attester.attest(replace(self._base, nonce_root=nonce_root(nonces)))
