"""Proofs from one masterchain block to another, by signatures and key blocks, and from a shard block to its master.

A link forward goes from a key block to a block that the validators named there signed. A link back goes from a block,
through its state, to the key block before it. Together they lead from any block to any later one, and to an earlier
one. States are kept of the newest blocks and of key blocks; a link back from another block is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from billing.ton.devnet import tl
from billing.ton.devnet.blocks import BASECHAIN, MASTERCHAIN, BlockId
from billing.ton.devnet.boc import encode_boc, parse_one
from billing.ton.devnet.cells import Cell
from billing.ton.devnet.errors import UnknownBlockError
from billing.ton.devnet.node import DevnetNode
from billing.ton.devnet.proofs import config_in_block_proof, header_proof, master_state_proof, shards_in_block_proof
from billing.ton.devnet.tl import MalformedQueryError, TlReader, TlWriter, answer
from billing.ton.devnet.validators import CATCHAIN_SEQNO

STEPS_MAX = 16  # links in one answer; a client asks on from where it ends


class Links:
    """The lite-server's queries about how blocks hang together."""

    def __init__(self, node: DevnetNode) -> None:
        self._node = node
        self._config_proofs: tuple[BlockId | None, bytes] = (None, b"")  # of the key block asked for last

    def queries(self) -> dict[str, Callable[[TlReader], bytes]]:
        """Name the method for each query."""
        return {"getBlockProof": self._block_proof, "getShardBlockProof": self._shard_block_proof}

    def _block_proof(self, reader: TlReader) -> bytes:
        mode, known = reader.number(), reader.block()
        target = reader.block() if mode & 1 else self._node.newest.master
        for name in (known, target):
            self._check_known(name)
        steps: list[bytes] = []
        at = known
        while at != target and len(steps) < STEPS_MAX:
            to = self._next(at, target)
            steps.append(self._forward(at, to) if to.seqno > at.seqno else self._back(at, to))
            at = to
        writer = answer("partialBlockProof").raw(tl.TRUE if at == target else tl.FALSE).block(known).block(at)
        writer.number(len(steps))
        for step in steps:
            writer.raw(step)
        return writer.done()

    def _next(self, at: BlockId, target: BlockId) -> BlockId:
        """Where the next link leads: back to the last key block, or forward to the next one or the target."""
        keys = self._node.chain.key_blocks
        numbers = [key.id.seqno for key in keys]
        if at.seqno not in numbers or at.seqno > target.seqno:
            return keys[bisect_right(numbers, at.seqno - 1) - 1].id
        after = bisect_right(numbers, at.seqno)
        if after < len(keys) and numbers[after] < target.seqno:
            return keys[after].id
        return target

    def _forward(self, start: BlockId, to: BlockId) -> bytes:
        fork = self._node.fork_of(to)
        validators = self._node.chain.validators if fork is None else fork.validators
        signature = validators.sign(to)
        writer = self._begin("blockLinkForward", start, to)
        writer.octets(encode_boc(header_proof(self._block(to))))
        writer.octets(self._config_proof(start))
        writer.raw(tl.SIGNATURE_SET).number(validators.list_hash(to.seqno)).number(CATCHAIN_SEQNO)
        return writer.number(1).raw(signature.node).octets(signature.value).done()

    def _config_proof(self, key_block: BlockId) -> bytes:
        if self._config_proofs[0] != key_block:
            self._config_proofs = (key_block, encode_boc(config_in_block_proof(self._block(key_block))))
        return self._config_proofs[1]

    def _back(self, start: BlockId, to: BlockId) -> bytes:
        kept = self._node.store.key_proof(start.seqno)
        state = kept or encode_boc(master_state_proof(self._node.snapshot(start)))
        writer = self._begin("blockLinkBack", start, to)
        writer.octets(encode_boc(header_proof(self._block(to))))
        return writer.octets(encode_boc(header_proof(self._block(start)))).octets(state).done()

    def _begin(self, link: str, start: BlockId, to: BlockId) -> TlWriter:
        is_key = to.seqno in self._node.chain.validators.key_blocks
        return answer(link).raw(tl.TRUE if is_key else tl.FALSE).block(start).block(to)

    def _shard_block_proof(self, reader: TlReader) -> bytes:
        name = reader.block()
        if name.workchain != BASECHAIN:
            raise MalformedQueryError(f"block {name} is not of a shard: ask getBlockProof for masterchain blocks")
        found = self._node.store.block(MASTERCHAIN, name.seqno)  # both are cut together, under one number
        if found is None or self._node.store.block_name(BASECHAIN, name.seqno) != name:
            raise UnknownBlockError(f"block {name} is not in db")
        proof = encode_boc(shards_in_block_proof(parse_one(found[1])))
        return answer("shardBlockProof").block(found[0]).number(1).block(name).octets(proof).done()

    def _check_known(self, name: BlockId) -> None:
        if name == self._node.chain.zero_state:
            raise UnknownBlockError(f"no proof starts at the zero state: start at key block {self._node.init_block}")
        if name.workchain != MASTERCHAIN:
            raise MalformedQueryError(f"block {name} is not of the masterchain: ask getShardBlockProof for the others")
        self._block(name)

    def _block(self, name: BlockId) -> Cell:
        fork = self._node.fork_of(name)
        if fork is not None:
            return fork.snapshot.blocks[MASTERCHAIN]
        found = self._node.store.block(MASTERCHAIN, name.seqno)
        if found is None or found[0] != name:
            raise UnknownBlockError(f"block {name} is not in db")
        return parse_one(found[1])
