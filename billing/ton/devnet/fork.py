"""A fork of the chain that no validator signed: what a lying lite-server would show as the newest block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from billing.ton.devnet.blocks import Head
from billing.ton.devnet.chain import Chain
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.snapshot import Snapshot
from billing.ton.devnet.validators import Validators
from billing.ton.emulator import Emulator

LIE = 1_000_000_000_000_000  # nanotons that a fork's accounts hold
ACCOUNTS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A block nobody signed, after genuine ones, and the key that its inventor signs it with."""

    snapshot: Snapshot
    validators: Validators


def build_fork(
    emulator: Emulator,
    *,
    heads: Mapping[int, Head],
    key_blocks: Iterable[Head],
    accounts: Iterable[AccountId],
    global_id: int,
    now: int,
) -> Fork:
    """Invent the block after `heads`: of any network, with a fortune on each of these accounts."""
    keys = list(key_blocks)
    numbers = [key.id.seqno for key in keys]
    validators = Validators(sha256(b"no validator").digest(), global_id=global_id, since=now, key_blocks=numbers)
    chain = Chain(emulator, validators=validators, global_id=global_id, now=now)
    chain.restore(heads=heads, key_blocks=keys, accounts=(), queue=())
    for account in accounts:
        chain.mint(account, LIE, now=now)
    return Fork(snapshot=chain.cut(now=now).snapshot, validators=validators)
