"""Reading the chain and sending to it, through one lite-server over ADNL, with every answer's proof checked.

pytoniq carries the connection and the protocol; the checks of `billing.ton.proofs` and `billing.ton.block_proof` decide
what is believed. A lite-server that lies about anything below the masterchain block it names is refused by name
(`ProofRejectedError`), one that shows old blocks likewise (`StaleChainError`). At trust level 0 the masterchain block
itself must carry the signatures of the validators, followed from a key block in the settings. At trust level 1 it need
not: a server that invents a whole block is believed, so that level is for servers of one's own.

With a second server (`ChainConfig.second`) both must name the same block of each number that anything is believed from;
all else is proved from it (`ChainsDisagreeError`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteClientError, LiteServerError
from pytoniq_core import Address, Cell

from billing.errors import (
    ChainsDisagreeError,
    ChainUnreachableError,
    MessageRejectedError,
    ProofRejectedError,
    SendOutcomeUnknownError,
    StaleChainError,
)
from billing.ton.block_proof import Validators, follow_links
from billing.ton.cells import MESSAGE_BYTES_MAX, parse_cells
from billing.ton.chain_config import DEVNET, MAINNET, TESTNET, ChainConfig, LiteServerConfig
from billing.ton.proofs import AccountState, Block, Head, prove_account
from billing.ton.transaction import Transaction, parse_transaction

__all__ = ["DEVNET", "MAINNET", "TESTNET", "ChainClient", "ChainConfig", "LiteServerConfig"]

_log = logging.getLogger(__name__)
_TROUBLE = (LiteClientError, OSError, EOFError, TimeoutError, AttributeError, KeyError, TypeError, ValueError)
_ATTEMPTS = 3
_TRANSACTIONS_PER_QUERY = 16  # the lite-server protocol's limit
_FIRST_PAGE = 4  # mostly few are new, and each may have 128 out-messages to parse; pages then grow
_ANYBODY = Address((0, bytes(32)))  # the proof of any account, also of an absent one, begins with that of the head
_BEHIND_POLL_S = 0.2  # between looks at a second server that has not got the newest block yet
_KEEP_LISTENING = "keep-listening"
T = TypeVar("T")


class ChainClient:
    """One lite-server connection that reconnects by itself. Use `connect`, and `close` at the end.

    A pytoniq client that lost its connection is not used again: it closes itself in steps, and a query made meanwhile
    would never be answered.
    """

    def __init__(self, config: ChainConfig, *, clock: Callable[[], datetime] | None = None) -> None:
        self.config = config
        self._clock = clock or (lambda: datetime.now(UTC))
        self._link: LiteClient | None = _make_link(config)  # None between a lost connection and the next
        self._connecting = asyncio.Lock()
        self._seqno = 0  # the newest masterchain block proved so far
        self._key_block = config.trusted_block  # the newest key block proved so far; None at trust level 1
        self._validators: dict[bytes, Validators] = {}  # that proved key blocks name
        self._signed: Block | None = None  # the newest block whose signatures were checked
        self._second = None if config.second is None else ChainClient(config.of_second(config.second), clock=clock)
        self._agreed: Block | None = None  # the last block that both servers named

    @classmethod
    async def connect(cls, config: ChainConfig, *, clock: Callable[[], datetime] | None = None) -> ChainClient:
        """A connected client, after the head of the chain was proved once.

        Raises:
            ChainUnreachableError: nobody answers there, or not with this key.
            ProofRejectedError, StaleChainError, WrongNetworkError: what answers is not the chain.
        """
        client = cls(config, clock=clock)
        try:
            await client.head()
        except BaseException:
            await client.close()
            raise
        return client

    async def close(self) -> None:
        """End the connections."""
        if self._link is not None:
            await self._drop(self._link)
        if self._second is not None:
            await self._second.close()

    async def __aenter__(self) -> ChainClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def head(self) -> Head:
        """The newest masterchain block, with number, network and time proved from its state.

        Raises:
            ChainUnreachableError: no answer.
            StaleChainError: the block is older than allowed, or than one seen before.
        """
        return (await self.account(_ANYBODY)).head

    async def account(self, address: Address) -> AccountState:
        """The account as of the newest masterchain block, proved; also that it does not exist, if so.

        Raises:
            ChainUnreachableError, StaleChainError: it could not be asked, or the second server is behind for too long.
            ProofRejectedError: the answer does not prove what it says.
            ChainsDisagreeError: the second server names another block of this number.
        """
        seen, known = self._seqno, self._key_block  # before asking: other reads may move on meanwhile
        block = await self._newest_block()
        await self._check_signed(block, known)
        await self._agree(block)
        query = {"id": block.fields(), "account": address.to_tl_account_id()}
        answer = await self._ask("getAccountState", query)
        with _fields_of("getAccountState"):
            state = prove_account(block, answer, address, self.config.network_id)
        self._check_current(state.head, seen)
        return state

    async def history(self, state: AccountState) -> AsyncGenerator[Transaction, None]:
        """The account's transactions, newest first, each chained by hash to its proved state.

        Raises:
            ProofRejectedError: a link of the chain does not hold.
            ChainUnreachableError: the server no longer has them, or there are more than `history_max`.
        """
        lt, digest = state.last_lt, state.last_hash
        page, read = _FIRST_PAGE, 0
        while lt:
            for cell in await self._history(state.address, lt, digest, count=page):
                if read == self.config.history_max:
                    raise ChainUnreachableError("reading the history", f"over {read} transactions")
                if cell.hash != digest:
                    raise ProofRejectedError("the history", f"{cell.hash.hex()} where {digest.hex()} belongs")
                transaction = parse_transaction(cell, state.address.hash_part)
                if transaction.lt != lt or transaction.previous_lt >= lt:
                    raise ProofRejectedError("the history", f"logical time {transaction.lt} where {lt} belongs")
                yield transaction
                lt, digest = transaction.previous_lt, transaction.previous_hash
                read += 1
            page = min(2 * page, _TRANSACTIONS_PER_QUERY)

    async def transactions(self, state: AccountState, *, after_lt: int = 0) -> tuple[Transaction, ...]:
        """The account's transactions after a logical time, oldest first; raises as `history` does."""
        newest_first: list[Transaction] = []
        async with contextlib.aclosing(self.history(state)) as history:
            async for transaction in history:
                if transaction.lt <= after_lt:
                    break
                newest_first.append(transaction)
        return tuple(reversed(newest_first))

    async def send(self, boc: bytes) -> None:
        """Hand an external message to the network. That it was taken up is shown only by a proved state.

        Raises:
            MessageRejectedError: the server refused it; it was not sent on.
            SendOutcomeUnknownError: the connection broke; it may have been sent. Resend the same bytes only.
            ChainUnreachableError: it was certainly not sent.
        """
        if len(boc) > MESSAGE_BYTES_MAX:
            raise ValueError(f"an external message has at most {MESSAGE_BYTES_MAX} bytes, this one {len(boc)}")
        link = await self._ensure_connected()
        try:
            await self._within_time(link.raw_send_message(boc))
        except LiteServerError as error:
            raise MessageRejectedError(str(error.message)) from error
        except _TROUBLE as error:
            await self._drop(link)
            message_hash = Cell.one_from_boc(boc).hash.hex()
            raise SendOutcomeUnknownError(message_hash, type(error).__name__) from error

    async def wait_for(
        self,
        address: Address,
        condition: Callable[[AccountState], bool],
        *,
        timeout_s: float = 30.0,
        poll_s: float = 0.05,
    ) -> AccountState:
        """The account's state as soon as `condition` holds for it.

        Raises:
            TimeoutError: it did not come to hold in time.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                state = await self.account(address)
                if condition(state):
                    return state
                await asyncio.sleep(poll_s)

    def _check_current(self, head: Head, seen: int) -> None:
        """Refuse a head that cannot be the newest: before one seen when it was asked for, or its time far from ours."""
        if head.seqno < seen:
            raise StaleChainError(head.seqno, f"block {seen} was shown before")
        age = int(self._clock().timestamp()) - head.time
        if abs(age) > self.config.block_age_max_s:
            raise StaleChainError(head.seqno, f"its time is {age} s ago by our clock")
        self._seqno = max(self._seqno, head.seqno)

    async def _check_signed(self, target: Block, known: Block | None) -> None:
        """Follow the validators' signatures from a known key block to `target`, at trust level 0."""
        if known is None or target in (self._signed, known):
            return
        if target.seqno == known.seqno:
            raise ProofRejectedError("the newest block", f"another block {target.seqno} than the key block known")
        if target.seqno < known.seqno:
            raise StaleChainError(target.seqno, f"key block {known.seqno} is known")
        reached = None
        while reached != target:
            query = {"mode": 1, "known_block": known.fields(), "target_block": target.fields()}
            answer = await self._ask("getBlockProof", query)
            with _fields_of("getBlockProof"):
                trail = follow_links(known, target, answer, self.config.network_id, known=self._validators)
            reached, known = trail.reached, trail.key_block
            if reached not in (target, known):
                raise ProofRejectedError("the block proof", f"it ends at block {reached.seqno}, which names nobody")
            if self._key_block is None or known.seqno > self._key_block.seqno:
                self._key_block = known
        self._signed = target

    async def _agree(self, block: Block) -> None:
        """Ask the second server, if there is one, for the block of this number, waiting until it has one."""
        if self._second is None or block == self._agreed:
            return
        deadline = asyncio.get_running_loop().time() + self.config.timeout_s
        while (newest := (await self._second._newest_block()).seqno) < block.seqno:
            if asyncio.get_running_loop().time() > deadline:
                raise StaleChainError(newest, f"the second lite-server is behind the first, which shows {block.seqno}")
            await asyncio.sleep(_BEHIND_POLL_S)
        other = await self._second._block_at(block.seqno)
        if other != block:
            raise ChainsDisagreeError(block.seqno, block.root_hash.hex(), other.root_hash.hex())
        self._agreed = block

    async def _block_at(self, seqno: int) -> Block:
        """The masterchain block of this number, as the server names it."""
        wanted = {"workchain": -1, "shard": -(1 << 63), "seqno": seqno}
        answer = await self._ask("lookupBlock", {"mode": 1, "id": wanted, "lt": None, "utime": None})
        with _fields_of("lookupBlock"):
            return Block.of(answer["id"])

    async def _newest_block(self) -> Block:
        answer = await self._ask("getMasterchainInfo", {})
        with _fields_of("getMasterchainInfo"):
            return Block.of(answer["last"])

    async def _history(self, address: Address, lt: int, digest: bytes, *, count: int) -> list[Cell]:
        query = {"count": count, "account": address.to_tl_account_id(), "lt": lt, "hash": digest.hex()}
        answer = await self._ask("getTransactions", query)
        with _fields_of("getTransactions"):
            cells = parse_cells(answer["transactions"]) if answer["transactions"] else []
        if not cells:
            raise ChainUnreachableError("reading the history", f"the server has no transaction {lt} any more")
        return cells

    async def _ask(self, query: str, fields: dict[str, Any]) -> dict[str, Any]:
        """One query; a broken connection is opened anew, a few times."""
        trouble = "not tried"
        for _ in range(_ATTEMPTS):
            link = await self._ensure_connected()
            try:
                answer = await self._within_time(link.liteserver_request(query, fields))
            except LiteServerError as error:
                raise ChainUnreachableError(query, f"error {error.code}: {error.message}") from error
            except _TROUBLE as error:
                trouble = f"{type(error).__name__}: {error}"
                _log.info("lite-server %s:%d: %s: %s", self.config.host, self.config.port, query, trouble)
                await self._drop(link)
                continue
            if not isinstance(answer, dict):  # bytes that pytoniq reads as something else than an object
                raise ProofRejectedError(f"the answer to {query}", f"a {type(answer).__name__} instead of an object")
            return answer
        raise ChainUnreachableError(query, trouble)

    async def _ensure_connected(self) -> LiteClient:
        async with self._connecting:
            if self._link is not None and self._link.inited and self._link.writer is not None:
                return self._link
            await self.close()
            link = self._link = _make_link(self.config)
            try:
                await self._within_time(link.connect())
            except _TROUBLE as error:
                await self._drop(link)
                where = f"connecting to {self.config.host}:{self.config.port}"
                raise ChainUnreachableError(where, f"{type(error).__name__}: {error}") from error
            except Exception as error:  # pytoniq's own proof checks raise bare Exception
                await self._drop(link)
                raise ProofRejectedError("the newest block", f"{type(error).__name__}: {error}") from error
            await self._take_over(link)
            return link

    async def _drop(self, link: LiteClient) -> None:
        """Close a connection; the next query opens another one."""
        if self._link is link:
            self._link = None
        waiting = link.tasks.pop(_KEEP_LISTENING, None)
        if waiting is not None:
            waiting.cancel()
        await link.close()

    async def _take_over(self, link: LiteClient) -> None:
        """Stop pytoniq's block watcher, which dies on the first error, and its listener's polling.

        The listener sleeps while no answer is awaited, 10 ms lost on average for each query; one answer that never
        comes keeps it reading.
        """
        link.updater.cancel()
        with contextlib.suppress(asyncio.CancelledError, *_TROUBLE):
            await link.updater
        never = asyncio.get_running_loop().create_future()
        never.add_done_callback(lambda done: done.cancelled() or done.exception())
        link.tasks[_KEEP_LISTENING] = never

    async def _within_time(self, answer: Awaitable[T]) -> T:
        async with asyncio.timeout(self.config.timeout_s):
            return await heed_cancel(answer)


async def heed_cancel(answer: Awaitable[T]) -> T:
    """Await `answer`, and be cancelled if that was asked for meanwhile, even when `answer` forgot it.

    Python 3.11's `asyncio.wait_for`, which pytoniq uses, forgets a cancellation that comes together with its result:
    the timeout around it then never ends it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    result = await answer
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return result


def _make_link(config: ChainConfig) -> LiteClient:
    try:
        link = LiteClient(config.host, config.port, config.public_key, trust_level=1, timeout=config.timeout_s)
    except RuntimeError as error:  # the cipher library's word for 32 bytes that are no key
        raise ValueError("public_key must be an Ed25519 key: these 32 bytes are no point of the curve") from error
    link.logger.setLevel(logging.CRITICAL)  # it would log every query's data, and lost connections as crashes
    return link


@contextlib.contextmanager
def _fields_of(query: str) -> Iterator[None]:
    """Name the query in whose answer a field is missing or of another type."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise ProofRejectedError(f"the answer to {query}", f"{type(error).__name__}: {error}") from error
