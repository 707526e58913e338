"""An unmodified pytoniq LiteClient at trust level 0: it starts from the first key block and checks signatures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteServerError
from pytoniq_core.crypto.crc import crc32c as reference_crc32c
from pytoniq_core.proof.check_proof import ProofError
from pytoniq_core.tl.block import BlockIdExt

from billing.ton.devnet import AccountId, Devnet, Fault, FaultKind, running_devnet
from billing.ton.devnet.blocks import BlockId
from billing.ton.devnet.links import STEPS_MAX
from billing.ton.devnet.validators import crc32c
from tests.billing.devnet.support import PAYEE, TON, catch_up

WHOLE = -(1 << 63)


def named(name: BlockId) -> BlockIdExt:
    return BlockIdExt(
        workchain=name.workchain, shard=WHOLE, seqno=name.seqno, root_hash=name.root_hash, file_hash=name.file_hash
    )


def checking(net: Devnet) -> LiteClient:
    return LiteClient(
        net.host, net.port, net.public_key, trust_level=0, init_key_block=named(net.node.init_block), timeout=20
    )


@pytest.fixture
async def checker(net: Devnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiteClient]:
    monkeypatch.chdir(tmp_path)  # where pytoniq remembers the last blocks it checked
    await net.node.faucet(AccountId.parse(PAYEE), TON)
    client = checking(net)
    await client.connect()
    yield client
    await client.close()


async def test_the_first_block_is_a_key_block_with_the_whole_configuration(net: Devnet, checker: LiteClient) -> None:
    block = await checker.raw_get_block(named(net.node.init_block))
    assert (block.info.seqno, block.info.key_block, block.extra.custom.key_block) == (1, True, 1)
    assert {19, 20, 21, 24, 25, 28, 34} <= set(block.extra.custom.config.config)
    other = await checker.raw_get_block(checker.last_mc_block)
    assert (other.info.key_block, other.info.prev_key_block_seqno) == (False, 1)


async def test_every_read_is_checked_up_to_the_validator_s_signature(net: Devnet, checker: LiteClient) -> None:
    await net.node.faucet(AccountId.parse(PAYEE), TON)
    await catch_up(checker, net)
    assert (await checker.get_account_state(PAYEE)).balance >= 2 * TON - 10  # storage
    assert len(await checker.get_transactions(PAYEE, 5)) == 2
    older = named(net.node.oldest.master)
    assert await checker.raw_get_account_state(PAYEE, older) == (None, None)
    shard, header = await checker.lookup_block(0, WHOLE, seqno=2)
    assert header.info.seqno == 2
    assert [entry["account"].to_str(False) for entry in await checker.raw_get_block_transactions(shard)] == [PAYEE]
    assert (await checker.raw_get_block(shard)).info.prev_key_block_seqno == 1
    assert (await checker.get_config_all(older))[19].load_int(32) == -777


async def test_validators_change_while_a_client_follows(net: Devnet, checker: LiteClient) -> None:
    for _ in range(3):
        await net.node.change_validator()
    await net.node.faucet(AccountId.parse(PAYEE), TON)
    await catch_up(checker, net)
    assert checker.last_mc_block.seqno == net.node.newest.seqno
    assert checker.last_key_block.seqno == net.node.chain.validators.key_blocks[-1]


async def test_a_client_that_was_away_for_many_key_blocks_gets_the_proof_in_parts(
    net: Devnet, checker: LiteClient
) -> None:
    await checker.close()
    for _ in range(STEPS_MAX + 2):
        await net.node.change_validator()
    again = checking(net)
    await again.connect()
    assert again.last_mc_block.seqno == net.node.newest.seqno
    await again.close()


async def test_proofs_lead_back_to_blocks_before_the_newest_key_block(net: Devnet, checker: LiteClient) -> None:
    await net.node.change_validator()
    await catch_up(checker, net)
    assert checker.last_key_block.seqno > 2
    await checker.prove_block(named(net.node.oldest.master))
    block, _ = await checker.lookup_block(-1, WHOLE, seqno=2)
    assert block.seqno == 2


async def test_signatures_and_key_blocks_outlive_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with running_devnet(tmp_path / "net", block_interval_s=60) as net:
        await net.node.faucet(AccountId.parse(PAYEE), TON)
        await net.node.change_validator()
        first, keys = net.init_block, list(net.node.chain.validators.key_blocks)
    async with running_devnet(tmp_path / "net", block_interval_s=60) as net:
        assert (net.init_block, net.node.chain.validators.key_blocks) == (first, keys)
        client = checking(net)
        await client.connect()
        await client.lookup_block(-1, WHOLE, seqno=1)  # behind both key blocks, by way of a state cut before
        assert (await client.get_account_state(PAYEE)).balance >= TON - 10
        await client.close()


async def test_a_block_the_validator_did_not_sign_is_refused(net: Devnet, checker: LiteClient) -> None:
    await checker.close()
    net.node.faults.inject(Fault(kind=FaultKind.INVENTED_CHAIN))
    with pytest.raises(ProofError, match="cannot find node_id_short"):
        await checker.connect()


async def test_proofs_that_cannot_be_given_are_refused_in_words(net: Devnet, checker: LiteClient) -> None:
    newest, shard = named(net.node.newest.master), named(net.node.newest.ids[0])
    zero = named(net.node.chain.zero_state)
    with pytest.raises(LiteServerError, match=r"start at key block \(-1,8000000000000000,1\)"):
        await checker.raw_get_mc_block_proof(zero, newest)
    with pytest.raises(LiteServerError, match="ask getShardBlockProof"):
        await checker.raw_get_mc_block_proof(named(net.node.init_block), shard)
    with pytest.raises(LiteServerError, match="ask getBlockProof"):
        await checker.liteserver_request("getShardBlockProof", {"id": newest.to_dict()})
    with pytest.raises(LiteServerError, match="is not in db"):
        stranger = shard.to_dict() | {"root_hash": "11" * 32}
        await checker.liteserver_request("getShardBlockProof", {"id": stranger})


def test_the_short_hash_of_a_validator_set_is_castagnoli_s_crc() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc32c(b"devnet").to_bytes(4, "little") == reference_crc32c(b"devnet")
