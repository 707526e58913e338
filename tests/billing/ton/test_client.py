"""The chain client: connections that break, servers that are old, slow or dishonest."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pytoniq_core import Address

from billing.errors import (
    ChainUnreachableError,
    MessageRejectedError,
    ProofRejectedError,
    SendOutcomeUnknownError,
    StaleChainError,
    WrongNetworkError,
)
from billing.money import Nanotons
from billing.ton.client import ChainClient, ChainConfig, heed_cancel
from billing.ton.devnet import Devnet, Fault, FaultKind, running_devnet
from billing.ton.devnet.adnl import AdnlServer
from billing.ton.devnet.liteserver import LiteServer
from billing.ton.outgoing import OutMessage, external_message
from billing.ton.proofs import AccountState
from tests.billing.ton.world import (
    CLIENT_KEY,
    OWNER_KEY,
    TON,
    TREASURY_KEY,
    chain_clock,
    config_of,
    fund,
    payees,
    treasury,
    wallet_of,
)

ADDRESS = treasury().address
OTHER_SERVER = base64.b64encode(CLIENT_KEY.public_key().public_bytes_raw()).decode()


@asynccontextmanager
async def lying_server(devnet: Devnet, lie: Callable[[bytes, bytes], bytes]) -> AsyncIterator[ChainConfig]:
    """A second lite-server of the same chain that passes each (query, answer) through `lie`."""
    honest = LiteServer(devnet.node)

    async def answer(query: bytes) -> bytes:
        return lie(query, await honest.answer(query))

    server = AdnlServer(devnet.node.key_seed, answer)
    port = await server.start(devnet.host, 0)
    try:
        yield config_of(devnet, port=port, timeout_s=2.0)
    finally:
        await server.close()


async def test_the_head_moves_on_and_carries_the_chain_s_time(chain: ChainClient, devnet: Devnet) -> None:
    first = await chain.head()
    await devnet.node.tick()
    second = await chain.head()
    assert second.seqno > first.seqno
    assert abs(second.time - devnet.node.clock.now()) <= 1


async def test_the_history_is_read_back_whole_and_in_order(chain: ChainClient, devnet: Devnet) -> None:
    for amount in range(1, 41):
        await fund(devnet, ADDRESS, amount)
    state = await chain.account(ADDRESS)
    history = await chain.transactions(state)
    assert [t.received for t in history] == list(range(1, 41))
    assert sum(t.balance_change for t in history) == state.balance
    assert [t.received for t in await chain.transactions(state, after_lt=history[29].lt)] == list(range(31, 41))
    assert await chain.transactions(state, after_lt=state.last_lt) == ()


async def test_an_account_without_transactions_has_no_history(chain: ChainClient) -> None:
    state = await chain.account(Address((0, b"\x01" * 32)))
    assert (state.balance, state.last_lt, await chain.transactions(state)) == (0, 0, ())


async def test_a_longer_history_than_allowed_is_refused(chain: ChainClient, devnet: Devnet) -> None:
    for _ in range(20):
        await fund(devnet, ADDRESS, 1)
    short = ChainClient(replace(chain.config, history_max=16), clock=chain_clock(devnet))
    with pytest.raises(ChainUnreachableError, match="over 16"):
        await short.transactions(await short.account(ADDRESS))
    await short.close()


async def test_nobody_listening_is_told_apart(devnet: Devnet) -> None:
    with pytest.raises(ChainUnreachableError, match="connecting"):
        await ChainClient.connect(config_of(devnet, port=1, timeout_s=2.0))


async def test_a_server_with_another_key_is_refused(devnet: Devnet) -> None:
    with pytest.raises(ChainUnreachableError):
        await ChainClient.connect(config_of(devnet, public_key=OTHER_SERVER, timeout_s=1.0))


def test_a_server_key_that_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no point of the curve"):
        ChainClient(ChainConfig(host="127.0.0.1", port=1, public_key="A" * 43 + "=", network_id=-777))


async def test_a_server_that_never_answers_runs_into_the_time_limit() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = ChainConfig(host="127.0.0.1", port=port, public_key=OTHER_SERVER, network_id=-777, timeout_s=0.3)
    with pytest.raises(ChainUnreachableError):
        await ChainClient.connect(config)
    server.close()
    await server.wait_closed()


async def test_a_server_of_another_network_is_refused(devnet: Devnet) -> None:
    with pytest.raises(WrongNetworkError):
        await ChainClient.connect(config_of(devnet, network_id=-239, trust_level=1))


@pytest.mark.parametrize("hours", [-1, 1], ids=["old", "from-the-future"])
async def test_a_head_whose_time_is_not_ours_is_refused(devnet: Devnet, hours: int) -> None:
    def clock() -> datetime:
        return datetime.now(UTC) - timedelta(hours=hours)

    with pytest.raises(StaleChainError):
        await ChainClient.connect(config_of(devnet), clock=clock)


async def test_a_server_that_goes_back_to_an_older_head_is_refused(devnet: Devnet) -> None:
    await fund(devnet, ADDRESS, TON)
    recorded: list[bytes] = []

    def replay_first_head(query: bytes, answer: bytes) -> bytes:
        if len(query) != 4:  # anything but getMasterchainInfo, which has no fields
            return answer
        recorded.append(answer)
        return recorded[1] if len(recorded) > 4 else answer

    async with lying_server(devnet, replay_first_head) as config:
        client = await ChainClient.connect(config, clock=chain_clock(devnet))
        while len(recorded) < 4:
            await client.account(ADDRESS)
        await devnet.node.tick()
        client._seqno = devnet.node.newest.seqno  # what another answer of this server has shown
        with pytest.raises(StaleChainError, match="was shown before"):
            await client.account(ADDRESS)
        await client.close()


async def test_a_forged_balance_under_genuine_proofs_is_refused(chain: ChainClient, devnet: Devnet) -> None:
    await fund(devnet, ADDRESS, TON)
    devnet.node.faults.inject(Fault(kind=FaultKind.FORGE_STATE))
    with pytest.raises(ProofRejectedError):
        await chain.account(ADDRESS)
    assert (await chain.account(ADDRESS)).balance == TON


@pytest.mark.parametrize("offset", range(40, 400, 45))
async def test_a_forged_transaction_in_the_history_is_refused(devnet: Devnet, offset: int) -> None:
    for _ in range(3):
        await fund(devnet, ADDRESS, TON)
    forging = False

    def forge(_: bytes, answer: bytes) -> bytes:
        if not forging:
            return answer
        changed = bytearray(answer)
        changed[-offset] ^= 0x20
        return bytes(changed)

    async with lying_server(devnet, forge) as config:
        client = await ChainClient.connect(config, clock=chain_clock(devnet))
        state = await client.account(ADDRESS)
        forging = True
        with pytest.raises(ProofRejectedError):
            await client.transactions(state)
        await client.close()


async def test_an_answer_of_noise_is_refused(devnet: Devnet) -> None:
    noisy = False
    async with lying_server(devnet, lambda _, answer: b"\xff" * 64 if noisy else answer) as config:
        client = await ChainClient.connect(config, clock=chain_clock(devnet))
        noisy = True
        with pytest.raises((ChainUnreachableError, ProofRejectedError)):
            await client.account(ADDRESS)
        await client.close()


async def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    async with running_devnet(tmp_path) as first:
        client = await ChainClient.connect(config_of(first, timeout_s=2.0))
        await fund(first, ADDRESS, TON)
        assert (await client.account(ADDRESS)).balance == TON
    with pytest.raises(ChainUnreachableError):
        await client.account(ADDRESS)
    async with running_devnet(tmp_path, port=client.config.port):
        assert (await client.account(ADDRESS)).balance == TON
    await client.close()


async def test_many_questions_at_once_are_all_answered(chain: ChainClient, devnet: Devnet) -> None:
    await fund(devnet, ADDRESS, TON)
    states = await asyncio.gather(*(chain.account(ADDRESS) for _ in range(30)))
    assert {state.balance for state in states} == {TON}


async def test_a_message_the_network_refuses_is_told_apart(chain: ChainClient) -> None:
    wallet = wallet_of(OWNER_KEY)
    boc = external_message(treasury().address, wallet.state_init.data, None).to_boc()
    with pytest.raises(MessageRejectedError, match="refused"):
        await chain.send(boc)


async def test_a_lost_answer_to_a_send_is_an_unknown_outcome(chain: ChainClient, devnet: Devnet) -> None:
    await fund(devnet, ADDRESS, TON)
    devnet.node.faults.inject(Fault(kind=FaultKind.LOSE_ANSWER))
    message = signed_transfer(await chain.account(ADDRESS))
    with pytest.raises(SendOutcomeUnknownError):
        await chain.send(message)
    with pytest.raises(MessageRejectedError, match="36"):  # it had arrived
        await chain.send(message)


async def test_a_message_too_large_is_not_sent(chain: ChainClient) -> None:
    with pytest.raises(ValueError, match="65535"):
        await chain.send(b"x" * 65_536)


async def test_waiting_for_a_state_that_does_not_come_ends(chain: ChainClient) -> None:
    with pytest.raises(TimeoutError):
        await chain.wait_for(ADDRESS, lambda state: state.balance > 0, timeout_s=0.2)


@pytest.mark.parametrize(
    "changes",
    [{"public_key": "not base64!"}, {"public_key": "AAAA"}, {"port": 0}, {"timeout_s": 0}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_malformed_configuration_is_refused(changes: dict[str, object]) -> None:
    fields = {"host": "127.0.0.1", "port": 1, "public_key": "A" * 43 + "=", "network_id": -777}
    with pytest.raises(ValueError, match=r"must be"):
        ChainConfig(**(fields | changes))  # type: ignore[arg-type]


def signed_transfer(state: AccountState) -> bytes:
    messages = [OutMessage(destination=payees(1)[0], amount=Nanotons(1000))]
    signed = treasury().sign(
        messages, key=TREASURY_KEY, query_id=0, created_at=state.head.time, after_lt=state.last_lt, deploy=True
    )
    return signed.boc


async def test_a_cancellation_that_came_with_the_answer_is_not_forgotten() -> None:
    answer = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(heed_cancel(asyncio.wait_for(answer, 10)))
    await asyncio.sleep(0)
    answer.set_result("here")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
