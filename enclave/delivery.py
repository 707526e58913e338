"""The second half of a sealed request's life: from the opened body to the receipt, and to exactly one settlement.

    read the body -> reserve -> engine -> sealed frames -> receipt on disk -> receipt frame

Everything from here on is said inside the seal. A good answer is charged. A failed one is not. One whose client left is
charged for what was handed over by then, and so is one that its client reads so slowly, or that is so long, that its
receipt would come too late to be paid.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from attestation.chunks import CHUNK_MAX
from attestation.errors import EnvelopeError
from attestation.frames import FrameType, ResponseHash, encode_frame, parse_plain_request
from attestation.sealing import OpenedRequest, ResponseSealer
from billing.grant import ANSWER_GRACE_S
from billing.money import Nanotons
from billing.tariff import Usage
from enclave.answer import AnswerShape, gather_pieces
from enclave.credit import Lease
from enclave.engine import Ask, AskError, Engine, EngineStopped, Piece
from enclave.errors import BadRequestError, CreditError, RequestError, UnavailableError, refusal_of
from enclave.front import Exchange
from enclave.models import worker_lost
from enclave.openai import ChatAsk, parse_ask
from enclave.receipts import ReceiptDesk

logger = logging.getLogger(__name__)

SEALED = "application/octet-stream"
NOTHING = Piece(text="", output_tokens=0)
INLINE_BYTES = 4096  # longer prompts are made tokens in a thread: a megabyte takes seconds


@dataclass(slots=True)
class Counters:
    """What this instance has done since its start."""

    active: int = 0
    served: int = 0
    failed: int = 0
    abandoned: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a delivery needs of the process around it."""

    counters: Counters
    coalesce_s: float
    cache_salt: Callable[[bytes], bytes]
    receipt: Callable[[OpenedRequest, Usage, Nanotons, bytes], bytes]  # with the response hash -> a receipt's body
    receipts: ReceiptDesk
    nonce: Callable[[], bytes]  # `NONCE` fresh random bytes


class Delivery:
    """One answer on its way: what was reserved, what was handed over, and whether it is settled."""

    def __init__(
        self, host: Host, opened: OpenedRequest, lease: Lease, engine: Engine, exchange: Exchange, *, began: datetime
    ) -> None:
        self._host, self._opened, self._lease, self._began = host, opened, lease, began
        self._engine, self._exchange = engine, exchange
        self._sealer = ResponseSealer(opened.content_key, opened.request_hash, host.nonce())
        self._hash = ResponseHash()
        self._reserved: Nanotons | None = None  # until it is settled
        self._prompt_tokens = 0
        self._delivered = NOTHING  # the last one that the connection took
        self._held = b""  # a DATA frame to be sent together with the receipt
        self._begun = False
        self._late = False  # the lease ended before the answer did

    async def run(self) -> None:
        """Answer.

        Raises:
            UnavailableError: nothing was sent yet, and another host of the lease may answer.
            ConnectionError: the client is gone; what it got is settled.
        """
        # what is receipted after the lease's hold was released is not paid: end before
        self._exchange.interrupt_in(self._lease.not_after + ANSWER_GRACE_S - self._began.timestamp())
        try:
            self._finish_good(*await self._generate())
        except (asyncio.CancelledError, ConnectionError) as error:
            self._abandon()
            if not self._exchange.interrupted:
                raise
            self._late = True
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            self._fail(error)
        except Exception as error:  # noqa: BLE001  no text of an unforeseen error may leave: it could quote a prompt
            self._settle(0)
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Say what went wrong, inside the seal."""
        self._host.counters.failed += 1
        refusal = _too_late() if self._late else _refusal(error)
        if isinstance(refusal, UnavailableError) and not self._begun:
            raise refusal from None
        self._held = b""
        self._finish(encode_frame(FrameType.ERROR, refusal.encode_sealed()))

    async def _generate(self) -> tuple[Usage, Nanotons]:
        """Have the answer made and, of a stream, sent: what it used, and what that costs."""
        endpoint, body = parse_plain_request(self._opened.body)
        asked = parse_ask(endpoint, body)
        short = len(body) <= INLINE_BYTES
        ask = self._prepare(asked, self._tokens(asked) if short else await asyncio.to_thread(self._tokens, asked))
        shape = self._shape(asked)
        async with aclosing(self._engine.answer(ask)) as pieces:
            if asked.stream:
                return await self._stream(asked, shape, pieces)
            return await self._collect(shape, pieces)

    def _tokens(self, asked: ChatAsk) -> tuple[int, ...]:
        return self._engine.render(asked.messages) if asked.messages else self._engine.tokenize(asked.prompt)

    def _prepare(self, asked: ChatAsk, prompt: tuple[int, ...]) -> Ask:
        """Money set aside for the most that the prompt and its answer can cost."""
        max_tokens = asked.max_tokens or max(1, self._engine.context - len(prompt))
        if len(prompt) + max_tokens > self._engine.context:
            raise BadRequestError(
                f"this model reads {self._engine.context} tokens; the prompt has {len(prompt)} and max_tokens is "
                f"{max_tokens}: shorten one of them",
                "context_length_exceeded",
                "messages" if asked.messages else "prompt",
            )
        self._prompt_tokens = len(prompt)
        self._reserved = self._lease.reserve(len(prompt), max_tokens, self._opened.header.price_cap)
        return Ask(
            prompt=prompt,
            max_tokens=max_tokens,
            cache_salt=self._salt(),
            temperature=asked.temperature,
            top_p=asked.top_p,
            stop=asked.stop,
            whole=not asked.stream,
        )

    def _salt(self) -> bytes:
        lease = self._lease
        if not lease.cache_salt:
            lease.cache_salt = self._host.cache_salt(lease.account)
        return lease.cache_salt

    def _shape(self, asked: ChatAsk) -> AnswerShape:
        """The id comes from the request hash, so that the receipt can be found by it."""
        name = self._opened.request_hash.hex()[:32]
        return AnswerShape(
            endpoint=asked.endpoint,
            id=f"chatcmpl-{name}" if asked.messages else f"cmpl-{name}",
            created=int(self._began.timestamp()),
            model=asked.model,
        )

    async def _stream(
        self, asked: ChatAsk, shape: AnswerShape, pieces: AsyncGenerator[Piece, None]
    ) -> tuple[Usage, Nanotons]:
        opening, later = shape.opening(first=True), shape.opening(first=False)
        window = self._host.coalesce_s
        async with aclosing(gather_pieces(pieces, window) if window else pieces) as events:
            async for piece in events:
                if piece.text or piece.finish:
                    await self._send(shape.chunk(opening, piece.text, piece.finish), piece)
                    opening = later
                if piece.finish:
                    break
            else:
                raise EngineStopped("the engine ended without a last piece")
        usage = self._usage(self._delivered)
        price = self._price(usage)
        if asked.include_usage:
            self._hold(shape.usage_chunk(usage, price))
        return usage, price

    async def _collect(self, shape: AnswerShape, pieces: AsyncGenerator[Piece, None]) -> tuple[Usage, Nanotons]:
        texts: list[str] = []
        async for piece in pieces:
            texts.append(piece.text)
            if piece.finish:
                usage = self._usage(piece)
                price = self._price(usage)
                self._hold(shape.whole("".join(texts), piece.finish, usage, price))
                return usage, price
        raise EngineStopped("the engine ended without a last piece")

    async def _send(self, payload: bytes, piece: Piece) -> None:
        """Hand over one DATA frame; it counts as delivered once the connection took it."""
        await self._write(self._sealer.seal(encode_frame(FrameType.DATA, payload)))
        self._hash.add(payload)
        self._delivered = piece

    def _hold(self, payload: bytes) -> None:
        """A DATA frame that leaves together with the receipt."""
        if len(payload) >= CHUNK_MAX:
            raise BadRequestError("the answer is too long for one piece: ask with stream", "answer_too_long", "stream")
        self._held = encode_frame(FrameType.DATA, payload)
        self._hash.add(payload)

    def _finish_good(self, usage: Usage, price: Nanotons) -> None:
        """Have the receipt made, settle, and only then say that the answer is whole."""

        def made(receipt: bytes) -> None:
            self._settle(price)
            self._host.counters.served += 1
            self._host.counters.output_tokens += usage.completion_tokens
            self._finish(encode_frame(FrameType.RECEIPT, receipt))

        body = self._receipt(usage, price)
        if self._exchange.alone:  # nobody to share a signature with
            made(self._host.receipts.make(body))
            return
        order = self._host.receipts.add(body, made, self._not_receipted)

        def lost() -> None:
            order.withdrawn = True
            self._abandon()

        self._exchange.finish_later(lost)

    def _not_receipted(self, error: Exception) -> None:
        self._settle(0)
        try:
            self._fail(error)
        except Exception:  # noqa: BLE001  nobody is above this to say anything, and the client must not wait
            self._exchange.cut()

    def _price(self, usage: Usage) -> Nanotons:
        price = self._lease.price(usage)
        if self._reserved is None or price > self._reserved:  # an engine's mistake must not cost more than was agreed
            raise _miscounted()
        return price

    def _receipt(self, usage: Usage, price: Nanotons) -> bytes:
        return self._host.receipt(self._opened, usage, price, self._hash.digest())

    def _finish(self, frame: bytes) -> None:
        """Send what is held and the last frame: as a whole answer if nothing was sent before."""
        held = self._sealer.seal(self._held) if self._held else b""
        last = held + self._sealer.seal(frame, last=True)
        if self._begun:
            self._exchange.end(last)
        else:
            self._exchange.reply(200, last, SEALED)

    def _abandon(self) -> None:
        """The client is gone: charge what it got, unless that is settled already."""
        if self._reserved is None:
            return
        self._host.counters.abandoned += 1
        if not self._delivered.output_tokens:
            self._settle(0)
            return
        try:
            usage = self._usage(self._delivered)
            price = self._price(usage)
            self._host.receipts.make(self._receipt(usage, price))
        except RequestError as error:
            self._settle(0)
            logger.error("an abandoned answer is not charged: %s", error)  # noqa: TRY400
        else:
            self._settle(price)
            self._host.counters.output_tokens += usage.completion_tokens

    def _settle(self, price: int) -> None:
        if self._reserved is not None:
            self._lease.settle(self._reserved, price)
            self._reserved = None

    def _usage(self, piece: Piece) -> Usage:
        """What the answer used up to `piece`."""
        try:
            return Usage(
                prompt_tokens=self._prompt_tokens,
                completion_tokens=piece.output_tokens,
                cached_tokens=piece.cached_tokens,
                reasoning_tokens=piece.reasoning_tokens,
            )
        except ValueError:
            raise _miscounted() from None

    async def _write(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._exchange.begin(SEALED)
        await self._exchange.send(data)


def _miscounted() -> RequestError:
    return RequestError("the engine of this host miscounted: try another host", "internal_error")


def _too_late() -> CreditError:
    return CreditError(
        "the lease ended before the answer did: take a new lease, and read answers as they come", "lease_expired"
    )


def _refusal(error: BaseException) -> RequestError:
    """What the client hears. Texts come from us only; whatever else happened is logged by its type."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EnvelopeError):
        return refusal_of(error)
    if isinstance(error, AskError) and error.code != "engine_error":
        return BadRequestError(error.message, error.code, error.param)
    if isinstance(error, EngineStopped):
        return worker_lost()
    logger.error("an answer failed: %s", type(error).__name__)
    return RequestError("the host failed on this request: try another host", "internal_error")
