"""The TL wire format, as far as a lite-server speaks it.

A constructor's number is the CRC-32 of its line in the schema, so the lines below are the schema.
Source: lite_api.tl and ton_api.tl of the TON node.
"""

from __future__ import annotations

import zlib

from billing.ton.devnet.blocks import WHOLE_SHARD, BlockId
from billing.ton.devnet.errors import DevnetError
from billing.ton.devnet.messages import AccountId

_SIGNED_SHARD = WHOLE_SHARD - (1 << 64)
_BLOCK = "tonNode.blockIdExt"


class MalformedQueryError(DevnetError):
    """The bytes are not a query of the schema."""


def constructor(line: str) -> bytes:
    """The four bytes that name a schema line on the wire."""
    return zlib.crc32(line.replace("(", "").replace(")", "").encode()).to_bytes(4, "little")


PING = constructor("tcp.ping random_id:long = tcp.Pong")
PONG = constructor("tcp.pong random_id:long = tcp.Pong")
ADNL_QUERY = constructor("adnl.message.query query_id:int256 query:bytes = adnl.Message")
ADNL_ANSWER = constructor("adnl.message.answer query_id:int256 answer:bytes = adnl.Message")
LITE_QUERY = constructor("liteServer.query data:bytes = Object")
WAIT_MASTERCHAIN = constructor("liteServer.waitMasterchainSeqno seqno:int timeout_ms:int = Object")
ERROR = constructor("liteServer.error code:int message:string = liteServer.Error")
SIGNATURE_SET = (0xF644A6E6).to_bytes(4, "little")  # liteServer.signatureSet.ordinary, whose line names it
TRUE = constructor("boolTrue = Bool")
FALSE = constructor("boolFalse = Bool")


class TlReader:
    """Reads a query front to back; anything unexpected is a `MalformedQueryError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Take so many bytes."""
        self._at += size
        if self._at > len(self._data):
            raise MalformedQueryError(f"the query ended early, after {len(self._data)} bytes")
        return self._data[self._at - size : self._at]

    def number(self) -> int:
        """Take a signed 32-bit number."""
        return int.from_bytes(self.take(4), "little", signed=True)

    def long(self) -> int:
        """Take a signed 64-bit number."""
        return int.from_bytes(self.take(8), "little", signed=True)

    def octets(self) -> bytes:
        """Take a byte string."""
        size, head = self.take(1)[0], 1
        if size == 0xFE:
            size, head = int.from_bytes(self.take(3), "little"), 4
        value = self.take(size)
        self.take(-(head + size) % 4)
        return value

    def account(self) -> AccountId:
        """Take a liteServer.accountId."""
        return AccountId(self.number(), self.take(32))

    def block(self) -> BlockId:
        """Take a tonNode.blockIdExt.

        Raises:
            MalformedQueryError: a shard this chain does not have.
        """
        workchain, shard, seqno = self.number(), self.long(), self.number()
        if shard != _SIGNED_SHARD:
            raise MalformedQueryError(f"shard {shard & ((1 << 64) - 1):016x}: this chain has 8000000000000000 only")
        return BlockId(workchain=workchain, seqno=seqno, root_hash=self.take(32), file_hash=self.take(32))

    def rest(self) -> bytes:
        """Take what is left."""
        return self.take(len(self._data) - self._at)


class TlWriter:
    """Builds an answer."""

    def __init__(self, line: str | bytes) -> None:
        self._parts = bytearray(constructor(line) if isinstance(line, str) else line)

    def number(self, value: int) -> TlWriter:
        """Append a 32-bit number."""
        self._parts += (value & 0xFFFFFFFF).to_bytes(4, "little")
        return self

    def long(self, value: int) -> TlWriter:
        """Append a 64-bit number."""
        self._parts += (value & (1 << 64) - 1).to_bytes(8, "little")
        return self

    def raw(self, value: bytes) -> TlWriter:
        """Append bytes as they are (int256, constructor numbers)."""
        self._parts += value
        return self

    def octets(self, value: bytes) -> TlWriter:
        """Append a byte string."""
        size = len(value)
        head = bytes((size,)) if size < 0xFE else b"\xfe" + size.to_bytes(3, "little")
        self._parts += head + value + bytes(-(len(head) + size) % 4)
        return self

    def block(self, name: BlockId) -> TlWriter:
        """Append a tonNode.blockIdExt."""
        self.number(name.workchain).long(_SIGNED_SHARD).number(name.seqno)
        return self.raw(name.root_hash).raw(name.file_hash)

    def done(self) -> bytes:
        """Finish."""
        return bytes(self._parts)


def error(code: int, text: str) -> bytes:
    """A liteServer.error."""
    return TlWriter(ERROR).number(code).octets(text.encode()).done()


ANSWERS = {
    "masterchainInfo": f"last:{_BLOCK} state_root_hash:int256 init:tonNode.zeroStateIdExt = liteServer.MasterchainInfo",
    "masterchainInfoExt": f"mode:# version:int capabilities:long last:{_BLOCK} last_utime:int now:int "
    "state_root_hash:int256 init:tonNode.zeroStateIdExt = liteServer.MasterchainInfoExt",
    "currentTime": "now:int = liteServer.CurrentTime",
    "version": "mode:# version:int capabilities:long now:int = liteServer.Version",
    "blockData": f"id:{_BLOCK} data:bytes = liteServer.BlockData",
    "blockHeader": f"id:{_BLOCK} mode:# header_proof:bytes = liteServer.BlockHeader",
    "sendMsgStatus": "status:int = liteServer.SendMsgStatus",
    "accountState": f"id:{_BLOCK} shardblk:{_BLOCK} shard_proof:bytes proof:bytes state:bytes "
    "= liteServer.AccountState",
    "runMethodResult": f"mode:# id:{_BLOCK} shardblk:{_BLOCK} shard_proof:mode.0?bytes proof:mode.0?bytes "
    "state_proof:mode.1?bytes init_c7:mode.3?bytes lib_extras:mode.4?bytes exit_code:int result:mode.2?bytes "
    "= liteServer.RunMethodResult",
    "shardInfo": f"id:{_BLOCK} shardblk:{_BLOCK} shard_proof:bytes shard_descr:bytes = liteServer.ShardInfo",
    "allShardsInfo": f"id:{_BLOCK} proof:bytes data:bytes = liteServer.AllShardsInfo",
    "transactionInfo": f"id:{_BLOCK} proof:bytes transaction:bytes = liteServer.TransactionInfo",
    "transactionList": f"ids:(vector {_BLOCK}) transactions:bytes = liteServer.TransactionList",
    "blockTransactions": f"id:{_BLOCK} req_count:# incomplete:Bool ids:(vector liteServer.transactionId) proof:bytes "
    "= liteServer.BlockTransactions",
    "blockTransactionsExt": f"id:{_BLOCK} req_count:# incomplete:Bool transactions:bytes proof:bytes "
    "= liteServer.BlockTransactionsExt",
    "configInfo": f"mode:# id:{_BLOCK} state_proof:bytes config_proof:bytes = liteServer.ConfigInfo",
    "partialBlockProof": f"complete:Bool from:{_BLOCK} to:{_BLOCK} steps:(vector liteServer.BlockLink) "
    "= liteServer.PartialBlockProof",
    "blockLinkForward": f"to_key_block:Bool from:{_BLOCK} to:{_BLOCK} dest_proof:bytes config_proof:bytes "
    "signatures:liteServer.SignatureSet = liteServer.BlockLink",
    "blockLinkBack": f"to_key_block:Bool from:{_BLOCK} to:{_BLOCK} dest_proof:bytes proof:bytes state_proof:bytes "
    "= liteServer.BlockLink",
    "shardBlockProof": f"masterchain_id:{_BLOCK} links:(vector liteServer.shardBlockLink) = liteServer.ShardBlockProof",
    "libraryResult": "result:(vector liteServer.libraryEntry) = liteServer.LibraryResult",
}
_ANSWER_IDS = {name: constructor(f"liteServer.{name} {fields}") for name, fields in ANSWERS.items()}

QUERIES = {
    "getMasterchainInfo": "= liteServer.MasterchainInfo",
    "getMasterchainInfoExt": "mode:# = liteServer.MasterchainInfoExt",
    "getTime": "= liteServer.CurrentTime",
    "getVersion": "= liteServer.Version",
    "getBlock": f"id:{_BLOCK} = liteServer.BlockData",
    "getBlockHeader": f"id:{_BLOCK} mode:# = liteServer.BlockHeader",
    "sendMessage": "body:bytes = liteServer.SendMsgStatus",
    "getAccountState": f"id:{_BLOCK} account:liteServer.accountId = liteServer.AccountState",
    "runSmcMethod": f"mode:# id:{_BLOCK} account:liteServer.accountId method_id:long params:bytes "
    "= liteServer.RunMethodResult",
    "getShardInfo": f"id:{_BLOCK} workchain:int shard:long exact:Bool = liteServer.ShardInfo",
    "getAllShardsInfo": f"id:{_BLOCK} = liteServer.AllShardsInfo",
    "getOneTransaction": f"id:{_BLOCK} account:liteServer.accountId lt:long = liteServer.TransactionInfo",
    "getTransactions": "count:# account:liteServer.accountId lt:long hash:int256 = liteServer.TransactionList",
    "lookupBlock": "mode:# id:tonNode.blockId lt:mode.1?long utime:mode.2?int = liteServer.BlockHeader",
    "listBlockTransactions": f"id:{_BLOCK} mode:# count:# after:mode.7?liteServer.transactionId3 "
    "reverse_order:mode.6?true want_proof:mode.5?true = liteServer.BlockTransactions",
    "listBlockTransactionsExt": f"id:{_BLOCK} mode:# count:# after:mode.7?liteServer.transactionId3 "
    "reverse_order:mode.6?true want_proof:mode.5?true = liteServer.BlockTransactionsExt",
    "getConfigAll": f"mode:# id:{_BLOCK} = liteServer.ConfigInfo",
    "getConfigParams": f"mode:# id:{_BLOCK} param_list:(vector int) = liteServer.ConfigInfo",
    "getBlockProof": f"mode:# known_block:{_BLOCK} target_block:mode.0?{_BLOCK} = liteServer.PartialBlockProof",
    "getShardBlockProof": f"id:{_BLOCK} = liteServer.ShardBlockProof",
    "getLibraries": "library_list:(vector int256) = liteServer.LibraryResult",
}
QUERY_NAMES = {constructor(f"liteServer.{name} {fields}"): name for name, fields in QUERIES.items()}


def answer(name: str) -> TlWriter:
    """Begin an answer of the schema."""
    return TlWriter(_ANSWER_IDS[name])
