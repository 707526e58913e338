"""Transfers on the devnet: each made at most once, whatever happens on the way; and the fee that was announced."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytoniq_core import Address

from billing.errors import (
    BadRequestFileError,
    BalanceTooLowError,
    DeadRequestError,
    MessageRejectedError,
    SendOutcomeUnknownError,
    TransferSkippedError,
    WrongNetworkError,
)
from billing.money import Nanotons
from billing.ton import transfer_desk
from billing.ton.client import MAINNET, ChainClient
from billing.ton.deposits import deposit_transfer
from billing.ton.devnet import Devnet
from billing.ton.devnet.faults import Fault, FaultKind
from billing.ton.transfer_desk import PlannedTransfer, plan_transfer, send_request
from billing.ton.wallet import Transfer, pay
from tests.billing.ton.world import CLIENT_KEY, TON, chain_clock, fund, wallet_of

WALLET = wallet_of(CLIENT_KEY)


def transfers(count: int, amount: int = TON // 100) -> list[Transfer]:
    return [deposit_transfer(Address((0, bytes([i + 1]) * 32)), b"k" * 32, Nanotons(amount)) for i in range(count)]


async def plan(chain: ChainClient, wanted: list[Transfer], valid_s: int = 300) -> PlannedTransfer:
    return await plan_transfer(chain, WALLET.public_key, wanted, purpose="test", valid_s=valid_s)


@pytest.mark.parametrize("count", [1, 3, 40])
async def test_the_fee_is_at_most_what_was_announced_and_not_much_less(devnet: Devnet, chain, count: int) -> None:
    await fund(devnet, WALLET.address, 100 * TON)
    for _ in range(2):  # the first one deploys the wallet
        planned = await plan(chain, transfers(count))
        done = await send_request(chain, planned.request.sign(CLIENT_KEY))
        assert 0.95 * planned.fee < done.cost <= planned.fee
        assert done.sent == planned.request.amount


async def test_a_request_is_executed_once_however_often_it_is_sent(devnet: Devnet, chain) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    request = (await plan(chain, transfers(2))).request.sign(CLIENT_KEY)
    done = await send_request(chain, request)
    assert await send_request(chain, request) == done
    assert len(await chain.transactions(await chain.account(WALLET.address))) == 2  # the faucet's, and this one


async def test_a_lost_message_is_not_known_and_sent_again(devnet: Devnet, chain, monkeypatch) -> None:
    monkeypatch.setattr(transfer_desk, "SEND_TIMEOUT_S", 0.3)
    await fund(devnet, WALLET.address, 10 * TON)
    request = (await plan(chain, transfers(1))).request.sign(CLIENT_KEY)
    devnet.node.faults.inject(Fault(kind=FaultKind.DROP))
    with pytest.raises(SendOutcomeUnknownError):
        await send_request(chain, request)
    assert (await send_request(chain, request)).sent == request.amount


async def test_a_message_that_another_one_overtook_is_dead(devnet: Devnet, chain) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    request = (await plan(chain, transfers(1))).request.sign(CLIENT_KEY)
    await pay(chain, WALLET, CLIENT_KEY, transfers(2), now=chain_clock(devnet)())
    with pytest.raises(DeadRequestError, match="never can be executed"):
        await send_request(chain, request)


async def test_a_request_out_of_date_is_dead_only_when_no_block_can_hold_it(devnet: Devnet, chain) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    request = (await plan(chain, transfers(1), valid_s=10)).request.sign(CLIENT_KEY)
    await devnet.node.advance(20)
    with pytest.raises(BadRequestFileError) as early:
        await send_request(chain, request)
    assert not isinstance(early.value, DeadRequestError)
    await devnet.node.advance(60)
    with pytest.raises(DeadRequestError):
        await send_request(chain, request)


async def test_a_request_before_its_turn_waits(devnet: Devnet, chain) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    first = (await plan(chain, transfers(1))).request
    second = replace(first, seqno=first.seqno + 1, deploy=False).sign(CLIENT_KEY)
    with pytest.raises(BadRequestFileError, match="send that one first"):
        await send_request(chain, second)
    await send_request(chain, first.sign(CLIENT_KEY))
    assert (await send_request(chain, second)).sent == second.amount


async def test_what_the_wallet_left_out_in_silence_is_said(devnet: Devnet, chain, monkeypatch) -> None:
    await fund(devnet, WALLET.address, 2 * TON + TON // 2)
    small = (await plan(chain, transfers(1))).request
    four = replace(small, transfers=tuple(transfers(4, TON))).sign(CLIENT_KEY)
    with pytest.raises(BalanceTooLowError):
        await send_request(chain, four)
    await chain.send(four.message())  # as another program might have, or when the balance fell meanwhile
    await chain.wait_for(WALLET.address, lambda state: WALLET.seqno(state) > four.seqno)
    with pytest.raises(TransferSkippedError) as skipped:
        await send_request(chain, four)
    assert (skipped.value.made, skipped.value.asked) == (2, 4)


async def test_an_unsigned_or_foreign_request_is_not_sent(devnet: Devnet, chain) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    request = (await plan(chain, transfers(1))).request
    with pytest.raises(BadRequestFileError, match="nobody signed it"):
        await send_request(chain, request)
    with pytest.raises(WrongNetworkError):
        await send_request(chain, replace(request, network_id=MAINNET).sign(CLIENT_KEY))


async def test_a_refused_message_has_no_effect(devnet: Devnet, chain) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    request = (await plan(chain, transfers(1))).request.sign(CLIENT_KEY)
    devnet.node.faults.inject(Fault(kind=FaultKind.REJECT))
    with pytest.raises(MessageRejectedError):
        await send_request(chain, request)
    assert (await send_request(chain, request)).sent == request.amount


async def test_more_than_the_balance_is_not_even_planned(devnet: Devnet, chain) -> None:
    await fund(devnet, WALLET.address, TON)
    planned = await plan(chain, transfers(1, TON // 2))
    edge = TON // 2 - planned.fee
    await plan(chain, transfers(1, TON // 2 + edge))
    with pytest.raises(BalanceTooLowError):
        await plan(chain, transfers(1, TON // 2 + edge + 1000))
