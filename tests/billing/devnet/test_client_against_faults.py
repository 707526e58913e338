"""What our chain client does against each fault: an error with a name, or the truth a little later; never a lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pytoniq_core import Address, Cell

from billing.errors import (
    BillingError,
    ChainError,
    ChainUnreachableError,
    MessageRejectedError,
    ProofRejectedError,
    SendOutcomeUnknownError,
    StaleChainError,
    WrongNetworkError,
)
from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.client import ChainClient
from billing.ton.devnet import AccountId, Devnet, Fault, FaultKind
from billing.ton.devnet.fork import LIE
from billing.ton.highload import query_id_of
from billing.ton.outgoing import OutMessage
from tests.billing.devnet.support import PAYEE, TON
from tests.billing.ton.world import TREASURY_KEY, chain_clock, config_of, fund, treasury

NEVER = 50  # more faults than a client tries again
PAYEE_ADDRESS = Address(PAYEE)


@pytest.fixture
async def chain(net: Devnet) -> AsyncIterator[ChainClient]:
    """A client at trust level 0 that soon gives up; an account with five TON stands on the chain."""
    net.node.clock.freeze()  # storage costs nothing, so amounts are exact
    await net.node.faucet(AccountId.parse(PAYEE), 5 * TON)
    async with await ChainClient.connect(config_of(net, timeout_s=0.4), clock=chain_clock(net)) as chain:
        assert chain.config.trusted_block is not None
        yield chain


async def payment(net: Devnet, number: int) -> bytes:
    """A signed payment of one TON from a highload wallet, whose payments may come in any order."""
    wallet = treasury()
    if not net.node.chain.account(AccountId(0, bytes(wallet.address.hash_part))).exists:
        await fund(net, wallet.address, 100 * TON)
    order = OutMessage(destination=payee_of(PAYEE_ADDRESS), amount=Nanotons(TON))
    now = net.node.clock.now()
    return wallet.sign(
        [order], key=TREASURY_KEY, query_id=query_id_of(number), created_at=now, after_lt=0, deploy=True
    ).boc


def paid(net: Devnet) -> int:
    return net.node.chain.account(AccountId.parse(PAYEE)).amount // TON - 5


def inject(net: Devnet, kind: FaultKind, count: int = 1, delay_s: float = 0.0) -> None:
    net.node.faults.inject(Fault(kind=kind, delay_s=delay_s), count)


LIES = [
    pytest.param(FaultKind.FORGE_STATE, ProofRejectedError, "not the one in the chain", id="forge-state"),
    pytest.param(FaultKind.WRONG_PROOF, ProofRejectedError, "it is about", id="wrong-proof"),
    pytest.param(FaultKind.OLD_BLOCK, StaleChainError, "was shown before|is known", id="old-block"),
    pytest.param(FaultKind.FOREIGN_NETWORK, WrongNetworkError, "-239", id="foreign-network"),
    pytest.param(FaultKind.INVENTED_CHAIN, ProofRejectedError, "is no validator of block", id="invented-chain"),
]


@pytest.mark.parametrize(("kind", "error", "why"), LIES)
async def test_a_lie_is_refused_by_name_and_the_next_answer_is_believed_again(
    net: Devnet, chain: ChainClient, kind: FaultKind, error: type[BillingError | ChainError], why: str
) -> None:
    await net.node.faucet(AccountId.parse(PAYEE), TON)
    await chain.account(PAYEE_ADDRESS)
    inject(net, kind)
    with pytest.raises(error, match=why):
        await chain.account(PAYEE_ADDRESS)
    assert net.node.faults.waiting == 0
    assert (await chain.account(PAYEE_ADDRESS)).balance == 6 * TON


async def test_only_signatures_tell_an_invented_chain_from_the_genuine_one(net: Devnet, chain: ChainClient) -> None:
    async with ChainClient(config_of(net, trust_level=1), clock=chain_clock(net)) as trusting:
        await trusting.head()
        inject(net, FaultKind.INVENTED_CHAIN)
        assert (await trusting.account(PAYEE_ADDRESS)).balance == LIE  # what trust level 1 leaves open
        inject(net, FaultKind.FOREIGN_NETWORK)
        with pytest.raises(WrongNetworkError):
            await trusting.account(PAYEE_ADDRESS)


@pytest.mark.parametrize("kind", [FaultKind.STALL, FaultKind.DISCONNECT])
async def test_one_answer_that_does_not_come_is_asked_for_again(
    net: Devnet, chain: ChainClient, kind: FaultKind
) -> None:
    inject(net, kind)
    assert (await chain.account(PAYEE_ADDRESS)).balance == 5 * TON
    assert net.node.faults.waiting == 0


@pytest.mark.parametrize("kind", [FaultKind.STALL, FaultKind.DISCONNECT])
async def test_a_server_that_answers_nothing_is_unreachable(net: Devnet, chain: ChainClient, kind: FaultKind) -> None:
    inject(net, kind, NEVER)
    with pytest.raises(ChainUnreachableError):
        await chain.account(PAYEE_ADDRESS)
    net.node.faults.clear()
    assert (await chain.account(PAYEE_ADDRESS)).balance == 5 * TON


async def test_a_late_answer_is_taken(net: Devnet, chain: ChainClient) -> None:
    inject(net, FaultKind.STALL, delay_s=0.1)
    assert (await chain.account(PAYEE_ADDRESS)).balance == 5 * TON


@pytest.mark.parametrize(
    ("kind", "executed"),
    [
        pytest.param(FaultKind.STALL, 0, id="stall"),
        pytest.param(FaultKind.DISCONNECT, 0, id="disconnect"),
        pytest.param(FaultKind.LOSE_ANSWER, 1, id="lose-answer"),
    ],
)
async def test_a_send_without_answer_has_an_unknown_outcome_and_the_same_bytes_are_safe_to_resend(
    net: Devnet, chain: ChainClient, kind: FaultKind, executed: int
) -> None:
    message = await payment(net, 1)
    inject(net, kind)
    with pytest.raises(SendOutcomeUnknownError):
        await chain.send(message)
    assert paid(net) == executed
    if executed:
        with pytest.raises(MessageRejectedError, match="exit code 36"):
            await chain.send(message)
    else:
        await chain.send(message)
    assert paid(net) == 1


async def test_a_rejected_message_is_refused_by_name(net: Devnet, chain: ChainClient) -> None:
    message = await payment(net, 1)
    inject(net, FaultKind.REJECT)
    with pytest.raises(MessageRejectedError, match="injected fault"):
        await chain.send(message)
    assert paid(net) == 0


async def test_a_dropped_message_is_missed_on_the_proved_state(net: Devnet, chain: ChainClient) -> None:
    message = await payment(net, 1)
    inject(net, FaultKind.DROP)
    await chain.send(message)
    with pytest.raises(TimeoutError):
        await chain.wait_for(PAYEE_ADDRESS, lambda state: state.balance > 5 * TON, timeout_s=0.2)
    await chain.send(message)
    assert (await chain.wait_for(PAYEE_ADDRESS, lambda state: state.balance > 5 * TON)).balance == 6 * TON


async def test_a_delayed_message_shows_up_on_the_proved_state(net: Devnet, chain: ChainClient) -> None:
    inject(net, FaultKind.DELAY, delay_s=0.1)
    await chain.send(await payment(net, 1))
    assert paid(net) == 0
    assert (await chain.wait_for(PAYEE_ADDRESS, lambda state: state.balance > 5 * TON)).balance == 6 * TON


async def test_messages_that_overtake_each_other_are_both_paid_once(net: Devnet, chain: ChainClient) -> None:
    first, second = await payment(net, 1), await payment(net, 2)
    inject(net, FaultKind.REORDER)
    await chain.send(first)
    assert paid(net) == 0
    await chain.send(second)
    assert paid(net) == 2
    taken = [t.incoming.hash for t in await chain.transactions(await chain.account(treasury().address)) if t.incoming]
    order = [taken.index(Cell.one_from_boc(message).hash) for message in (first, second)]
    assert order == sorted(order, reverse=True)  # the second came first


async def test_a_duplicated_message_pays_once(net: Devnet, chain: ChainClient) -> None:
    inject(net, FaultKind.DUPLICATE)
    await chain.send(await payment(net, 1))
    await asyncio.sleep(0)
    assert (await chain.account(PAYEE_ADDRESS)).balance == 6 * TON


def test_every_kind_of_fault_is_tried_here() -> None:
    tried = {param.values[0] for param in LIES} | {
        *(FaultKind.STALL, FaultKind.DISCONNECT, FaultKind.LOSE_ANSWER, FaultKind.REJECT),
        *(FaultKind.DROP, FaultKind.DELAY, FaultKind.REORDER, FaultKind.DUPLICATE),
    }
    assert tried == set(FaultKind)
