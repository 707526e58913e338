"""Contracts as deployed, for each test anew."""

from __future__ import annotations

import pytest

from billing.ton.channel import (
    ChannelStatus,
    announce_close_body,
)
from tests.contracts.channel_world import (
    DELAY,
    ChannelInVm,
)
from tests.contracts.harness import STRANGER, TON, VaultInVm


@pytest.fixture
def vault() -> VaultInVm:
    vault = VaultInVm()
    assert vault.send(STRANGER, value=100 * TON, init=vault.init).exit_code == 0
    return vault


@pytest.fixture
def channel() -> ChannelInVm:
    return ChannelInVm()


@pytest.fixture(params=["together", "after-the-delay"])
def closed(channel: ChannelInVm, request: pytest.FixtureRequest) -> ChannelInVm:
    if request.param == "together":
        channel.close(TON)
    else:
        channel.redeem(TON)
        channel.order(announce_close_body())
        channel.now += DELAY
        channel.finish()
    assert channel.state().status is ChannelStatus.CLOSED
    return channel
