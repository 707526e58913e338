"""The operator's orders to the vault: one signed external message pays up to 250 payees and anchors a root.

Every order carries the root of the entitlements that hold once its payments are made, because the contract changes
both in one step. Orders are numbered: only one can be under way. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.batch import SignedMessage
from billing.money import Nanotons
from billing.ton.outgoing import OutMessage, action_list, encode_external, external_message
from billing.ton.vault import RENT_RESERVE, TAG_ORDER, VaultState

__all__ = ["MESSAGES_MAX", "Order", "order_funds", "order_is_void", "sign_order"]

MESSAGES_MAX = 250  # the network takes 255 actions, the vault adds two of its own
TIMEOUT_S = 120  # an order that cannot be carried out may be replayed, and cost its gas, for so long; at most 600
MESSAGE_FEE = Nanotons(1_000_000)  # of a payment; 0.00067 is spent, orders to contracts are larger
ORDER_FEE = Nanotons(10_000_000)  # gas and import of an order, and storage fees due


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is signed: the messages, and the state of things once they are sent."""

    messages: tuple[OutMessage, ...]
    root: bytes  # 32, of the entitlements after this order
    held: int  # nanotons that stay for payees and clients after this order

    def __post_init__(self) -> None:
        if len(self.messages) > MESSAGES_MAX:
            raise ValueError(f"an order has at most {MESSAGES_MAX} messages, got {len(self.messages)}")
        if len(self.root) != 32 or not 0 <= self.held < 1 << 64:
            raise ValueError("root has 32 bytes, held is an amount")


def sign_order(
    order: Order,
    *,
    vault: Address,
    state: VaultState,
    key: Ed25519PrivateKey,
    created_at: int,
    after_lt: int,
    timeout_s: int = TIMEOUT_S,
    deploy: StateInit | None = None,
) -> SignedMessage:
    """The one external message that makes the vault execute `order`.

    Args:
        order: what to do.
        vault: the contract's address.
        state: its proved state; the order is void as soon as another order or a claim comes first.
        key: the hot key.
        created_at: unix seconds of chain time.
        after_lt: logical time of the vault's last transaction, kept beside the bytes for looking them up.
        timeout_s: how long the order may be executed, at most 600.
        deploy: code and data, for the vault's first message.
    """
    cell = order_cell(order, state, valid_until=created_at + timeout_s)
    signature = key.sign(order_digest(cell, vault, state.network_id))
    body = begin_cell().store_bytes(signature).store_ref(cell).end_cell()
    message = external_message(vault, body, deploy)
    return SignedMessage(
        query_id=state.seqno % (1 << 23),
        created_at=created_at,
        timeout_s=timeout_s,
        boc=encode_external(message),
        message_hash=message.hash,
        after_lt=after_lt,
    )


def order_cell(order: Order, state: VaultState, *, valid_until: int) -> Cell:
    """The order's cell."""
    cell = (
        begin_cell()
        .store_uint(state.seqno, 32)
        .store_uint(valid_until, 32)
        .store_uint(state.claims, 32)
        .store_bytes(order.root)
        .store_uint(order.held, 64)
    )
    return (cell.store_ref(action_list(order.messages)) if order.messages else cell).end_cell()


def order_digest(cell: Cell, vault: Address, network_id: int) -> bytes:
    """What the hot key signs, 32 bytes: it names the network and the vault, so it is good for no other."""
    domain = TAG_ORDER.to_bytes(4, "big") + network_id.to_bytes(4, "big", signed=True)
    return sha256(domain + vault.hash_part + cell.hash).digest()


def order_is_void(message: SignedMessage, state: VaultState) -> bool:
    """Whether the vault in this proved state, and in any later one, refuses the order in `message`.

    True also once it was executed: look for it in the history first.
    """
    order = Cell.one_from_boc(message.boc).refs[-1].begin_parse()
    seqno = order.load_uint(32)
    claims = order.skip_bits(32).load_uint(32)
    return bool((seqno, claims) != (state.seqno, state.claims))


def order_funds(messages: Sequence[OutMessage]) -> Nanotons:
    """What the vault must hold before an order is sent: all amounts, fees with room to spare, and its rent."""
    return Nanotons(sum(message.amount + MESSAGE_FEE for message in messages) + ORDER_FEE + RENT_RESERVE)
