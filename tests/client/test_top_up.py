"""The sidecar keeps its payment channel's deposit up, on a devnet: within its bound, and never twice for one need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import BalanceTooLowError, ChainUnreachableError
from billing.money import Nanotons
from billing.ton.channel import ChannelTerms, channel_address, read_channel
from billing.ton.channel_desk import ClientDesk
from billing.ton.channel_states import safe_deposit
from billing.ton.client import ChainClient
from billing.ton.devnet import NETWORK_ID, Devnet, running_devnet
from billing.ton.wallet import Transfer, pay
from client import top_up
from client.config import TOP_UP_MIN, ChannelSettings
from client.top_up import DAY_S, TopUps, plan_top_up
from client.top_up_store import TopUpStore
from client.wallet import Wallet
from tests.billing.ton.world import TON, chain_clock, config_of, fund, treasury
from tests.client.paying import CLIENT_KEY, DELAY, WALLET

DEPOSIT, CAP = Nanotons(TON), Nanotons(3 * TON // 2)
SETTINGS = ChannelSettings(deposit=DEPOSIT, top_up_below=500, top_up_daily_max=CAP)
TERMS = ChannelTerms(
    network_id=NETWORK_ID,
    client=WALLET.address,
    client_key=WALLET.public_key,
    operator=treasury().address,
    operator_key=b"\x07" * 32,
    delay_s=DELAY,
    nonce=0,
)


@dataclass(kw_only=True)
class World:
    """A channel, and a sidecar's top-ups that may be started again over what is on disk."""

    devnet: Devnet
    chain: ChainClient
    path: Path
    ahead: int = 0  # seconds that the client's day is later

    def started(self, settings: ChannelSettings = SETTINGS) -> TopUps:
        clock = chain_clock(self.devnet)
        store = TopUpStore(self.path)
        return TopUps(
            settings, Wallet(CLIENT_KEY), self.chain, store, clock=lambda: clock() + timedelta(seconds=self.ahead)
        )

    async def covered(self) -> int:
        return safe_deposit(await read_channel(self.chain, TERMS)).covered

    async def sent(self) -> list[int]:
        """What the wallet ever sent to the channel after its first deposit, oldest first."""
        history = await self.chain.transactions(await self.chain.account(WALLET.address))
        channel = channel_address(TERMS).hash_part
        values = [m.value for tx in history for m in tx.outgoing if m.destination and m.destination[1:] == channel]
        return sorted(values, reverse=True)[1:]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_devnet(tmp_path / "net") as devnet:
        await fund(devnet, WALLET.address, 10 * TON)
        async with await ChainClient.connect(config_of(devnet), clock=chain_clock(devnet)) as chain:
            await ClientDesk(chain, TERMS, WALLET, CLIENT_KEY).open(DEPOSIT, now=chain_clock(devnet)())
            yield World(devnet=devnet, chain=chain, path=tmp_path / "top_ups.sqlite")


async def test_it_fills_up_when_little_is_left_and_only_then(world: World) -> None:
    top_ups = world.started()
    await top_ups.keep_up(TERMS, DEPOSIT // 4)
    assert await world.sent() == []
    state = await top_ups.keep_up(TERMS, 3 * DEPOSIT // 4)
    assert state is not None
    assert DEPOSIT - TON // 1000 < safe_deposit(state).covered - 3 * DEPOSIT // 4 <= DEPOSIT
    await top_ups.keep_up(TERMS, 3 * DEPOSIT // 4)
    assert len(await world.sent()) == 1, "one need, one top-up"


async def test_no_more_than_the_bound_is_put_in_within_a_day(world: World) -> None:
    for _ in range(4):
        await world.started().keep_up(TERMS, await world.covered())
    assert sum(await world.sent()) == CAP
    world.ahead = DAY_S + 1
    await world.started().keep_up(TERMS, await world.covered())
    assert sum(await world.sent()) > CAP


async def test_settings_without_top_ups_send_nothing(world: World) -> None:
    assert await world.started(ChannelSettings(deposit=DEPOSIT)).keep_up(TERMS, DEPOSIT) is None
    assert await world.sent() == []


class CrashError(Exception):
    """The process ends here."""


def crash_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(chain, request):
        raise CrashError

    monkeypatch.setattr(top_up, "send_request", send)


def crash_after_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(chain, request):
        await chain.send(request.message())
        raise CrashError

    monkeypatch.setattr(top_up, "send_request", send)


def crash_before_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*_, **__):
        raise CrashError

    monkeypatch.setattr(top_up, "wait_delivered", wait)


@pytest.mark.parametrize("crash", [crash_before, crash_after_sending, crash_before_delivery])
async def test_a_crash_anywhere_ends_in_one_top_up(world: World, crash) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash(patch)
        with pytest.raises(CrashError):
            await world.started().keep_up(TERMS, DEPOSIT)
    for _ in range(3):
        await world.started().keep_up(TERMS, DEPOSIT)
    assert len(await world.sent()) == 1
    assert TopUpStore(world.path).open(TERMS.channel) is None


async def test_an_unknown_outcome_is_waited_for_with_the_same_bytes(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:

        async def lost(_: bytes) -> None:
            raise ChainUnreachableError("sending", "the line is dead")

        patch.setattr(world.chain, "send", lost)
        for _ in range(2):
            with pytest.raises(ChainUnreachableError):
                await world.started().keep_up(TERMS, DEPOSIT)
    begun = TopUpStore(world.path).open(TERMS.channel)
    assert begun is not None
    await world.started().keep_up(TERMS, DEPOSIT)
    history = await world.chain.transactions(await world.chain.account(WALLET.address))
    assert begun.message_hash in {tx.incoming.hash for tx in history if tx.incoming}
    assert len(await world.sent()) == 1


async def test_a_top_up_whose_number_another_transfer_took_is_made_anew(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_before(patch)
        with pytest.raises(CrashError):
            await world.started().keep_up(TERMS, DEPOSIT)
    other = Transfer(destination=treasury().address, amount=Nanotons(TON // 10), bounce=False)
    await pay(world.chain, WALLET, CLIENT_KEY, [other], now=chain_clock(world.devnet)())
    await world.started().keep_up(TERMS, DEPOSIT)
    assert len(await world.sent()) == 1


async def test_two_programs_with_one_folder_make_one_top_up(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        looked = TopUpStore.open
        patch.setattr(TopUpStore, "open", lambda *_: None)  # as if the other had begun between look and note
        crash_before(patch)
        with pytest.raises(CrashError):
            await world.started().keep_up(TERMS, DEPOSIT)
        patch.undo()
        first = looked(TopUpStore(world.path), TERMS.channel)
    store = TopUpStore(world.path)
    assert store.begin(TERMS.channel, replace(first, seqno=first.seqno + 1), now=0) == first
    both = [world.started().keep_up(TERMS, DEPOSIT) for _ in range(2)]
    await asyncio.gather(*both, return_exceptions=True)  # one of them may hear that the wallet took these bytes already
    await world.started().keep_up(TERMS, DEPOSIT)
    assert len(await world.sent()) == 1


async def test_a_wallet_that_cannot_pay_is_named_and_nothing_is_journaled(world: World) -> None:
    rich = ChannelSettings(deposit=Nanotons(50 * TON), top_up_below=900, top_up_daily_max=Nanotons(50 * TON))
    with pytest.raises(BalanceTooLowError):
        await world.started(rich).keep_up(TERMS, 0)
    assert TopUpStore(world.path).open(TERMS.channel) is None


@given(left=st.integers(-2 * TON, 3 * TON), sent=st.integers(0, 3 * TON))
def test_what_is_planned_keeps_to_share_and_bound(left: int, sent: int) -> None:
    amount = plan_top_up(SETTINGS, left=left, sent_today=sent)
    assert amount == 0 or (TOP_UP_MIN <= amount <= CAP - sent and left + amount <= DEPOSIT and left * 2 < DEPOSIT)
    assert amount == 0 or left + amount == DEPOSIT or sent + amount == CAP


@pytest.mark.parametrize(
    "fields",
    [
        {"top_up_below": 500},
        {"top_up_daily_max": TON},
        {"top_up_below": 500, "top_up_daily_max": TOP_UP_MIN - 1},
        {"top_up_below": 901, "top_up_daily_max": TON},
        {"top_up_below": -1, "top_up_daily_max": TON},
        {"top_up_below": 0.5, "top_up_daily_max": TON},
        {"top_up_below": 500, "top_up_daily_max": TON, "deposit": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match=r"top_up|top-up"):
        ChannelSettings(**({"deposit": DEPOSIT} | fields))
