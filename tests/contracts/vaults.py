"""What the tests of the vault share: exit codes, payees, orders, and forged messages."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell, begin_cell

from billing.batch import SignedMessage
from billing.entitlements import Entitlements
from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.emulator import ExternalNotAcceptedError
from billing.ton.outgoing import OutMessage
from billing.ton.vault import OP_PAID
from billing.ton.vault_order import Order, order_digest, sign_order
from tests.contracts.harness import HOT_KEY, Outcome, VaultInVm

NOT_THE_OWNER, WRONG_WORKCHAIN, MALFORMED_BODY, TOO_EARLY = 401, 405, 408, 410
BAD_SIGNATURE, EXPIRED, WRONG_SEQNO, EXPIRES_TOO_LATE, CLAIMED_SINCE, NO_KEY_SET = 411, 413, 414, 415, 416, 417
NOT_IN_THE_ROOT, NOTHING_DUE, UNDERFUNDED, VALUE_TOO_LOW, NO_SUCH_SURPLUS = 421, 422, 423, 424, 425
CELL_UNDERFLOW, UNKNOWN_OPERATION = 9, 0xFFFF
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x6f" * 32)
NOBODY = Entitlements(amounts={})


def payee(i: int) -> Address:
    return Address((0, sha256(f"payee {i}".encode()).digest()))


def entitled(*amounts: int) -> Entitlements:
    return Entitlements(amounts={payee_of(payee(i)): amount for i, amount in enumerate(amounts) if amount})


def order(*payments: int, after: Entitlements = NOBODY, held: int = 0) -> Order:
    """Pays `payments` to payees 0, 1...; afterwards they may claim what `after` says."""
    messages = tuple(OutMessage(destination=payee_of(payee(i)), amount=Nanotons(n)) for i, n in enumerate(payments))
    return Order(messages=messages, root=after.root, held=held)


def refusal(vault: VaultInVm, message: Cell) -> int | None:
    """The exit code with which an external message is not accepted: it costs nothing and changes nothing."""
    before = vault.account()
    with pytest.raises(ExternalNotAcceptedError) as error:
        vault.execute(message)
    assert vault.account() == replace(before, last_lt=vault.account().last_lt)
    return error.value.exit_code


def paid(outcome: Outcome) -> list[tuple[bytes | None, int]]:
    return [(out.destination, out.value) for out in outcome.transaction.outgoing]


def signed(vault: VaultInVm, what: Order) -> SignedMessage:
    return sign_order(what, vault=vault.address, state=vault.state(), key=HOT_KEY, created_at=vault.now, after_lt=0)


def resigned(vault: VaultInVm, cell: Cell) -> Cell:
    signature = HOT_KEY.sign(order_digest(cell, vault.address, -777))
    return begin_cell().store_bytes(signature).store_ref(cell).end_cell()


def inside(message: Cell) -> Cell:
    """The body of an external message."""
    return message.begin_parse().skip_bits(4 + 267 + 4 + 1 + 1).to_cell()


def outside(vault: VaultInVm, body: Cell) -> Cell:
    head = begin_cell().store_uint(0b1000, 4).store_address(vault.address).store_coins(0).store_bit(0)
    return head.store_bit(0).store_cell(body).end_cell()


def paid_to(outcome: Outcome) -> int:
    """What a claim paid, as the vault says; the message carries that and what is left of the attached value."""
    assert (outcome.exit_code, outcome.action_code) == (0, 0)
    (payment,) = outcome.transaction.outgoing
    assert payment.operation == OP_PAID
    amount = int(payment.body.begin_parse().skip_bits(32 + 64).load_coins())
    assert 0 < payment.value - amount < outcome.transaction.received
    return amount
