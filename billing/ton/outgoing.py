"""Messages a treasury sends: payments and orders to contracts, the list of send actions, and the external message.

Shared by every kind of treasury; what is signed around them is the treasury's own. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytoniq_core import Address, Builder, Cell, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.batch import Payout
from billing.money import Nanotons
from billing.ton.cells import MESSAGE_BYTES_MAX, address_of

__all__ = [
    "OutMessage",
    "action_list",
    "encode_external",
    "external_message",
    "internal_header",
    "out_messages",
    "store_body",
]

ACTION_SEND = 0x0EC3C86D  # action_send_msg, block.tlb OutAction
PAY_FEES_APART, IGNORE_ERRORS = 1, 2  # send modes
FILLED_IN_BITS = 265 + 32  # what the network adds to a message: the source's address, and a forward fee below 4 TON


@dataclass(frozen=True, slots=True, kw_only=True)
class OutMessage:
    """One message of a batch: `destination` is 33 bytes; with a body it is an order to a contract and bounces."""

    destination: bytes
    amount: Nanotons
    body: Cell | None = None


def out_messages(payouts: Sequence[Payout]) -> tuple[OutMessage, ...]:
    """One message per payout, in order."""
    return tuple(OutMessage(destination=payout.payee, amount=payout.amount) for payout in payouts)


def action_list(messages: Sequence[OutMessage]) -> Cell:
    """The ready-made list of send actions; fees are paid apart, and one that fails stops no other."""
    actions = Cell.empty()
    for message in messages:
        actions = (
            begin_cell()
            .store_ref(actions)
            .store_uint(ACTION_SEND, 32)
            .store_uint(PAY_FEES_APART | IGNORE_ERRORS, 8)
            .store_ref(_internal(message))
            .end_cell()
        )
    return actions


def internal_header(destination: Address, amount: int, *, bounce: bool) -> Builder:
    """An internal message's header up to its state init; the network fills in source, fees and times."""
    return (
        begin_cell()
        .store_bit(0)
        .store_bit(1)  # ihr disabled
        .store_bit(int(bounce))
        .store_bit(0)  # not bounced
        .store_uint(0, 2)  # source: filled in
        .store_address(destination)
        .store_coins(amount)
        .store_bit(0)  # no extra currencies
        .store_coins(0)
        .store_coins(0)
        .store_uint(0, 64 + 32)
    )


def store_body(message: Builder, body: Cell | None) -> Builder:
    """The body, inline where it fits: the root cell of a message costs no forward fee.

    Args:
        message: an internal message up to its body, source and forward fee not filled in.
        body: None for an empty one.
    """
    if body is None:
        return message.store_bit(0)
    if len(message.bits) + 1 + FILLED_IN_BITS + len(body.bits) <= 1023 and len(message.refs) + len(body.refs) <= 4:
        return message.store_bit(0).store_cell(body)
    return message.store_bit(1).store_ref(body)


def external_message(destination: Address, body: Cell, init: StateInit | None) -> Cell:
    """An external message with its body inline; `init` deploys."""
    builder = begin_cell().store_uint(0b10, 2).store_uint(0, 2).store_address(destination).store_coins(0)
    if init is None:
        builder.store_bit(0)
    else:
        builder.store_bit(1).store_bit(1).store_ref(init.serialize())
    return builder.store_bit(0).store_cell(body).end_cell()


def encode_external(message: Cell) -> bytes:
    """The message as a bag of cells, if the network takes one of that size."""
    boc: bytes = message.to_boc()
    if len(boc) > MESSAGE_BYTES_MAX:
        raise ValueError(f"the message has {len(boc)} bytes, the network takes {MESSAGE_BYTES_MAX}")
    return boc


def _internal(message: OutMessage) -> Cell:
    """A payment; to an unknown payee it must not bounce, an order to a contract must."""
    builder = internal_header(address_of(message.destination), message.amount, bounce=message.body is not None)
    return store_body(builder.store_bit(0), message.body).end_cell()
