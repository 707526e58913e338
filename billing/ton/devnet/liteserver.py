"""Answers lite-server queries from a running chain; the table in the constructor names a method for each query."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from billing.errors import BillingError, MessageRejectedError
from billing.ton.devnet import tl
from billing.ton.devnet.adnl import ConnectionLostError
from billing.ton.devnet.archive import Archive
from billing.ton.devnet.blocks import BASECHAIN, MASTERCHAIN, BlockId
from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.cells import Builder, Cell
from billing.ton.devnet.errors import DevnetError
from billing.ton.devnet.faults import Fault, FaultKind, Target
from billing.ton.devnet.links import Links
from billing.ton.devnet.messages import AccountId, account_program
from billing.ton.devnet.node import DevnetNode
from billing.ton.devnet.proofs import account_proof, config_proof, shard_proof
from billing.ton.devnet.snapshot import Snapshot
from billing.ton.devnet.tl import MalformedQueryError, TlReader, TlWriter, answer

REFUSED, NOT_READY = 651, 652  # error codes lite-servers use: cannot apply; timed out
_VERSION, _CAPABILITIES = 0x101, 7
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
            "getAccountState": self._account_state,
            "runSmcMethod": self._run_method,
            "getShardInfo": self._shard_info,
            "getAllShardsInfo": self._all_shards,
            "getConfigAll": self._config,
            "getConfigParams": self._config,
            "getLibraries": self._libraries,
            **Archive(node.store).queries(),
            **Links(node).queries(),
        }
        self._proved_shards: tuple[BlockId | None, bytes] = (None, b"")

    async def answer(self, query: bytes) -> bytes:
        """Answer one query; refusals become liteServer.error.

        Raises:
            ConnectionLostError: an injected fault wants no answer.
        """
        try:
            fault = self._node.faults.take(Target.QUERY)
            if fault is not None:
                await _spoil(fault)
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
        return self._end_of_info(answer("masterchainInfo").block(self._shown_head().master))

    def _shown_head(self) -> Snapshot:
        fault = self._node.faults.take(Target.HEAD)
        if fault is None:
            return self._node.newest
        return self._node.oldest if fault.kind is FaultKind.OLD_BLOCK else self._node.invent(fault.kind)

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

    def _account_state(self, reader: TlReader) -> bytes:
        snapshot, account = self._node.snapshot(reader.block()), reader.account()
        self._check_workchain(account)
        found = snapshot.account(account)
        state = b"" if found is None else encode_boc(found.state)
        fault = None if found is None else self._node.faults.take(Target.STATE)
        if found is not None and fault is not None and fault.kind is FaultKind.FORGE_STATE:
            state = encode_boc(_forged(found.state))
        proved = self._node.oldest if fault is not None and fault.kind is FaultKind.WRONG_PROOF else snapshot
        writer = answer("accountState").block(snapshot.master).block(snapshot.ids[account.workchain])
        proof = b"" if account.workchain == MASTERCHAIN else self._shard_proof(snapshot)
        return writer.octets(proof).octets(account_proof(proved, account)).octets(state).done()

    def _shard_proof(self, snapshot: Snapshot) -> bytes:
        if self._proved_shards[0] != snapshot.master:
            self._proved_shards = (snapshot.master, shard_proof(snapshot))
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


async def _spoil(fault: Fault) -> None:
    """Keep a query waiting, for ever or for a while, or end its connection."""
    if fault.kind is FaultKind.DISCONNECT:
        raise ConnectionLostError("connection ended by an injected fault")
    if fault.delay_s:
        await asyncio.sleep(fault.delay_s)
    else:
        await asyncio.Event().wait()  # until the client gives up and closes the connection
