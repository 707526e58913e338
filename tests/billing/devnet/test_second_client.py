"""A second, independent client library, tonutils: what it reads must be what pytoniq reads, and it can pay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pytoniq import LiteClient
from ton_core import NetworkGlobalID, PrivateKey
from tonutils.clients import LiteClient as SecondClient
from tonutils.contracts.wallet import WalletV4R2 as SecondWallet

from billing.ton.devnet import AccountId, Devnet
from tests.billing.devnet.support import PAYEE, TON, catch_up, wallet_v4


@pytest.fixture
async def second(net: Devnet) -> AsyncIterator[Any]:
    client = SecondClient(NetworkGlobalID.TESTNET, ip=net.host, port=net.port, public_key=net.public_key)
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


async def test_both_clients_see_the_same_block_and_balance(net: Devnet, client: LiteClient, second: Any) -> None:
    await net.node.faucet(AccountId.parse(PAYEE), 5 * TON)
    await catch_up(client, net)
    info = await second.get_masterchain_info()
    assert (info.last.seqno, bytes.fromhex(info.last.root_hash)) == (
        client.last_mc_block.seqno,
        client.last_mc_block.root_hash,
    )
    assert (await second.get_info(PAYEE)).balance == (await client.get_account_state(PAYEE)).balance == 5 * TON


async def test_both_clients_see_the_same_transactions_and_method_results(
    net: Devnet, client: LiteClient, second: Any
) -> None:
    wallet = await wallet_v4(net, client)
    await wallet.transfer(PAYEE, TON)
    await catch_up(client, net)
    address = wallet.address.to_str(is_user_friendly=False)
    assert [done.lt for done in await second.get_transactions(address, 10)] == [
        done.lt for done in await client.get_transactions(address, 10)
    ]
    assert await second.run_get_method(address, "seqno") == [2]
    (name,) = await second.get_all_shards_info()
    listed = await second.get_block_transactions(name)
    assert {done.lt for done in listed} == {done["lt"] for done in await client.raw_get_block_transactions(name)}


async def test_the_second_client_finds_blocks_configuration_time_and_version(net: Devnet, second: Any) -> None:
    minted = await net.node.faucet(AccountId.parse(PAYEE), TON)
    name, header = await second.lookup_block(0, -(1 << 63), seqno=minted.seqno)
    assert (name.seqno, header.info.seqno) == (minted.seqno, minted.seqno)
    assert {20, 21, 24, 25} <= set(await second.get_config())
    assert abs(await second.get_time() - net.node.clock.now()) <= 1
    assert await second.get_version() > 0


async def test_the_second_client_gets_the_reason_of_a_refusal(net: Devnet, second: Any) -> None:
    with pytest.raises(Exception, match="not a bag of cells"):
        await second.send_message(b"nonsense".hex())


async def test_the_second_client_deploys_a_wallet_and_pays(net: Devnet, client: LiteClient, second: Any) -> None:
    wallet = SecondWallet.from_private_key(second, PrivateKey(bytes(range(32))))
    await net.node.faucet(AccountId.parse(str(wallet.address.to_str(is_user_friendly=False))), 10 * TON)
    await wallet.transfer(PAYEE, 2 * TON, bounce=False)
    await catch_up(client, net)
    assert (await client.get_account_state(PAYEE)).balance == 2 * TON
    assert (await second.get_info(PAYEE)).balance == 2 * TON
    await wallet.refresh()
    assert 7 * TON < wallet.balance < 8 * TON
