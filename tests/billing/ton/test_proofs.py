"""A lite-server that lies about an account is refused, whatever it lies about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pytoniq import LiteClient
from pytoniq_core import Address, Builder, Cell, begin_cell

from billing.errors import ProofRejectedError, WrongNetworkError
from billing.ton.devnet import NETWORK_ID, Devnet
from billing.ton.proofs import AccountStatus, Block, prove_account, prove_head
from tests.billing.ton.world import TON, fund, treasury

PRESENT = treasury().address
OTHER = Address((0, b"\x55" * 32))
ABSENT = Address((0, b"\x56" * 32))
Answer = dict[str, Any]


@pytest.fixture
async def server(devnet: Devnet) -> AsyncIterator[LiteClient]:
    """A plain pytoniq client: fetches genuine answers, which the tests then falsify."""
    await fund(devnet, PRESENT, TON)
    await fund(devnet, OTHER, 2 * TON)
    async with LiteClient(devnet.host, devnet.port, devnet.public_key, trust_level=1) as client:
        yield client


async def ask(server: LiteClient, address: Address) -> tuple[Block, Answer]:
    block = Block.of((await server.liteserver_request("getMasterchainInfo", {}))["last"])
    query = {"id": block.fields(), "account": address.to_tl_account_id()}
    return block, dict(await server.liteserver_request("getAccountState", query))


async def test_a_genuine_answer_proves_balance_and_head(server: LiteClient) -> None:
    block, answer = await ask(server, PRESENT)
    state = prove_account(block, answer, PRESENT, NETWORK_ID)
    assert (state.status, state.balance) == (AccountStatus.UNINITIALISED, TON)
    assert state.head == prove_head(block, answer["shard_proof"], NETWORK_ID)[0]


async def test_a_genuine_answer_proves_that_an_account_does_not_exist(server: LiteClient) -> None:
    block, answer = await ask(server, ABSENT)
    assert prove_account(block, answer, ABSENT, NETWORK_ID).status is AccountStatus.ABSENT


async def test_hiding_an_account_that_exists_is_refused(server: LiteClient) -> None:
    block, answer = await ask(server, PRESENT)
    with pytest.raises(ProofRejectedError):
        prove_account(block, answer | {"state": b""}, PRESENT, NETWORK_ID)


async def test_hiding_an_account_behind_the_proof_of_another_is_refused(server: LiteClient) -> None:
    block, answer = await ask(server, ABSENT)
    with pytest.raises(ProofRejectedError):
        prove_account(block, answer, PRESENT, NETWORK_ID)


async def test_inventing_an_account_that_does_not_exist_is_refused(server: LiteClient) -> None:
    block, answer = await ask(server, ABSENT)
    _, genuine = await ask(server, PRESENT)
    with pytest.raises(ProofRejectedError):
        prove_account(block, answer | {"state": genuine["state"]}, ABSENT, NETWORK_ID)


async def test_the_state_of_another_account_is_refused(server: LiteClient) -> None:
    block, answer = await ask(server, PRESENT)
    _, other = await ask(server, OTHER)
    with pytest.raises(ProofRejectedError):
        prove_account(block, answer | {"state": other["state"]}, PRESENT, NETWORK_ID)
    with pytest.raises(ProofRejectedError):
        prove_account(block, other, PRESENT, NETWORK_ID)


async def test_an_old_state_under_a_new_head_is_refused(server: LiteClient, devnet: Devnet) -> None:
    _, old = await ask(server, PRESENT)
    await fund(devnet, PRESENT, TON)
    block, new = await ask(server, PRESENT)
    for fields in (("state",), ("proof", "state"), ("proof", "state", "shardblk"), ("shard_proof",)):
        with pytest.raises(ProofRejectedError):
            prove_account(block, new | {name: old[name] for name in fields}, PRESENT, NETWORK_ID)
    with pytest.raises(ProofRejectedError):
        prove_account(block, old, PRESENT, NETWORK_ID)


async def test_an_answer_of_another_network_is_refused(server: LiteClient) -> None:
    block, answer = await ask(server, PRESENT)
    with pytest.raises(WrongNetworkError) as refusal:
        prove_account(block, answer, PRESENT, -239)
    assert (refusal.value.got, refusal.value.expected) == (NETWORK_ID, -239)


async def test_a_state_with_pruned_data_is_refused(server: LiteClient) -> None:
    """A pruned cell has the hash of what it hides, so that hashes alone do not notice it; its bits are the liar's."""
    block, answer = await ask(server, PRESENT)
    root = Cell.one_from_boc(answer["state"])
    pruned = Builder().store_uint(1, 8).store_uint(1, 8).store_bytes(root.hash).store_uint(0, 16)
    forged = Cell(pruned.bits, [], 1)
    assert forged.get_hash(0) == root.hash
    with pytest.raises(ProofRejectedError):
        prove_account(block, answer | {"state": forged.to_boc()}, PRESENT, NETWORK_ID)


@pytest.mark.parametrize("field", ["shard_proof", "proof", "state"])
async def test_one_flipped_bit_in_an_answer_is_refused(server: LiteClient, field: str) -> None:
    block, answer = await ask(server, PRESENT)
    genuine = answer[field]
    for position in range(0, len(genuine), max(1, len(genuine) // 120)):
        forged = bytearray(genuine)
        forged[position] ^= 1 << position % 8
        try:
            state = prove_account(block, answer | {field: bytes(forged)}, PRESENT, NETWORK_ID)
        except (ProofRejectedError, WrongNetworkError):
            continue
        assert state == prove_account(block, answer, PRESENT, NETWORK_ID)  # a bit nobody reads


@pytest.mark.parametrize("field", ["shard_proof", "proof", "state"])
@pytest.mark.parametrize(
    "bytes_",
    [b"\x00", b"\xb5\xee\x9c\x72", begin_cell().store_uint(7, 9).end_cell().to_boc(), b"x" * (9 << 20)],
    ids=["a-byte", "only-the-magic", "one-small-cell", "nine-megabytes"],
)
async def test_bytes_that_are_no_proof_are_refused(server: LiteClient, field: str, bytes_: bytes) -> None:
    block, answer = await ask(server, PRESENT)
    with pytest.raises(ProofRejectedError):
        prove_account(block, answer | {field: bytes_}, PRESENT, NETWORK_ID)


async def test_a_masterchain_account_is_not_asked_for(server: LiteClient) -> None:
    block, answer = await ask(server, PRESENT)
    with pytest.raises(ValueError, match="basechain"):
        prove_account(block, answer, Address((-1, bytes(32))), NETWORK_ID)
