"""What reading any contract of ours takes: its code, its address, and data of exactly one layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pytoniq_core import Address, Cell, Slice
from pytoniq_core.tlb.account import StateInit

from billing.errors import WrongContractError
from billing.ton.proofs import AccountState
from contracts import load_code, load_hash

__all__ = ["check_bits", "check_end", "check_network", "code_of", "contract_address", "data_layout", "data_of"]


def code_of(name: str) -> Cell:
    """The committed code of a contract.

    Raises:
        RuntimeError: it is not the code the compiler printed the hash of.
    """
    code: Cell = Cell.one_from_boc(load_code(name))
    if code.hash != load_hash(name):
        raise RuntimeError(f"contracts/{name}.boc does not fit {name}.hash: run node contracts/compile.mjs")
    return code


def contract_address(init: StateInit) -> Address:
    """Where a contract with this initial state lives."""
    return Address((0, init.serialize().hash))


def data_of(account: AccountState, name: str) -> Cell:
    """The data of a proved account that has the contract's code.

    Raises:
        WrongContractError: the account is not active, or has another code.
    """
    where = str(account.address)
    if account.code is None or account.data is None:
        raise WrongContractError(where, f"the account is {account.status.value}")
    if account.code.hash != load_hash(name):
        raise WrongContractError(where, f"its code is {account.code.hash.hex()}")
    return account.data


def check_network(address: Address, got: int, expected: int) -> None:
    """Refuse a contract that was made for another network.

    Raises:
        WrongContractError: it was.
    """
    if got != expected:
        raise WrongContractError(str(address), f"made for network {got}, not {expected}")


@contextmanager
def data_layout(where: str, name: str) -> Iterator[None]:
    """Turn whatever parsing raises into `WrongContractError`, naming the contract whose data is not of the layout."""
    try:
        yield
    except Exception as error:  # pytoniq-core raises bare Exception on malformed cells
        raise WrongContractError(where, f"its data is not a {name}'s: {error}") from error


def check_bits(s: Slice, bits: int) -> None:
    """Check how many bits are left; ValueError otherwise."""
    if s.remaining_bits != bits:
        raise ValueError(f"{s.remaining_bits} bits where {bits} belong")


def check_end(s: Slice) -> None:
    """Check that nothing is left; ValueError otherwise."""
    if s.remaining_bits or s.remaining_refs:
        raise ValueError("data goes on where it should end")
