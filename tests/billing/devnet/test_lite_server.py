"""An unmodified pytoniq LiteClient at trust level 1: every answer it takes is proved against the newest block."""

from __future__ import annotations

import asyncio
import base64
import logging
import sys
from types import SimpleNamespace

import pytest
from nacl.signing import SigningKey
from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteServerError, RunGetMethodError
from pytoniq_core import Address

from billing.ton.config import read_prices, slim_config
from billing.ton.devnet import AccountId, Devnet
from billing.ton.emulator import library_path
from tests.billing.devnet.support import PAYEE, TON, catch_up, client_of, fund, wallet_v5

BASE = -(1 << 63)


async def test_a_client_connects_and_follows_new_blocks(net: Devnet, client: LiteClient) -> None:
    seen = client.last_mc_block.seqno
    await net.node.tick()
    await catch_up(client, net)
    assert client.last_mc_block.seqno == seen + 1
    assert client.last_shard_blocks[0].root_hash == net.node.newest.ids[0].root_hash


async def test_a_client_with_another_server_key_gets_no_connection(
    net: Devnet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    other = LiteClient(
        net.host, net.port, base64.b64encode(bytes(SigningKey.generate().verify_key)).decode(), trust_level=1, timeout=1
    )
    with pytest.raises(Exception):  # noqa: B017  # pytoniq lets whatever breaks first through
        await other.connect()
    await other.close()
    assert "another server key" in caplog.text


async def test_a_proved_account_state_has_the_balance_the_faucet_gave(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, PAYEE, 5 * TON)
    account, shard_account = await client.raw_get_account_state(PAYEE)
    assert account.storage.balance.grams == 5 * TON
    assert shard_account.last_trans_lt == account.storage.last_trans_lt - 1


async def test_an_account_that_does_not_exist_is_none(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, PAYEE, TON)
    assert await client.raw_get_account_state("0:" + "08" * 32) == (None, None)


async def test_an_account_of_the_masterchain_is_proved_too(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, "-1:" + "07" * 32, 3 * TON)
    account, _ = await client.raw_get_account_state("-1:" + "07" * 32)
    assert account.storage.balance.grams == 3 * TON


async def test_states_of_an_older_block_stay_provable(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, PAYEE, TON)
    old = client.last_mc_block
    await fund(net, client, PAYEE, TON)
    account, _ = await client.raw_get_account_state(PAYEE, old)
    assert account.storage.balance.grams == TON


async def test_the_proved_configuration_holds_the_network_id_and_prices(net: Devnet, client: LiteClient) -> None:
    config = await client.get_config_all()
    assert config[19].load_int(32) == -777
    assert config[25].lump_price == read_prices(slim_config()).forward.lump
    assert set(await client.get_config_params([20])) == set(config)


async def test_transactions_form_a_chain_by_hash_from_the_proved_state(net: Devnet, client: LiteClient) -> None:
    for _ in range(20):
        await net.node.faucet(AccountId.parse(PAYEE), TON)
    await catch_up(client, net)
    found = await client.get_transactions(PAYEE, 40)  # pytoniq checks every previous hash
    assert len(found) == 20
    assert [done.prev_trans_lt for done in found[:-1]] == [done.lt for done in found[1:]]
    assert found[-1].prev_trans_lt == 0


async def test_transactions_from_a_hash_that_is_not_there_are_refused(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, PAYEE, TON)
    _, shard_account = await client.raw_get_account_state(PAYEE)
    with pytest.raises(LiteServerError, match="transaction hash mismatch"):
        await client.raw_get_transactions(PAYEE, 1, shard_account.last_trans_lt, bytes(32))


async def test_a_get_method_runs_on_the_server(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v5(net, client)
    assert await client.run_get_method(wallet.address, "seqno", []) == [1]
    with pytest.raises(RunGetMethodError, match="exit code 11"):
        await client.run_get_method(wallet.address, "no such method", [])
    with pytest.raises(RunGetMethodError, match="exit code -256"):
        await client.run_get_method(PAYEE, "seqno", [])


async def test_a_get_method_runs_in_the_client_on_proved_state(
    net: Devnet, client: LiteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytvm's own wrapper still asks setuptools for the library's path, which setuptools no longer answers
    shim = SimpleNamespace(
        resource_listdir=lambda *_: [library_path().name], resource_filename=lambda *_: str(library_path().parent)
    )
    monkeypatch.setitem(sys.modules, "pkg_resources", shim)
    wallet = await wallet_v5(net, client)
    assert await client.run_get_method_local(wallet.address, "seqno", []) == [1]


async def test_blocks_are_found_by_number_lt_and_time_with_proved_headers(net: Devnet, client: LiteClient) -> None:
    minted = await net.node.faucet(AccountId.parse(PAYEE), TON)
    now = await net.node.advance(100)
    await catch_up(client, net)
    block, header = await client.lookup_block(0, BASE, seqno=minted.seqno)
    assert (header.info.seqno, block.root_hash) == (minted.seqno, net.node.store.block_name(0, minted.seqno).root_hash)
    by_lt, header = await client.lookup_block(0, BASE, lt=minted.lt)
    assert by_lt == block
    assert header.info.start_lt <= minted.lt <= header.info.end_lt
    newest, header = await client.lookup_block(-1, BASE, utime=now + 5)
    assert header.info.gen_utime >= now
    assert newest == client.last_mc_block
    assert (await client.raw_get_block_header(block)).info.seqno == minted.seqno


async def test_a_whole_block_parses_and_its_value_flow_adds_up(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v5(net, client)
    await wallet.transfer(PAYEE, TON)
    await catch_up(client, net)
    name = next(iter(await client.get_all_shards_info()))
    block = await client.raw_get_block(name)
    flow = block.value_flow
    assert flow.from_prev_blk.grams + flow.imported.grams == (
        flow.to_next_blk.grams + flow.exported.grams + flow.fees_collected.grams
    )
    fees = sum(
        done.total_fees.grams
        for account in block.extra.account_blocks[0].values()
        for done in account.transactions[0].values()
    )
    assert 0 < fees <= flow.fees_collected.grams
    assert (await client.raw_get_block(client.last_mc_block)).info.not_master == 0


async def test_the_transactions_of_a_block_are_listed_with_proof(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v5(net, client)
    await wallet.transfer(PAYEE, TON)
    await catch_up(client, net)
    name = next(iter(await client.get_all_shards_info()))
    listed = await client.raw_get_block_transactions(name)
    assert {entry["account"] for entry in listed} == {wallet.address, Address(PAYEE)}
    assert await client.raw_get_block_transactions(name, count=1) == listed  # page by page
    bodies = await client.raw_get_block_transactions_ext(name)
    assert [done.cell.hash for done in bodies] == [entry["hash"] for entry in listed]
    one = await client.get_one_transaction(PAYEE, listed[-1]["lt"], name) or await client.get_one_transaction(
        PAYEE, listed[0]["lt"], name
    )
    assert one.in_msg.info.value.grams == TON


async def test_time_moves_only_forward_and_contracts_see_it(net: Devnet, client: LiteClient) -> None:
    before = (await client.get_time())["now"]
    now = await net.node.advance(86_400)
    assert (await client.get_time())["now"] >= now >= before + 86_400
    with pytest.raises(ValueError, match="advance by -1 s"):
        await net.node.advance(-1)
    minted = await net.node.faucet(AccountId.parse(PAYEE), TON)
    await catch_up(client, net)
    _, header = await client.lookup_block(0, BASE, seqno=minted.seqno)
    assert header.info.gen_utime >= now


async def test_waiting_for_a_block_that_does_not_come_ends_with_a_timeout(net: Devnet, client: LiteClient) -> None:
    with pytest.raises(LiteServerError, match="timeout: block 999 is not there yet"):
        await client.wait_masterchain_seqno(999, timeout_ms=50, schema_name="getTime")


async def test_a_block_of_another_chain_is_refused(net: Devnet, client: LiteClient) -> None:
    other = type(client.last_mc_block).from_dict(client.last_mc_block.to_dict() | {"root_hash": "11" * 32})
    with pytest.raises(LiteServerError, match="is not in db"):
        await client.raw_get_account_state(PAYEE, other)
    with pytest.raises(LiteServerError, match="is not in db"):
        await client.raw_get_block(other)
    with pytest.raises(LiteServerError, match="is not in db"):
        await client.lookup_block(0, BASE, seqno=9999)


async def test_queries_the_server_does_not_offer_are_refused_by_name(net: Devnet, client: LiteClient) -> None:
    with pytest.raises(LiteServerError, match="does not offer it"):
        await client.liteserver_request(
            "getValidatorStats", {"mode": 0, "id": client.last_mc_block.to_dict(), "limit": 1}
        )


async def test_many_clients_are_served_at_once(net: Devnet) -> None:
    await net.node.faucet(AccountId.parse(PAYEE), TON)

    async def balance() -> int:
        async with client_of(net) as client:
            return (await client.get_account_state(PAYEE)).balance

    assert await asyncio.gather(*(balance() for _ in range(10))) == [TON] * 10


@pytest.mark.parametrize("garbage", [b"", b"\0" * 256, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 4])
async def test_garbage_on_the_port_harms_nobody(net: Devnet, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection(net.host, net.port)
    writer.write(garbage)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    async with client_of(net) as client:
        assert client.last_mc_block.seqno == net.node.newest.seqno
