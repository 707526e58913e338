"""Real wallets in the real TVM, through the client a user would take."""

from __future__ import annotations

from typing import Any

import pytest
from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteServerError
from pytoniq_core import Builder, Cell

from billing.ton.devnet import AccountId, Devnet
from billing.ton.devnet.messages import FAUCET
from tests.billing.devnet.support import PAYEE, TON, catch_up, fund, signing_key, wallet_v4, wallet_v5


@pytest.mark.parametrize("make", [wallet_v4, wallet_v5], ids=["v4r2", "v5r1"])
async def test_a_wallet_deploys_itself_and_pays(net: Devnet, client: LiteClient, make: Any) -> None:
    wallet = await make(net, client)
    assert not wallet.is_uninitialized
    await wallet.transfer(PAYEE, 3 * TON)
    await catch_up(client, net)
    assert (await client.get_account_state(PAYEE)).balance == 3 * TON
    left = (await client.get_account_state(wallet.address)).balance
    assert 6_990_000_000 < left < 7 * TON  # the rest of ten, less real fees


async def test_nanotons_are_conserved_up_to_the_fees_of_the_transactions(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v5(net, client)
    before = wallet.balance
    await wallet.transfer(PAYEE, TON)
    await catch_up(client, net)
    newest = (await client.get_transactions(wallet.address, 1))[0]
    message = newest.out_msgs[0].info
    spent = newest.total_fees.grams + message.value.grams + message.fwd_fee
    assert (await client.get_account_state(wallet.address)).balance == before - spent
    assert (await client.get_account_state(PAYEE)).balance == TON


async def test_a_message_sent_twice_pays_once(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v4(net, client)
    order = wallet.create_wallet_internal_message(wallet.address, value=TON)
    body = wallet.raw_create_transfer_msg(signing_key(1), await wallet.get_seqno(), wallet.wallet_id, [order])
    await wallet.send_external(body=body)
    with pytest.raises(LiteServerError, match="External message was not accepted: exit code 33"):
        await wallet.send_external(body=body)


async def test_a_message_signed_with_another_key_is_not_accepted(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v4(net, client)
    order = wallet.create_wallet_internal_message(wallet.address, value=TON)
    body = wallet.raw_create_transfer_msg(signing_key(2), 1, wallet.wallet_id, [order])
    with pytest.raises(LiteServerError, match="exit code 35"):
        await wallet.send_external(body=body)
    assert (await client.get_transactions(wallet.address, 5))[0].in_msg.info.src is None  # only the deployment


async def test_a_wallet_of_another_network_has_another_address(net: Devnet, client: LiteClient) -> None:
    here, mainnet = await wallet_v5(net, client), await wallet_v5(net, client, global_id=-239)
    assert here.address != mainnet.address


async def test_a_message_to_an_account_without_code_is_not_accepted(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, PAYEE, TON)
    with pytest.raises(LiteServerError, match="External message was not accepted"):
        await client.raw_send_message(_external(PAYEE))


def _external(address: str) -> bytes:
    to = AccountId.parse(address)
    builder = Builder().store_uint(0b1000, 4).store_uint(0b100, 3).store_int(to.workchain, 8).store_bytes(to.id)
    return bytes(builder.store_coins(0).store_uint(0, 2).end_cell().to_boc())


async def test_a_payment_that_cannot_arrive_bounces_to_its_sender(net: Devnet, client: LiteClient) -> None:
    wallet = await wallet_v5(net, client)
    stranger = await wallet_v4(net, client, key=9)
    order = wallet.create_wallet_internal_message(stranger.address, value=TON, body=Cell.empty(), bounce=True)
    nowhere = wallet.create_wallet_internal_message("0:" + "0e" * 32, value=TON, body=Cell.empty(), bounce=True)
    await wallet.raw_transfer([order, nowhere])
    await catch_up(client, net)
    assert (await client.get_account_state(stranger.address)).balance > 10 * TON
    newest = (await client.get_transactions(wallet.address, 1))[0]
    assert newest.in_msg.info.bounced
    assert 0 < newest.in_msg.info.value.grams < TON


async def test_the_faucet_is_no_account_anybody_can_spend_from(net: Devnet, client: LiteClient) -> None:
    await fund(net, client, PAYEE, TON)
    assert await client.raw_get_account_state(str(FAUCET)) == (None, None)
