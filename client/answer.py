"""One answer of one host: opened chunk by chunk, finished only by a receipt that holds."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable

from attestation.errors import EnvelopeError
from attestation.frames import FrameType, ResponseHash, parse_frame
from attestation.sealing import ResponseOpener, SealedRequest
from billing.receipt import Receipt
from client.errors import (
    AnswerError,
    ReceiptInvalidError,
    SealedRefusalError,
    TamperedAnswerError,
    WorkerLostError,
)
from client.lease_manager import LeasedHost, LeaseManager
from client.transport import AnswerLostError, Stream, read_error

CheckReceipt = Callable[[bytes, bytes], Receipt]  # (signed receipt, response hash) -> the receipt, or raises


class Answer:
    """An answer as it arrives.

    Iterate to the end: every item is one JSON object of the OpenAI API, and the end means that the receipt held. An
    answer that breaks, is altered, or carries a wrong receipt raises an `AnswerError` instead of ending. The request
    was counted with `leases.started`; closing the answer counts it no longer.
    """

    def __init__(
        self,
        host: LeasedHost,
        sealed: SealedRequest,
        stream: Stream,
        *,
        leases: LeaseManager,
        confirm: Callable[[], None],
        check: CheckReceipt,
    ) -> None:
        self.host, self.request_hash = host.verdict, sealed.request_hash
        self._host, self._sealed, self._stream = host, sealed, stream
        self._leases, self._confirm, self._check = leases, confirm, check
        self._payloads = self._read()
        self._first: bytes | None = None
        self._receipt: Receipt | None = None
        self._closed = False

    @property
    def receipt(self) -> Receipt:
        """The verified receipt, once the answer was read to its end."""
        if self._receipt is None:
            raise RuntimeError("the receipt comes at the end of the answer: read it first")
        return self._receipt

    async def begin(self) -> None:
        """Wait for the first item; a request that the enclave refuses fails here.

        Raises:
            ClientError: the enclave refused, or the answer broke before it began.
        """
        try:
            self._first = await anext(self._payloads, None)
        except BaseException:
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            if self._first is not None:
                yield self._first
            async for payload in self._payloads:
                yield payload
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop: the host sees the connection close and ends its work. Closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        self._leases.ended(self._host)
        self._stream.close()
        await self._payloads.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        digest, opener = ResponseHash(), ResponseOpener(self._sealed.content_key, self._sealed.request_hash)
        try:
            async for received in self._stream:
                for frame in self._open(opener, received):
                    kind, payload = parse_frame(frame)
                    if self._take(kind, payload, digest):
                        yield payload
            self._check_end(opener)
        except (AnswerError, EnvelopeError, AnswerLostError) as error:
            raise self._judge(error) from error

    def _open(self, opener: ResponseOpener, received: bytes) -> list[bytes]:
        frames = opener.feed(received)
        if frames:
            self._confirm()
        return frames

    def _take(self, kind: FrameType, payload: bytes, digest: ResponseHash) -> bool:
        """Act on one frame; True when it is data for the caller."""
        if self._receipt is not None:
            raise TamperedAnswerError(self._host.name, "frames follow the receipt")
        if kind is FrameType.ERROR:
            raise read_refusal(payload)
        if kind is FrameType.RECEIPT:
            self._receipt = self._check(payload, digest.digest())
            return False
        digest.add(payload)
        return True

    def _check_end(self, opener: ResponseOpener) -> None:
        if not opener.finished:
            raise WorkerLostError(self._host.name, "the connection ended")
        if self._receipt is None:
            raise ReceiptInvalidError(self._host.name, "there is none")

    def _judge(self, error: Exception) -> AnswerError:
        """Name what went wrong; a host that cheated is avoided, one that was lost is only tried last."""
        if isinstance(error, EnvelopeError):
            error = TamperedAnswerError(self._host.name, str(error))
        elif isinstance(error, AnswerLostError):
            error = WorkerLostError(self._host.name, str(error))
        assert isinstance(error, AnswerError)
        if isinstance(error, WorkerLostError):
            self._leases.unreachable(self._host.id)
        else:
            self._leases.avoid(self._host.id, error.why)
        return error


def read_refusal(payload: bytes) -> SealedRefusalError:
    """Read a sealed error frame; it is the enclave's own word, so its message is passed on."""
    try:
        body = json.loads(payload)
        status, error = int(body["status"]), body["error"]
        kind, param = error.get("type"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return SealedRefusalError(502, "malformed_refusal", "server_error", "the host refused without a reason")
    code, message = read_error(body)
    return SealedRefusalError(
        status if 400 <= status <= 599 else 502,
        code,
        kind if isinstance(kind, str) else "server_error",
        message,
        param if isinstance(param, str) else None,
    )
