"""Answers queries about blocks and transactions of the past, from the store."""

from __future__ import annotations

from collections.abc import Callable

from billing.ton.devnet import tl
from billing.ton.devnet.blocks import WHOLE_SHARD, BlockId
from billing.ton.devnet.boc import encode_boc, parse_one
from billing.ton.devnet.errors import DevnetError, UnknownBlockError
from billing.ton.devnet.proofs import header_proof, transactions_proof
from billing.ton.devnet.store import Store, StoredTransaction
from billing.ton.devnet.tl import MalformedQueryError, TlReader, answer

_TRANSACTIONS_PER_ANSWER_MAX = 16  # as public lite-servers
_BLOCK_TRANSACTIONS_PER_ANSWER_MAX = 256
_REVERSE, _AFTER, _WANT_PROOF = 64, 128, 32  # mode bits of listBlockTransactions
_BY_SEQNO, _BY_LT, _BY_TIME = 1, 2, 4  # mode bits of lookupBlock


class Archive:
    """The lite-server's queries that need no state, only what was stored."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def queries(self) -> dict[str, Callable[[TlReader], bytes]]:
        """Name the method for each query."""
        return {
            "getBlock": self._block,
            "getBlockHeader": self._block_header,
            "lookupBlock": self._lookup_block,
            "getTransactions": self._transactions,
            "getOneTransaction": self._one_transaction,
            "listBlockTransactions": self._block_transactions,
            "listBlockTransactionsExt": self._block_transactions_ext,
        }

    def _block(self, reader: TlReader) -> bytes:
        name = reader.block()
        return answer("blockData").block(name).octets(self._body(name)).done()

    def _block_header(self, reader: TlReader) -> bytes:
        name = reader.block()
        return self._header(name, self._body(name))

    def _lookup_block(self, reader: TlReader) -> bytes:
        mode, workchain, shard, seqno = reader.number(), reader.number(), reader.long(), reader.number()
        if shard & (2 * WHOLE_SHARD - 1) != WHOLE_SHARD:
            raise MalformedQueryError("this chain has the shard 8000000000000000 only")
        if mode & _BY_SEQNO:
            found = self._store.block(workchain, seqno)
        elif mode & _BY_LT:
            found = self._store.block_by_lt(workchain, reader.long())
        elif mode & _BY_TIME:
            found = self._store.block_by_time(workchain, reader.number())
        else:
            raise MalformedQueryError(f"lookup mode {mode}: give seqno (1), lt (2) or unix time (4)")
        if found is None:
            raise UnknownBlockError("block is not in db: no block of that number, lt or time")
        return self._header(*found)

    def _header(self, name: BlockId, boc: bytes) -> bytes:
        proof = encode_boc(header_proof(parse_one(boc)))
        return answer("blockHeader").block(name).number(0).octets(proof).done()

    def _body(self, name: BlockId) -> bytes:
        found = self._store.block(name.workchain, name.seqno)
        if found is None or found[0] != name:
            raise UnknownBlockError(f"block {name} is not in db")
        return found[1]

    def _transactions(self, reader: TlReader) -> bytes:
        count, account, lt, digest = reader.number(), reader.account(), reader.long(), reader.take(32)
        if not 1 <= count <= _TRANSACTIONS_PER_ANSWER_MAX:
            raise MalformedQueryError(f"{count} transactions: ask for 1 to {_TRANSACTIONS_PER_ANSWER_MAX}")
        found = self._store.transactions(account, lt, count)
        if not found or found[0].lt != lt or found[0].hash != digest:
            raise DevnetError(f"transaction hash mismatch: account {account} has no transaction {lt}:{digest.hex()}")
        names = [self._block_name(account.workchain, done.seqno) for done in found]
        writer = answer("transactionList").number(len(found))
        for name in names:
            writer.block(name)
        return writer.octets(encode_boc(*(parse_one(done.boc) for done in found))).done()

    def _block_name(self, workchain: int, seqno: int) -> BlockId:
        name = self._store.block_name(workchain, seqno)
        if name is None:
            raise UnknownBlockError(f"block {workchain}:{seqno} is not in db")
        return name

    def _one_transaction(self, reader: TlReader) -> bytes:
        name, account, lt = reader.block(), reader.account(), reader.long()
        block = parse_one(self._body(name))
        inside = self._store.block_transactions(name.workchain, name.seqno)
        wanted = [done.boc for done in inside if done.account == account and done.lt == lt]
        proof = encode_boc(transactions_proof(block, [done.hash for done in inside]))
        return answer("transactionInfo").block(name).octets(proof).octets(wanted[0] if wanted else b"").done()

    def _block_transactions(self, reader: TlReader) -> bytes:
        name, count, page, incomplete, proof = self._page(reader)
        writer = answer("blockTransactions").block(name).number(count).raw(tl.TRUE if incomplete else tl.FALSE)
        writer.number(len(page))
        for done in page:
            writer.number(7).raw(done.account.id).long(done.lt).raw(done.hash)
        return writer.octets(proof).done()

    def _block_transactions_ext(self, reader: TlReader) -> bytes:
        name, count, page, incomplete, proof = self._page(reader)
        writer = answer("blockTransactionsExt").block(name).number(count).raw(tl.TRUE if incomplete else tl.FALSE)
        bodies = encode_boc(*(parse_one(done.boc) for done in page)) if page else b""
        return writer.octets(bodies).octets(proof).done()

    def _page(self, reader: TlReader) -> tuple[BlockId, int, list[StoredTransaction], bool, bytes]:
        """Read a query for a block's transactions and cut out what it asks for."""
        name, mode, count = reader.block(), reader.number(), reader.number()
        block = parse_one(self._body(name))
        inside = self._store.block_transactions(name.workchain, name.seqno)
        chosen = inside[::-1] if mode & _REVERSE else inside
        if mode & _AFTER:
            after = (reader.take(32), reader.long())
            places = [(done.account.id, done.lt) for done in chosen]
            chosen = chosen[places.index(after) + 1 :] if after in places else []
        page = chosen[: min(max(count, 1), _BLOCK_TRANSACTIONS_PER_ANSWER_MAX)]
        proof = b""
        if mode & _WANT_PROOF:
            proof = encode_boc(transactions_proof(block, [done.hash for done in inside]))
        return name, count, page, len(page) < len(chosen), proof
