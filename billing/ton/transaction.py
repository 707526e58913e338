"""A transaction of one account: what came in, what went out, and what it did to the balance.

Read by hand from the cell, whose hash the caller has checked: a batch has 128 out-messages, and the general parser
takes ten times as long. Source: TL-B Transaction, Message, CommonMsgInfo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytoniq_core import Cell, Slice

from billing.errors import ProofRejectedError
from billing.ton.cells import check_whole, leaves, proof_step

__all__ = ["Message", "Transaction", "parse_transaction"]

OUT_MESSAGES_MAX = 255  # the network's limit of actions in one transaction
OUT_KEY_BITS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. Addresses are 33 bytes (workchain, account id), None for none; amounts are nanotons."""

    hash: bytes
    internal: bool
    bounced: bool
    source: bytes | None
    destination: bytes | None
    value: int
    fees: int  # forwarding fees that travel with the message
    body: Cell

    @property
    def operation(self) -> int | None:
        """The first 32 bits of the body, None when it is shorter."""
        return int(self.body.begin_parse().preload_uint(32)) if len(self.body.bits) >= 32 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """One step in an account's life. Amounts are nanotons, time is unix seconds."""

    hash: bytes
    lt: int
    time: int
    previous_hash: bytes
    previous_lt: int
    incoming: Message | None
    outgoing: tuple[Message, ...]
    fees: int

    @property
    def received(self) -> int:
        """What came in."""
        return self.incoming.value if self.incoming else 0

    @property
    def sent(self) -> int:
        """What the out-messages carry away, without their fees."""
        return sum(message.value for message in self.outgoing)

    @property
    def cost(self) -> int:
        """All fees the account paid: collected here, and attached to out-messages."""
        return self.fees + sum(message.fees for message in self.outgoing)

    @property
    def balance_change(self) -> int:
        """What the transaction did to the account's balance."""
        return self.received - self.sent - self.cost


def parse_transaction(cell: Cell, account: bytes) -> Transaction:
    """The transaction in `cell`, which must be of the account with this 32-byte id.

    Raises:
        ProofRejectedError: it is not a whole transaction of this account.
    """
    check_whole(cell, "the transaction")
    with proof_step("the transaction"):
        s = cell.begin_parse()
        if s.load_uint(4) != 0b0111:
            raise ProofRejectedError("the transaction", "the cell is not one")
        owner = s.load_bytes(32)
        if owner != account:
            raise ProofRejectedError("the transaction", f"it is of account {owner.hex()}, expected {account.hex()}")
        lt, previous_hash, previous_lt = s.load_uint(64), s.load_bytes(32), s.load_uint(64)
        time = s.load_uint(32)
        s.skip_bits(15 + 2 + 2)
        messages = s.load_ref().begin_parse()
        incoming = _parse_message(messages.load_ref()) if messages.load_bit() else None
        outgoing = tuple(_out_messages(messages.load_ref())) if messages.load_bit() else ()
        return Transaction(
            hash=cell.hash,
            lt=lt,
            time=time,
            previous_hash=previous_hash,
            previous_lt=previous_lt,
            incoming=incoming,
            outgoing=outgoing,
            fees=s.load_coins(),
        )


def _out_messages(root: Cell) -> Iterator[Message]:
    """The out-messages in order, from the dictionary that holds them."""
    for count, (_, leaf) in enumerate(leaves(root, OUT_KEY_BITS)):
        if count == OUT_MESSAGES_MAX:
            raise ProofRejectedError("the transaction", f"more than {OUT_MESSAGES_MAX} out-messages")
        yield _parse_message(leaf.load_ref())


def _parse_message(cell: Cell) -> Message:
    s = cell.begin_parse()
    if s.load_bit():
        return _parse_external(s, cell.hash, outgoing=bool(s.load_bit()))
    s.skip_bits(2)  # ihr_disabled, bounce
    bounced = bool(s.load_bit())
    source, destination = _load_address(s), _load_address(s)
    value = s.load_coins()
    if s.load_bit():  # extra currencies are of no interest here
        s.load_ref()
    fees = s.load_coins() + s.load_coins()
    s.skip_bits(64 + 32)
    return Message(
        hash=cell.hash,
        internal=True,
        bounced=bounced,
        source=source,
        destination=destination,
        value=value,
        fees=fees,
        body=_load_body(s),
    )


def _parse_external(s: Slice, digest: bytes, *, outgoing: bool) -> Message:
    source, destination = _load_address(s), _load_address(s)
    if outgoing:
        s.skip_bits(64 + 32)
    else:
        s.load_coins()
    return Message(
        hash=digest,
        internal=False,
        bounced=False,
        source=source,
        destination=destination,
        value=0,
        fees=0,
        body=_load_body(s),
    )


def _load_address(s: Slice) -> bytes | None:
    """An address as 33 bytes; None for none and for external ones."""
    kind = s.load_uint(2)
    if kind == 0:
        return None
    if kind == 1:
        s.skip_bits(s.load_uint(9))
        return None
    if kind == 2 and not s.load_bit():
        workchain = s.load_int(8)
        return int(workchain).to_bytes(1, "big", signed=True) + bytes(s.load_bytes(32))
    raise ProofRejectedError("the message", "its address is of a kind the basechain does not use")


def _load_body(s: Slice) -> Cell:
    if s.load_bit():
        if s.load_bit():
            s.load_ref()
        else:
            _skip_state_init(s)
    return s.load_ref() if s.load_bit() else s.to_cell()


def _skip_state_init(s: Slice) -> None:
    if s.load_bit():
        s.skip_bits(5)
    if s.load_bit():
        s.skip_bits(2)
    for _ in ("code", "data", "library"):
        if s.load_bit():
            s.load_ref()
