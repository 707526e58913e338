"""What the tests of the payment channel share: exit codes, and how a refusal is seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytoniq_core import Cell, begin_cell

from billing.money import Nanotons
from billing.ton.channel import (
    announce_close_body,
    announce_withdrawal_body,
    cancel_body,
    finish_body,
)
from billing.ton.emulator import ExternalNotAcceptedError
from tests.contracts.channel_world import ChannelInVm
from tests.contracts.harness import TON, TREASURY, Outcome

MALFORMED, CLOSED, BAD_CLIENT, BAD_OPERATOR, NOT_LATER, UNDERFUNDED, EXPIRED = 408, 431, 432, 433, 434, 435, 436
NOT_THE_CLIENT, NOTHING_ANNOUNCED, TOO_EARLY, NO_AMOUNT, UNKNOWN = 437, 438, 439, 440, 0xFFFF
CELL_UNDERFLOW = 9
IMPORT_FEE = 400_000 + 40_000 + 512 * 400  # of a message with one cell beside the root
DAY = 86_400
OPERATOR = TREASURY


def balance(channel: ChannelInVm) -> int:
    return channel.account().balance


def refused(channel: ChannelInVm, send: Callable[[], Outcome]) -> int | None:
    """The exit code with which the channel refused an external message, which then cost nothing."""
    before = (channel.state(), balance(channel))
    with pytest.raises(ExternalNotAcceptedError) as refusal:
        send()
    assert (channel.state(), balance(channel)) == before
    return refusal.value.exit_code


def external_header(channel: ChannelInVm) -> Cell:
    return begin_cell().store_uint(0b1000, 4).store_address(channel.address).store_coins(0).store_bit(0).store_bit(0)


ORDERS = [announce_withdrawal_body(Nanotons(TON)), announce_close_body(), cancel_body(), finish_body()]
ORDER_IDS = ["announce-withdrawal", "announce-close", "cancel", "finish"]
