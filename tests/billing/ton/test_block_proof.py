"""Signatures from a trusted key block to the newest block, at the devnet whose validators change."""

from __future__ import annotations

import asyncio
import base64
import copy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytoniq import LiteClient
from pytoniq_core import Address
from pytoniq_core.tl.block import BlockIdExt

from billing.errors import ChainUnreachableError, ProofRejectedError, StaleChainError, WrongNetworkError
from billing.ton.block_proof import STEPS_MAX, follow_links
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import AccountId, Devnet, Fault, FaultKind, links, running_devnet, validators
from billing.ton.devnet.blocks import BlockId
from billing.ton.devnet.boc import encode_boc
from billing.ton.devnet.cells import Builder, Cell
from billing.ton.devnet.proofs import config_in_block_proof
from billing.ton.devnet.trie import store_label
from billing.ton.proofs import Block
from tests.billing.ton.world import TON, chain_clock, config_of

PAYEE = "0:" + "07" * 32
NETWORK = -777


def named(name: BlockId) -> Block:
    return Block(workchain=-1, seqno=name.seqno, root_hash=name.root_hash, file_hash=name.file_hash)


async def answer_of(net: Devnet, known: BlockId, target: BlockId) -> dict[str, Any]:
    """What the lite-server answers to getBlockProof, as pytoniq parses it."""
    client = LiteClient(net.host, net.port, net.public_key, trust_level=1)
    await client.connect()
    query = {"mode": 1, "known_block": named(known).fields(), "target_block": named(target).fields()}
    answer: dict[str, Any] = await client.liteserver_request("getBlockProof", query)
    await client.close()
    return answer


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Block, Block, dict[str, Any]]:
    """First key block, newest block, and the genuine proof over two changes of the validator between them."""
    return asyncio.run(record(tmp_path_factory.mktemp("net")))


async def record(folder: Path) -> tuple[Block, Block, dict[str, Any]]:
    async with running_devnet(folder, block_interval_s=60) as net:
        for _ in range(2):
            await net.node.change_validator()
            await net.node.tick()
        known, target = net.node.init_block, net.node.newest.master
        return named(known), named(target), await answer_of(net, known, target)


@pytest.fixture
def lie(honest: tuple[Block, Block, dict[str, Any]]) -> dict[str, Any]:
    """The genuine answer, to be altered."""
    return copy.deepcopy(honest[2])


def refuse(honest: tuple[Block, Block, dict[str, Any]], answer: dict[str, Any], why: str) -> None:
    with pytest.raises(ProofRejectedError, match=why):
        follow_links(honest[0], honest[1], answer, NETWORK)


def test_signatures_lead_through_the_key_blocks_to_the_newest_block(
    honest: tuple[Block, Block, dict[str, Any]],
) -> None:
    known, target, answer = honest
    assert len(answer["steps"]) == 3
    trail = follow_links(known, target, answer, NETWORK)
    assert (trail.reached, trail.key_block) == (target, Block.of(answer["steps"][1]["to"]))


def test_validators_proved_once_need_no_second_proof_and_none_but_theirs_is_kept(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]
) -> None:
    known, target, answer = honest
    seen: dict[bytes, Any] = {}
    trail = follow_links(known, target, answer, NETWORK, known=seen)
    assert set(seen) == {Block.of(step["from"]).root_hash for step in answer["steps"]}
    for step in lie["steps"]:
        step["config_proof"] = b""
    assert follow_links(known, target, lie, NETWORK, known=seen) == trail
    refuse(honest, lie, "bag of cells")


def test_a_step_left_out_is_missed(honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]) -> None:
    del lie["steps"][1]
    refuse(honest, lie, "a link from .* at block")


def test_an_answer_without_links_or_with_too_many_is_refused(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]
) -> None:
    refuse(honest, lie | {"steps": []}, "0 links")
    refuse(honest, lie | {"steps": lie["steps"] * STEPS_MAX}, "links, expected 1 to 64")


def test_validators_of_another_key_block_do_not_count(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]
) -> None:
    lie["steps"][2]["config_proof"] = lie["steps"][0]["config_proof"]
    refuse(honest, lie, "it is about")


def test_a_block_that_is_no_key_block_names_no_validators(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]
) -> None:
    target = honest[1]
    lie["steps"] = [dict(lie["steps"][2], **{"from": target.fields(), "config_proof": lie["steps"][2]["dest_proof"]})]
    later = Block(workchain=-1, seqno=target.seqno + 1, root_hash=bytes(32), file_hash=bytes(32))
    lie["steps"][0]["to"] = later.fields()
    with pytest.raises(ProofRejectedError, match=r"the block's extra|no key block|not shown"):
        follow_links(target, later, lie, NETWORK)


@pytest.mark.parametrize("times", [1, 3])
def test_a_stranger_s_signature_does_not_count_however_often(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any], times: int
) -> None:
    signature = lie["steps"][2]["signatures"]["signatures"][0]
    lie["steps"][2]["signatures"]["signatures"] = [signature | {"node_id_short": "11" * 32}] * times
    refuse(honest, lie, "is no validator")


def test_no_signature_is_not_enough(honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]) -> None:
    lie["steps"][2]["signatures"]["signatures"] = []
    refuse(honest, lie, "weight 0 of 1 signed")


def test_a_signature_of_another_block_is_refused(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]
) -> None:
    lie["steps"][2]["signatures"] = lie["steps"][0]["signatures"]
    refuse(honest, lie, "is no validator|is not of block")


def test_a_kind_of_signature_that_is_not_known_is_refused(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]
) -> None:
    lie["steps"][2]["signatures"] |= {"session_id": "00" * 32, "slot": 1, "candidate": b""}
    refuse(honest, lie, "simplex")


def test_another_file_under_the_same_root_is_refused(
    honest: tuple[Block, Block, dict[str, Any]], lie: dict[str, Any]
) -> None:
    lie["steps"][2]["to"]["file_hash"] = "11" * 32
    refuse(honest, lie, "is not of block")


def test_blocks_of_another_network_are_refused(honest: tuple[Block, Block, dict[str, Any]]) -> None:
    with pytest.raises(WrongNetworkError):
        follow_links(honest[0], honest[1], honest[2], -239)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 2),
    field=st.sampled_from(["dest_proof", "config_proof", "signature"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_believed(
    honest: tuple[Block, Block, dict[str, Any]], number: int, field: str, place: float, bit: int
) -> None:
    known, target, answer = honest
    lie = copy.deepcopy(answer)
    step = lie["steps"][number]
    holder = step["signatures"]["signatures"][0] if field == "signature" else step
    altered = bytearray(holder[field])
    altered[int(place * len(altered))] ^= 1 << bit
    holder[field] = bytes(altered)
    try:
        trail = follow_links(known, target, lie, NETWORK)
    except (ProofRejectedError, WrongNetworkError):
        return
    assert field != "signature"  # a bag of cells has more than one form, a signature has not
    assert trail == follow_links(known, target, answer, NETWORK)


def three_validators(public: bytes, *, since: int) -> Cell:
    """A validator set in which two strangers stand beside the one that signs."""
    strangers = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key().public_bytes_raw() for n in (1, 2)]
    leaves = [
        store_label(Builder(), 0, length, length)
        .content(Builder().uint(0x53, 8).uint(0x8E81278A, 32).octets(key).uint(1, 64).cell())
        .cell()
        for key, length in zip((public, *strangers), (0, 0, 1), strict=True)
    ]
    left = store_label(Builder(), 0, 0, 1).ref(leaves[0]).ref(leaves[1]).cell()
    root = store_label(Builder(), 0, 14, 16).ref(left).ref(leaves[2]).cell()
    head = Builder().uint(0x12, 8).uint(since, 32).uint(0xFFFFFFFF, 32).uint(3, 16).uint(3, 16).uint(3, 64)
    return head.uint(1, 1).ref(root).cell()


@pytest.mark.parametrize("times", [1, 3], ids=["once", "three-times"])
async def test_one_of_three_validators_is_not_enough_however_often_it_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(validators, "validator_set", three_validators)
    async with running_devnet(tmp_path / "net", block_interval_s=60) as net:
        await net.node.tick()
        known, target = net.node.init_block, net.node.newest.master
        answer = await answer_of(net, known, target)
    signatures = answer["steps"][0]["signatures"]
    signatures["signatures"] *= times
    with pytest.raises(ProofRejectedError, match="weight 1 of 3 signed"):
        follow_links(named(known), named(target), answer, NETWORK)


async def test_the_client_follows_changes_of_the_validator_link_by_link(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "STEPS_MAX", 1)  # so every answer is but a part of the proof
    async with await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
        for _ in range(3):
            await devnet.node.change_validator()
        await devnet.node.faucet(AccountId.parse(PAYEE), TON)
        assert (await chain.account(Address(PAYEE))).balance == TON
        assert (await chain.head()).seqno == devnet.node.newest.seqno


async def test_reads_at_the_same_time_do_not_make_each_other_stale(devnet: Devnet) -> None:
    async with await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:

        async def work(number: int) -> None:
            for step in range(8):
                await chain.account(Address(PAYEE))
                if (number + step) % 5 == 0:
                    await devnet.node.change_validator()

        await asyncio.gather(*(work(number) for number in range(8)))


async def test_a_server_that_brings_its_own_validators_fools_pytoniq_but_not_us(
    tmp_path: Path, devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration of a link must be that of its key block; pytoniq 0.1.43 does not compare them."""
    await devnet.node.faucet(AccountId.parse(PAYEE), TON)
    await devnet.node.faucet(AccountId.parse(PAYEE), TON)
    before = await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet))
    devnet.node.invent(FaultKind.INVENTED_CHAIN)
    inventor = devnet.node._forks[-1].validators

    def forged(self: links.Links, key_block: BlockId) -> bytes:
        return encode_boc(config_in_block_proof(_with_config(self._block(key_block), inventor.config_after(1))))

    monkeypatch.setattr(links.Links, "_config_proof", forged)
    devnet.node.faults.inject(Fault(kind=FaultKind.INVENTED_CHAIN), 4)  # pytoniq asks for the head once as it connects
    with pytest.raises(ProofRejectedError, match="is no validator"):
        await before.account(Address(PAYEE))
    await before.close()
    with pytest.raises(ProofRejectedError, match="it is about"):
        await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet))

    monkeypatch.chdir(tmp_path)  # pytoniq keeps a file of blocks in the working directory
    first = BlockIdExt.from_dict(named(devnet.node.init_block).fields())
    fooled = LiteClient(devnet.host, devnet.port, devnet.public_key, trust_level=0, init_key_block=first)
    await fooled.connect()
    assert fooled.last_mc_block.root_hash == devnet.node._forks[-1].snapshot.master.root_hash
    await fooled.close()


def _with_config(block: Cell, config: Cell) -> Cell:
    """A key block with another configuration in place of its own."""
    extra = block.refs[3]
    custom = extra.refs[3]
    custom = Cell(custom.data, custom.bit_length, (*custom.refs[:2], config))
    extra = Cell(extra.data, extra.bit_length, (*extra.refs[:3], custom))
    return Cell(block.data, block.bit_length, (*block.refs[:3], extra))


async def test_a_key_block_of_another_chain_leads_nowhere(devnet: Devnet) -> None:
    other = f"1:{'11' * 32}:{'22' * 32}"
    with pytest.raises(ProofRejectedError, match="another block 1 than the key block"):
        await ChainClient.connect(config_of(devnet, init_block=other), clock=chain_clock(devnet))
    await devnet.node.tick()
    with pytest.raises(ChainUnreachableError, match="is not in db"):
        await ChainClient.connect(config_of(devnet, init_block=other), clock=chain_clock(devnet))


async def test_a_head_before_the_known_key_block_is_stale(devnet: Devnet) -> None:
    async with await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
        await devnet.node.tick()
        await devnet.node.change_validator()
        await chain.head()
        devnet.node.faults.inject(Fault(kind=FaultKind.OLD_BLOCK))
        with pytest.raises(StaleChainError, match="key block 3 is known"):
            await chain.head()


SERVER = {"host": "127.0.0.1", "port": 1, "public_key": base64.b64encode(bytes(31) + b"\x01").decode()}


@pytest.mark.parametrize(
    ("settings_", "why"),
    [
        pytest.param({"network_id": -239}, "needs init_block", id="public-network-without-key-block"),
        pytest.param({"network_id": -777, "trust_level": 0}, "needs init_block", id="level-0-without-key-block"),
        pytest.param({"network_id": -777, "trust_level": 2}, "trust_level is 0", id="level-2"),
        pytest.param({"network_id": -777, "init_block": "1:22:33"}, "64 hex digits", id="short-hashes"),
        pytest.param({"network_id": -777, "init_block": "newest"}, "64 hex digits", id="no-block"),
    ],
)
def test_settings_that_trust_too_much_or_make_no_sense_are_refused(settings_: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ChainConfig(**SERVER, **settings_)


def test_trust_is_taken_from_the_settings() -> None:
    key_block = f"7:{'11' * 32}:{'22' * 32}"
    assert ChainConfig(**SERVER, network_id=-777).trusted_block is None
    assert ChainConfig(**SERVER, network_id=-239, trust_level=1, init_block=key_block).trusted_block is None
    trusted = ChainConfig(**SERVER, network_id=-239, init_block=key_block).trusted_block
    assert trusted == Block(workchain=-1, seqno=7, root_hash=b"\x11" * 32, file_hash=b"\x22" * 32)
