"""The treasury wallet on the devnet: batches, resends, expiry, query ids."""

from __future__ import annotations

import pytest
from pytoniq_core import Cell

from billing.batch import SignedMessage
from billing.errors import MessageRejectedError, WrongContractError
from billing.money import Nanotons
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet
from billing.ton.highload import query_id_of, subwallet_id_of, treasury_wallet
from billing.ton.outgoing import OutMessage
from tests.billing.ton.world import (
    OWNER_KEY,
    TON,
    TREASURY_KEY,
    balances,
    deploy_registry,
    fund,
    payees,
    treasury,
)

WALLET = treasury(timeout_s=120)
ALREADY_EXECUTED, INVALID_CREATED_AT, BAD_SIGNATURE, BAD_SUBWALLET = "36", "35", "33", "34"


def messages(count: int, amount: int = TON) -> list[OutMessage]:
    return [OutMessage(destination=payee, amount=Nanotons(amount)) for payee in payees(count)]


def sign(devnet: Devnet, count: int = 1, *, query_id: int = 0, age_s: int = 0, **changes: object) -> SignedMessage:
    arguments = {"key": TREASURY_KEY, "deploy": True, "after_lt": 0} | changes
    created_at = devnet.node.clock.now() - age_s
    return WALLET.sign(messages(count), query_id=query_id, created_at=created_at, **arguments)  # type: ignore[arg-type]


@pytest.fixture
async def funded(devnet: Devnet) -> Devnet:
    await fund(devnet, WALLET.address, 1000 * TON)
    return devnet


@pytest.mark.parametrize("count", [1, 128, 254])
async def test_one_message_pays_a_whole_batch(chain: ChainClient, funded: Devnet, count: int) -> None:
    signed = sign(funded, count)
    assert Cell.one_from_boc(signed.boc).hash == signed.message_hash
    await chain.send(signed.boc)
    assert await balances(chain, payees(count)) == [TON] * count
    assert WALLET.is_processed(await chain.account(WALLET.address), 0)


async def test_a_batch_of_128_costs_at_most_a_thousandth_of_a_ton_a_payout(chain: ChainClient, funded: Devnet) -> None:
    await chain.send(sign(funded, 1).boc)
    before = await chain.account(WALLET.address)
    await chain.send(sign(funded, 128, query_id=1, deploy=False).boc)
    after = await chain.account(WALLET.address)
    fees = before.balance - after.balance - 128 * TON
    assert fees <= 128 * 1_000_000
    transactions = await chain.transactions(after, after_lt=before.last_lt)
    assert sum(t.balance_change for t in transactions) == after.balance - before.balance


async def test_the_same_bytes_sent_twice_pay_once(chain: ChainClient, funded: Devnet) -> None:
    signed = sign(funded)
    await chain.send(signed.boc)
    with pytest.raises(MessageRejectedError, match=ALREADY_EXECUTED):
        await chain.send(signed.boc)
    assert await balances(chain, payees(1)) == [TON]


async def test_a_query_id_signed_anew_pays_once(chain: ChainClient, funded: Devnet) -> None:
    await chain.send(sign(funded).boc)
    await funded.node.advance(1)
    with pytest.raises(MessageRejectedError, match=ALREADY_EXECUTED):
        await chain.send(sign(funded, 2).boc)
    assert await balances(chain, payees(2)) == [TON, 0]


async def test_an_expired_message_is_refused(chain: ChainClient, funded: Devnet) -> None:
    signed = sign(funded)
    await funded.node.advance(120)
    with pytest.raises(MessageRejectedError, match=INVALID_CREATED_AT):
        await chain.send(signed.boc)
    assert await balances(chain, payees(1)) == [0]


async def test_a_message_from_the_future_is_refused(chain: ChainClient, funded: Devnet) -> None:
    with pytest.raises(MessageRejectedError, match=INVALID_CREATED_AT):
        await chain.send(sign(funded, age_s=-30).boc)


async def test_a_message_signed_by_another_key_is_refused(chain: ChainClient, funded: Devnet) -> None:
    with pytest.raises(MessageRejectedError, match=BAD_SIGNATURE):
        await chain.send(sign(funded, key=OWNER_KEY).boc)


async def test_a_message_signed_for_another_network_is_refused(chain: ChainClient, funded: Devnet) -> None:
    """The key is the same, and so is the address it is presented at; only the subwallet id differs."""
    await chain.send(sign(funded).boc)
    other = treasury_wallet(WALLET.public_key, -239, timeout_s=WALLET.timeout_s)
    other.__dict__["address"] = WALLET.address
    now = funded.node.clock.now()
    signed = other.sign(messages(2), key=TREASURY_KEY, query_id=1, created_at=now, after_lt=0, deploy=False)
    with pytest.raises(MessageRejectedError, match=BAD_SUBWALLET):
        await chain.send(signed.boc)


async def test_a_query_is_remembered_for_its_whole_life(chain: ChainClient, funded: Devnet) -> None:
    await chain.send(sign(funded, query_id=query_id_of(1022)).boc)
    await funded.node.advance(119)
    await chain.send(sign(funded, query_id=query_id_of(1023), deploy=False).boc)
    state = await chain.account(WALLET.address)
    assert WALLET.is_processed(state, query_id_of(1022))
    assert WALLET.is_processed(state, query_id_of(1023))
    assert not WALLET.is_processed(state, query_id_of(1021))


async def test_a_wallet_not_deployed_has_processed_nothing(chain: ChainClient, funded: Devnet) -> None:
    assert not WALLET.is_processed(await chain.account(WALLET.address), 0)


async def test_an_account_that_is_no_such_wallet_is_refused(chain: ChainClient, funded: Devnet) -> None:
    registry = await deploy_registry(funded, chain)
    with pytest.raises(WrongContractError):
        WALLET.is_processed(await chain.account(registry.address), 0)


def test_query_ids_are_distinct_for_eight_million_batches() -> None:
    boundaries = [0, 1, 1022, 1023, 1024, 2045, 2046, 8_380_415]
    ids = [query_id_of(sequence) for sequence in boundaries]
    assert len(set(ids)) == len(ids)
    assert all(0 <= number < 1 << 23 and number & 1023 != 1023 for number in ids)
    assert len({query_id_of(sequence) for sequence in range(5000)}) == 5000
    assert query_id_of(8_380_416) == query_id_of(0)


def test_every_network_has_its_own_subwallet() -> None:
    assert len({subwallet_id_of(network) for network in (-239, -3, -777)}) == 3


@pytest.mark.parametrize("count", [0, 255])
def test_no_message_or_too_many_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 254"):
        WALLET.sign(messages(1) * count, key=TREASURY_KEY, query_id=0, created_at=1, after_lt=0)
