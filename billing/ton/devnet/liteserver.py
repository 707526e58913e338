"""Answers lite-server queries from a running chain; the table in the constructor names a method for each query."""

from __future__ import annotations

import logging
from collections.abc import Callable

from billing.errors import BillingError, MessageRejectedError
from billing.ton.devnet import tl
from billing.ton.devnet.adnl import ConnectionLostError
from billing.ton.devnet.blocks import BASECHAIN, MASTERCHAIN, WHOLE_SHARD, BlockId
from billing.ton.devnet.boc import encode_boc, parse_one
from billing.ton.devnet.cells import Builder, Cell
from billing.ton.devnet.chain import Snapshot
from billing.ton.devnet.errors import DevnetError, UnknownBlockError
from billing.ton.devnet.messages import AccountId, account_program
from billing.ton.devnet.node import DevnetNode
from billing.ton.devnet.proofs import account_proof, config_proof, header_proof, shard_proof, transactions_proof
from billing.ton.devnet.store import StoredTransaction
from billing.ton.devnet.tl import MalformedQueryError, TlReader, TlWriter, answer

REFUSED, NOT_READY = 651, 652  # error codes lite-servers use: cannot apply; timed out
_VERSION, _CAPABILITIES = 0x101, 7
_TRANSACTIONS_PER_ANSWER_MAX = 16
_BLOCK_TRANSACTIONS_PER_ANSWER_MAX = 256
_WAIT_MAX_S = 30.0
_NO_CODE = -256  # exit code lite-servers give for an account without code

_log = logging.getLogger(__name__)


class LiteServer:
    """Turns a query's bytes into an answer's bytes."""

    def __init__(self, node: DevnetNode) -> None:
        self._node = node
        self._methods: dict[str, Callable[[TlReader], bytes]] = {
            "getMasterchainInfo": self._masterchain_info,
            "getMasterchainInfoExt": self._masterchain_info_ext,
            "getTime": self._time,
            "getVersion": self._version,
            "getBlock": self._block,
            "getBlockHeader": self._block_header,
            "lookupBlock": self._lookup_block,
            "getAccountState": self._account_state,
            "runSmcMethod": self._run_method,
            "getShardInfo": self._shard_info,
            "getAllShardsInfo": self._all_shards,
            "getTransactions": self._transactions,
            "getOneTransaction": self._one_transaction,
            "listBlockTransactions": self._block_transactions,
            "listBlockTransactionsExt": self._block_transactions_ext,
            "getConfigAll": self._config,
            "getConfigParams": self._config,
            "getLibraries": self._libraries,
        }
        self._proved_shards: tuple[int, bytes] = (-1, b"")

    async def answer(self, query: bytes) -> bytes:
        """Answer one query; refusals become liteServer.error.

        Raises:
            ConnectionLostError: an injected fault wants no answer.
        """
        try:
            return await self._dispatch(TlReader(query))
        except ConnectionLostError:
            raise
        except BillingError as error:
            return tl.error(REFUSED, str(error))
        except Exception:  # noqa: BLE001  # one bad query must not end the server; the trace is in the log
            _log.exception("query failed")
            return tl.error(REFUSED, "internal error of the devnet; its log has the trace")

    async def _dispatch(self, reader: TlReader) -> bytes:
        number = reader.take(4)
        if number == tl.WAIT_MASTERCHAIN:
            seqno, timeout_s = reader.number(), reader.number() / 1000
            if not await self._node.wait_for(seqno, min(timeout_s, _WAIT_MAX_S)):
                return tl.error(NOT_READY, f"timeout: block {seqno} is not there yet")
            number = reader.take(4)
        name = tl.QUERY_NAMES.get(number)
        if name == "sendMessage":
            return await self._send(reader)
        if name is None:
            raise MalformedQueryError(f"unknown query {number.hex()}: this lite-server does not offer it")
        return self._methods[name](reader)

    async def _send(self, reader: TlReader) -> bytes:
        try:
            await self._node.send(reader.octets())
        except MessageRejectedError as error:
            return tl.error(REFUSED, f"cannot apply external message to current state : {error}")
        return answer("sendMsgStatus").number(1).done()

    def _masterchain_info(self, _: TlReader) -> bytes:
        return self._end_of_info(answer("masterchainInfo").block(self._node.newest.master))

    def _masterchain_info_ext(self, _: TlReader) -> bytes:
        newest = self._node.newest
        writer = answer("masterchainInfoExt").number(0).number(_VERSION).long(_CAPABILITIES).block(newest.master)
        return self._end_of_info(writer.number(newest.moment.now).number(self._node.clock.now()))

    def _end_of_info(self, writer: TlWriter) -> bytes:
        zero = self._node.chain.zero_state
        writer.raw(self._node.newest.states[MASTERCHAIN].hash())
        return writer.number(MASTERCHAIN).raw(zero.root_hash).raw(zero.file_hash).done()

    def _time(self, _: TlReader) -> bytes:
        return answer("currentTime").number(self._node.clock.now()).done()

    def _version(self, _: TlReader) -> bytes:
        return answer("version").number(0).number(_VERSION).long(_CAPABILITIES).number(self._node.clock.now()).done()

    def _block(self, reader: TlReader) -> bytes:
        name = reader.block()
        return answer("blockData").block(name).octets(self._stored_block(name)).done()

    def _block_header(self, reader: TlReader) -> bytes:
        name = reader.block()
        return self._header(name, self._stored_block(name))

    def _lookup_block(self, reader: TlReader) -> bytes:
        mode, workchain, shard, seqno = reader.number(), reader.number(), reader.long(), reader.number()
        if shard & (2 * WHOLE_SHARD - 1) != WHOLE_SHARD:
            raise MalformedQueryError("this chain has the shard 8000000000000000 only")
        store = self._node.store
        if mode & 1:
            found = store.block(workchain, seqno)
        elif mode & 2:
            found = store.block_by_lt(workchain, reader.long())
        elif mode & 4:
            found = store.block_by_time(workchain, reader.number())
        else:
            raise MalformedQueryError(f"lookup mode {mode}: give seqno (1), lt (2) or unix time (4)")
        if found is None:
            raise UnknownBlockError("block is not in db: no block of that number, lt or time")
        return self._header(*found)

    def _header(self, name: BlockId, boc: bytes) -> bytes:
        proof = encode_boc(header_proof(parse_one(boc)))
        return answer("blockHeader").block(name).number(0).octets(proof).done()

    def _stored_block(self, name: BlockId) -> bytes:
        found = self._node.store.block(name.workchain, name.seqno)
        if found is None or found[0] != name:
            raise UnknownBlockError(f"block {name} is not in db")
        return found[1]

    def _account_state(self, reader: TlReader) -> bytes:
        snapshot, account = self._node.snapshot(reader.block()), reader.account()
        self._check_workchain(account)
        found = snapshot.account(account)
        state = b"" if found is None else encode_boc(found.state)
        if found is not None and self._node.faults.next_forgery():
            state = encode_boc(_forged(found.state))
        writer = answer("accountState").block(snapshot.master).block(snapshot.ids[account.workchain])
        proof = b"" if account.workchain == MASTERCHAIN else self._shard_proof(snapshot)
        return writer.octets(proof).octets(account_proof(snapshot, account)).octets(state).done()

    def _shard_proof(self, snapshot: Snapshot) -> bytes:
        if self._proved_shards[0] != snapshot.seqno:
            self._proved_shards = (snapshot.seqno, shard_proof(snapshot))
        return self._proved_shards[1]

    def _check_workchain(self, account: AccountId) -> None:
        if account.workchain not in (MASTERCHAIN, BASECHAIN):
            raise DevnetError(f"account {account}: this network has workchains 0 and -1 only")

    def _run_method(self, reader: TlReader) -> bytes:
        mode, snapshot, account = reader.number(), self._node.snapshot(reader.block()), reader.account()
        method_id, stack = reader.long(), reader.octets()
        self._check_workchain(account)
        exit_code, result = self._run(snapshot, account, method_id, stack)
        writer = answer("runMethodResult").number(mode & 7)
        writer.block(snapshot.master).block(snapshot.ids[account.workchain])
        if mode & 1:
            writer.octets(self._shard_proof(snapshot)).octets(account_proof(snapshot, account))
        if mode & 2:
            found = snapshot.account(account)
            writer.octets(b"" if found is None else encode_boc(found.state))
        writer.number(exit_code)
        return (writer.octets(result) if mode & 4 else writer).done()

    def _run(self, snapshot: Snapshot, account: AccountId, method_id: int, stack: bytes) -> tuple[int, bytes]:
        found = snapshot.account(account)
        program = account_program(found) if found else None
        if found is None or program is None:
            return _NO_CODE, b""
        code, data = program
        done = self._node.emulator.run_get_method(
            code=encode_boc(code),
            data=encode_boc(data),
            address=str(account),
            method_id=method_id,
            stack=stack,
            now=snapshot.moment.now,
            balance=found.amount,
        )
        return done.exit_code, done.stack

    def _shard_info(self, reader: TlReader) -> bytes:
        snapshot = self._node.snapshot(reader.block())
        leaf = snapshot.shards.refs[0]
        writer = answer("shardInfo").block(snapshot.master).block(snapshot.ids[BASECHAIN])
        return writer.octets(self._shard_proof(snapshot)).octets(encode_boc(leaf)).done()

    def _all_shards(self, reader: TlReader) -> bytes:
        snapshot = self._node.snapshot(reader.block())
        shards = Builder().uint(1, 1).ref(snapshot.shards).cell()
        writer = answer("allShardsInfo").block(snapshot.master).octets(self._shard_proof(snapshot))
        return writer.octets(encode_boc(shards)).done()

    def _transactions(self, reader: TlReader) -> bytes:
        count, account, lt, digest = reader.number(), reader.account(), reader.long(), reader.take(32)
        if not 1 <= count <= _TRANSACTIONS_PER_ANSWER_MAX:
            raise MalformedQueryError(f"{count} transactions: ask for 1 to {_TRANSACTIONS_PER_ANSWER_MAX}")
        found = self._node.store.transactions(account, lt, count)
        if not found or found[0].lt != lt or found[0].hash != digest:
            raise DevnetError(f"transaction hash mismatch: account {account} has no transaction {lt}:{digest.hex()}")
        names = [self._block_name(account.workchain, done.seqno) for done in found]
        writer = answer("transactionList").number(len(found))
        for name in names:
            writer.block(name)
        return writer.octets(encode_boc(*(parse_one(done.boc) for done in found))).done()

    def _block_name(self, workchain: int, seqno: int) -> BlockId:
        name = self._node.store.block_name(workchain, seqno)
        if name is None:
            raise UnknownBlockError(f"block {workchain}:{seqno} is not in db")
        return name

    def _one_transaction(self, reader: TlReader) -> bytes:
        name, account, lt = reader.block(), reader.account(), reader.long()
        block = parse_one(self._stored_block(name))
        inside = self._node.store.block_transactions(name.workchain, name.seqno)
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
        block = parse_one(self._stored_block(name))
        inside = self._node.store.block_transactions(name.workchain, name.seqno)
        chosen = inside[::-1] if mode & 64 else inside
        if mode & 128:
            after = (reader.take(32), reader.long())
            places = [(done.account.id, done.lt) for done in chosen]
            chosen = chosen[places.index(after) + 1 :] if after in places else []
        page = chosen[: min(max(count, 1), _BLOCK_TRANSACTIONS_PER_ANSWER_MAX)]
        proof = b""
        if mode & 32:
            proof = encode_boc(transactions_proof(block, [done.hash for done in inside]))
        return name, count, page, len(page) < len(chosen), proof

    def _config(self, reader: TlReader) -> bytes:
        mode, snapshot = reader.number(), self._node.snapshot(reader.block())
        block, state = config_proof(snapshot)
        return answer("configInfo").number(mode & 0xFFFF).block(snapshot.master).octets(block).octets(state).done()

    def _libraries(self, _: TlReader) -> bytes:
        return answer("libraryResult").number(0).done()  # no library is published on this chain


def _forged(state: Cell) -> Cell:
    """An account state with its last bit of balance or state flipped, for the fault of that name."""
    data = bytearray(state.data)
    data[-2] ^= 0x10
    return Cell(bytes(data), state.bit_length, state.refs)
