"""The few fields of messages, transactions and accounts that the devnet itself reads or writes.

Source: block.tlb of the TON node (`Message`, `Transaction`, `ShardAccount`, `Account`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pytoniq_core import Address

from billing.ton.devnet.boc import encode_boc, parse_one
from billing.ton.devnet.cells import EMPTY, Builder, Cell, Reader
from billing.ton.devnet.errors import MalformedCellError
from billing.ton.devnet.trie import read_refs

_TRANSACTION_TAG = 7
_OUT_MESSAGES_BITS = 15


class AccountId(NamedTuple):
    """Workchain and 256-bit account id."""

    workchain: int
    id: bytes

    @property
    def key(self) -> int:
        """The id as a dictionary key."""
        return int.from_bytes(self.id, "big")

    def __str__(self) -> str:
        return f"{self.workchain}:{self.id.hex()}"

    @classmethod
    def parse(cls, text: str) -> AccountId:
        """Read a raw (`0:hex`) or user-friendly address.

        Raises:
            ValueError: the text is neither.
        """
        try:
            address = Address(text)
        except Exception as error:  # the library raises many kinds, some of them bare
            raise ValueError(f"{text!r} is not a TON address: give 0:<64 hex digits> or the base64 form") from error
        return cls(address.wc, bytes(address.hash_part))


FAUCET = AccountId(-1, bytes(32))  # the address real networks mint from


def load_address(reader: Reader) -> AccountId | None:
    """Read a MsgAddress; None for addr_none.

    Raises:
        MalformedCellError: an external or variable-length address, which no account of this chain has.
    """
    kind = reader.uint(2)
    if kind == 0:
        return None
    if kind != 2 or reader.uint(1):
        raise MalformedCellError("only standard addresses without anycast exist on this chain")
    return AccountId(reader.sint(8), reader.octets(32))


def store_address(builder: Builder, address: AccountId) -> Builder:
    """Append a standard address."""
    return builder.uint(0b100, 3).sint(address.workchain, 8).octets(address.id)


def external_destination(message: Cell) -> AccountId | None:
    """Return whom an inbound external message addresses; None when it is another kind of message."""
    reader = Reader(message)
    if reader.uint(2) != 2:
        return None
    source = reader.uint(2)
    if source == 1:
        reader.uint(reader.uint(9))
    elif source != 0:
        raise MalformedCellError("an external message comes from no address or from an external one")
    return load_address(reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """An internal message on its way: to whom, the nanotons inside (value and prepaid fees), and its bag of cells."""

    to: AccountId
    amount: int
    boc: bytes


def parcel(message: Cell, boc: bytes | None = None) -> Parcel | None:
    """Address an internal message; None for a message that leaves the chain."""
    reader = Reader(message)
    if reader.uint(1):
        return None
    reader.uint(3)
    load_address(reader)
    to = load_address(reader)
    if to is None:
        raise MalformedCellError("an internal message without destination")
    value = reader.coins()
    if reader.uint(1):
        reader.ref()  # extra currencies
    amount = value + reader.coins() + reader.coins()
    return Parcel(to=to, amount=amount, boc=encode_boc(message) if boc is None else boc)


def minted_message(to: AccountId, amount: int, *, lt: int, now: int) -> Parcel:
    """Build the internal message that brings freshly minted nanotons to an account, without bounce."""
    builder = Builder().uint(0b0100, 4)  # int_msg_info, instant hypercube routing disabled, no bounce
    store_address(builder, FAUCET)
    store_address(builder, to)
    builder.currency(amount).coins(0).coins(0).uint(lt, 64).uint(now, 32)
    message = builder.uint(0, 1).uint(0, 1).cell()  # no state init, empty body in place
    return Parcel(to=to, amount=amount, boc=encode_boc(message))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """One executed transaction."""

    account: AccountId
    lt: int
    cell: Cell
    boc: bytes
    outgoing: tuple[Cell, ...]
    fees: int  # total_fees, nanotons

    @property
    def amount(self) -> int:
        """What the transaction adds to the sums of an account block."""
        return self.fees

    def content(self) -> Cell:
        """As it stands in an account block: a reference."""
        return Builder().ref(self.cell).cell()


def parse_transaction(workchain: int, boc: bytes) -> Transaction:
    """Read a transaction the emulator made."""
    cell = parse_one(boc)
    reader = Reader(cell)
    if reader.uint(4) != _TRANSACTION_TAG:
        raise MalformedCellError("not a transaction")
    account, lt = reader.octets(32), reader.uint(64)
    reader.uint(256 + 64 + 32 + 15 + 2 + 2)  # previous hash and lt, time, number of messages, states
    messages = Reader(reader.ref())
    fees = reader.coins()
    if messages.uint(1):
        messages.ref()
    outgoing = read_refs(messages.ref(), _OUT_MESSAGES_BITS) if messages.uint(1) else []
    return Transaction(
        account=AccountId(workchain, account), lt=lt, cell=cell, boc=boc, outgoing=tuple(outgoing), fees=fees
    )


def previous_transaction(transaction: Cell) -> tuple[int, bytes]:
    """Return lt and hash of the transaction before this one; (0, zeros) for the first."""
    reader = Reader(transaction)
    reader.uint(4 + 256 + 64)
    digest = reader.octets(32)
    return reader.uint(64), digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account as the shard state holds it: the bag of cells of its ShardAccount and what was read from it."""

    boc: bytes
    cell: Cell  # ShardAccount
    exists: bool
    amount: int  # balance, nanotons

    def content(self) -> Cell:
        """As it stands in the shard's dictionary."""
        return self.cell

    @property
    def state(self) -> Cell:
        """The Account cell."""
        return self.cell.refs[0]

    @property
    def last(self) -> tuple[int, bytes]:
        """Lt and hash of its last transaction."""
        reader = Reader(self.cell)
        digest = reader.octets(32)
        return reader.uint(64), digest


def parse_account(boc: bytes) -> Account:
    """Read a ShardAccount the emulator made."""
    cell = parse_one(boc)
    reader = Reader(cell.refs[0])
    exists = bool(reader.uint(1))
    return Account(boc=boc, cell=cell, exists=exists, amount=_balance(reader) if exists else 0)


def _balance(reader: Reader) -> int:
    """Read on from the first bit of `account$1` to the balance."""
    load_address(reader)
    _skip_storage_info(reader)
    reader.uint(64)  # last_trans_lt
    return reader.coins()


def _skip_storage_info(reader: Reader) -> None:
    for _ in range(3):  # cells, bits, public cells: VarUInteger 7
        reader.uint(8 * reader.uint(3))
    reader.uint(32)  # last_paid
    if reader.uint(1):
        reader.coins()  # due_payment


def account_program(account: Account) -> tuple[Cell, Cell] | None:
    """Return code and data of an active account; None when it runs no code."""
    reader = Reader(account.state)
    if not reader.uint(1):
        return None
    _balance(reader)
    if reader.uint(1):
        reader.ref()  # extra currencies
    if not reader.uint(1):
        return None  # uninitialised or frozen
    if reader.uint(1):
        reader.uint(5)  # split_depth
    if reader.uint(1):
        reader.uint(2)  # special
    code = reader.ref() if reader.uint(1) else None
    data = reader.ref() if reader.uint(1) else None
    return (code, data or EMPTY) if code else None


def _no_account() -> Account:
    cell = Builder().ref(Builder().uint(0, 1).cell()).octets(bytes(32)).uint(0, 64).cell()
    return Account(boc=encode_boc(cell), cell=cell, exists=False, amount=0)


NO_ACCOUNT = _no_account()
