"""Who signs the masterchain: one validator at a time, named in the configuration that key blocks carry.

The configuration of a key block says who signs the blocks after it, up to and including the next key block. The first
block is a key block; the zero state names the same validator. Keys are derived from one seed, so a rotation needs to
store nothing but the number of its key block.
Source: block.tlb (`ConfigParam 34`, `ValidatorSet`, `ValidatorDescr`); ton/crypto/block/block.cpp,
`compute_validator_set_hash`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.ton.config import slim_config
from billing.ton.devnet.blocks import BlockId
from billing.ton.devnet.boc import encode_boc, parse_one
from billing.ton.devnet.cells import Builder, Cell
from billing.ton.devnet.trie import store_label

CATCHAIN_SEQNO = 0  # no validator group of this network ever changes without a key block
_CURRENT_VALIDATORS = 34  # number of the configuration parameter
_WEIGHT = 1
_UNTIL = 0xFFFFFFFF  # nobody elects: a set is in office until a key block names another
_ED25519_KEY_TAG = b"\xc6\xb4\x13\x48"  # TL pub.ed25519, before the key in a node's short id
_BLOCK_TAG = b"\x70\x6e\x0b\xc5"  # TL ton.blockId, before the hashes that are signed
_SET_TAG = 0x901660ED  # TL test0.validatorSet, -1877581587


class Signature(NamedTuple):
    """One validator's signature of a block: the validator's short id, 32 bytes, and 64 bytes of Ed25519."""

    node: bytes
    value: bytes


class Validators:
    """The validator of every block of one chain."""

    def __init__(self, seed: bytes, *, global_id: int, since: int, key_blocks: Iterable[int] = ()) -> None:
        """Derive keys from a seed of 32 bytes.

        Args:
            seed: secret; whoever has it can sign blocks of this chain.
            global_id: network id in the configuration.
            since: unix time of genesis.
            key_blocks: numbers of the key blocks so far, ascending.
        """
        self._seed = seed
        self._global_id = global_id
        self._since = since
        self.key_blocks = list(key_blocks)
        self._config = cache(self._build_config)
        self._list_hash = cache(self._compute_list_hash)

    def add_key_block(self, seqno: int) -> None:
        """Hand over: the block of this number is a key block, the ones after it have the next validator."""
        self.key_blocks.append(seqno)

    def config_after(self, seqno: int) -> Cell:
        """The configuration dictionary in the state that this block leaves behind."""
        return self._config(max(0, bisect_right(self.key_blocks, seqno) - 1))

    def config_boc(self) -> bytes:
        """The configuration at genesis as a bag of cells, for the emulator."""
        return encode_boc(self._config(0))

    def last_key_block(self, seqno: int) -> int:
        """Number of the newest key block before this block; 0, the zero state, when there is none."""
        place = bisect_left(self.key_blocks, seqno)
        return self.key_blocks[place - 1] if place else 0

    def sign(self, block: BlockId) -> Signature:
        """Sign a masterchain block with the key of its validator; the same block gives the same signature."""
        key = self._key(self._signer(block.seqno))
        node = sha256(_ED25519_KEY_TAG + key.public_key().public_bytes_raw()).digest()
        return Signature(node=node, value=key.sign(_BLOCK_TAG + block.root_hash + block.file_hash))

    def list_hash(self, seqno: int) -> int:
        """The short hash of the set that signs this block, as its header has it."""
        return self._list_hash(self._signer(seqno))

    def _compute_list_hash(self, number: int) -> int:
        public = self._key(number).public_key().public_bytes_raw()
        head = b"".join(word.to_bytes(4, "little") for word in (_SET_TAG, CATCHAIN_SEQNO, 1))
        return crc32c(head + public + _WEIGHT.to_bytes(8, "little") + bytes(32))

    def _signer(self, seqno: int) -> int:
        return max(0, bisect_left(self.key_blocks, seqno) - 1)

    def _key(self, number: int) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(
            sha256(b"devnet validator" + number.to_bytes(4, "big") + self._seed).digest()
        )

    def _build_config(self, number: int) -> Cell:
        public = self._key(number).public_key().public_bytes_raw()
        chosen = {_CURRENT_VALIDATORS: encode_boc(validator_set(public, since=self._since))}
        return parse_one(slim_config(self._global_id, chosen))


def validator_set(public: bytes, *, since: int) -> Cell:
    """Serialize ValidatorSet (validators_ext) with one Ed25519 key, 32 bytes, in office from a unix time on."""
    descriptor = Builder().uint(0x53, 8).uint(0x8E81278A, 32).octets(public).uint(_WEIGHT, 64).cell()
    leaf = store_label(Builder(), 0, 16, 16).content(descriptor).cell()
    head = Builder().uint(0x12, 8).uint(since, 32).uint(_UNTIL, 32).uint(1, 16).uint(1, 16).uint(_WEIGHT, 64)
    return head.uint(1, 1).ref(leaf).cell()


def crc32c(data: bytes) -> int:
    """CRC-32 with Castagnoli's polynomial (RFC 3720, appendix B.4)."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF
