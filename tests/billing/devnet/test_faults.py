"""Injected faults do to a sender what a bad network does, and nothing else."""

from __future__ import annotations

import asyncio
import logging

import pytest
from pytoniq import LiteClient
from pytoniq.liteclient.client import LiteClientError, LiteServerError
from pytoniq_core import Cell

from billing.ton.devnet import AccountId, Devnet, Fault, FaultKind
from tests.billing.devnet.support import PAYEE, TON, catch_up, client_of, signing_key, wallet_v4


async def payment(net: Devnet, client: LiteClient) -> bytes:
    """A signed payment of one TON to PAYEE, not sent."""
    wallet = await wallet_v4(net, client)
    order = wallet.create_wallet_internal_message(PAYEE, value=TON, body=Cell.empty(), bounce=False)
    body = wallet.raw_create_transfer_msg(signing_key(1), await wallet.get_seqno(), wallet.wallet_id, [order])
    return bytes(wallet.create_external_msg(dest=wallet.address, body=body).serialize().to_boc())


def paid(net: Devnet) -> int:
    return net.node.chain.account(AccountId.parse(PAYEE)).amount


async def test_a_dropped_message_is_acknowledged_and_never_runs(net: Devnet, client: LiteClient) -> None:
    message = await payment(net, client)
    net.node.faults.inject(Fault(kind=FaultKind.DROP))
    assert await client.raw_send_message(message) == 1
    assert paid(net) == 0
    await client.raw_send_message(message)  # the very same bytes, sent again, are what helps
    assert paid(net) == TON


async def test_a_delayed_message_runs_later(net: Devnet, client: LiteClient) -> None:
    message = await payment(net, client)
    net.node.faults.inject(Fault(kind=FaultKind.DELAY, delay_s=0.05))
    seqno = net.node.newest.seqno
    await client.raw_send_message(message)
    assert paid(net) == 0
    assert await net.node.wait_for(seqno + 1, 5)
    assert paid(net) == TON


async def test_a_rejected_message_is_answered_with_an_error_and_does_not_run(net: Devnet, client: LiteClient) -> None:
    message = await payment(net, client)
    net.node.faults.inject(Fault(kind=FaultKind.REJECT), count=2)
    for _ in range(2):
        with pytest.raises(LiteServerError, match="rejected by an injected fault"):
            await client.raw_send_message(message)
    assert paid(net) == 0
    await client.raw_send_message(message)
    assert paid(net) == TON


async def test_a_duplicated_message_pays_once(
    net: Devnet, client: LiteClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    message = await payment(net, client)
    net.node.faults.inject(Fault(kind=FaultKind.DUPLICATE))
    await client.raw_send_message(message)
    await asyncio.sleep(0)
    await catch_up(client, net)
    assert paid(net) == TON
    assert "refused: External message was not accepted: exit code 33" in caplog.text


async def test_a_lost_answer_leaves_the_outcome_to_be_looked_up(net: Devnet) -> None:
    async with client_of(net) as first:
        message = await payment(net, first)
        net.node.faults.inject(Fault(kind=FaultKind.LOSE_ANSWER))
        with pytest.raises((LiteClientError, ConnectionError, asyncio.IncompleteReadError, TimeoutError)):
            await first.raw_send_message(message)
    async with client_of(net) as second:
        assert (await second.get_account_state(PAYEE)).balance == TON


async def test_cleared_faults_do_nothing(net: Devnet, client: LiteClient) -> None:
    message = await payment(net, client)
    net.node.faults.inject(Fault(kind=FaultKind.DROP), count=5)
    assert net.node.faults.waiting == 5
    net.node.faults.clear()
    await client.raw_send_message(message)
    assert paid(net) == TON


def test_a_fault_of_impossible_size_is_refused(net: Devnet) -> None:
    with pytest.raises(ValueError, match="0 faults"):
        net.node.faults.inject(Fault(kind=FaultKind.DROP), count=0)
    with pytest.raises(ValueError, match="drop takes no delay"):
        Fault(kind=FaultKind.DROP, delay_s=1)
    with pytest.raises(ValueError, match="delay of -1 s"):
        Fault(kind=FaultKind.DELAY, delay_s=-1)
