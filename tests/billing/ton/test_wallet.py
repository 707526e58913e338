"""Wallet V5 on the devnet: transfers, replays, other networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytoniq_core import Address

from billing.errors import MessageRejectedError, WrongContractError
from billing.money import Nanotons
from billing.ton.cells import address_of
from billing.ton.client import ChainClient
from billing.ton.devnet import Devnet
from billing.ton.wallet import Transfer, Wallet, pay
from tests.billing.ton.world import (
    CLIENT_KEY,
    OWNER_KEY,
    TON,
    balances,
    chain_clock,
    deploy_registry,
    fund,
    payees,
    wallet_of,
)

WALLET = wallet_of(CLIENT_KEY)


def transfer(payee: bytes, amount: int = TON) -> Transfer:
    return Transfer(destination=address_of(payee), amount=Nanotons(amount), bounce=False)


async def test_a_new_wallet_deploys_itself_with_its_first_transfers(chain: ChainClient, devnet: Devnet) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    names = payees(3)
    for expected in (1, 2):
        state = await pay(chain, WALLET, CLIENT_KEY, [transfer(name) for name in names], now=chain_clock(devnet)())
        assert WALLET.seqno(state) == expected
    assert await balances(chain, names) == [2 * TON] * 3


async def test_a_replayed_transfer_is_refused(chain: ChainClient, devnet: Devnet) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    until = devnet.node.clock.now() + 60
    boc = WALLET.sign([transfer(payees(1)[0])], key=CLIENT_KEY, seqno=0, valid_until=until, deploy=True)
    await chain.send(boc)
    with pytest.raises(MessageRejectedError):
        await chain.send(boc)
    assert await balances(chain, payees(1)) == [TON]


@pytest.mark.parametrize("attack", ["other-key", "expired", "for-another-network", "later-seqno"])
async def test_a_transfer_the_wallet_did_not_order_is_refused(chain: ChainClient, devnet: Devnet, attack: str) -> None:
    await fund(devnet, WALLET.address, 10 * TON)
    await pay(chain, WALLET, CLIENT_KEY, [transfer(payees(1)[0])], now=chain_clock(devnet)())
    mainnet = replace(WALLET, network_id=-239)
    signer = _SignsFor(WALLET.address, mainnet) if attack == "for-another-network" else WALLET
    boc = signer.sign(
        [transfer(payees(2)[1])],
        key=OWNER_KEY if attack == "other-key" else CLIENT_KEY,
        seqno=2 if attack == "later-seqno" else 1,
        valid_until=devnet.node.clock.now() + (-1 if attack == "expired" else 60),
        deploy=False,
    )
    with pytest.raises(MessageRejectedError):
        await chain.send(boc)
    assert await balances(chain, payees(2)) == [TON, 0]


class _SignsFor(Wallet):
    """The same key's wallet on another network, presented at the first one's address."""

    def __init__(self, address: Address, wallet: Wallet) -> None:
        self.__dict__.update(wallet.__dict__)
        self.__dict__["address"] = address


def test_one_key_has_another_wallet_on_every_network() -> None:
    assert len({replace(WALLET, network_id=network).address for network in (-239, -3, -777)}) == 3


@pytest.mark.parametrize("count", [0, 256])
def test_no_transfer_or_too_many_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        WALLET.sign([transfer(payees(1)[0])] * count, key=CLIENT_KEY, seqno=0, valid_until=1, deploy=False)


async def test_an_account_that_is_no_wallet_is_refused(chain: ChainClient, devnet: Devnet) -> None:
    registry = await deploy_registry(devnet, chain)
    with pytest.raises(WrongContractError):
        WALLET.seqno(await chain.account(registry.address))
