"""Who owns a contract, and the messages that hand it over. The contract's side is contracts/common.fc."""

from __future__ import annotations

from dataclasses import dataclass

from pytoniq_core import Address, Builder, Cell, Slice, begin_cell

__all__ = ["HANDOVER_DELAY_S", "Ownership", "accept_owner_body", "cancel_owner_body", "propose_owner_body"]

OP_PROPOSE_OWNER, OP_ACCEPT_OWNER, OP_CANCEL_OWNER = 0x434F0001, 0x434F0002, 0x434F0003
HANDOVER_DELAY_S = 86_400  # from a proposal until it may take effect, as the contracts have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """The owner, and the one proposed, if any, with the unix second from which on it may accept."""

    owner: Address
    next_owner: Address | None = None
    accept_from: int = 0

    def cell(self) -> Cell:
        """The owner's cell in a contract's state."""
        builder = begin_cell().store_address(self.owner).store_address(self.next_owner)
        return builder.store_uint(self.accept_from, 32).end_cell()

    @classmethod
    def parse(cls, s: Slice) -> Ownership:
        """The ownership in a contract's owner cell.

        Raises:
            ValueError: the cell is not of this layout.
        """
        owner, next_owner = s.load_address(), s.load_address()
        if s.remaining_bits != 32 or s.remaining_refs:
            raise ValueError(f"an owner's cell ends with {s.remaining_bits} bits, {s.remaining_refs} references")
        return cls(owner=_check(owner), next_owner=next_owner and _check(next_owner), accept_from=s.load_uint(32))


def _check(address: object) -> Address:
    if isinstance(address, Address):
        return address
    raise ValueError(f"an owner is an address of the network, not {address}")


def order_body(operation: int, query_id: int) -> Builder:
    """The beginning of every order to our contracts."""
    return begin_cell().store_uint(operation, 32).store_uint(query_id, 64)


def propose_owner_body(owner: Address, *, query_id: int = 0) -> Cell:
    """Propose another owner, in the basechain; only the owner may, and it replaces an earlier proposal."""
    if owner.wc != 0:
        raise ValueError(f"an owner must be in the basechain, not in {owner.wc}")
    return order_body(OP_PROPOSE_OWNER, query_id).store_address(owner).end_cell()


def accept_owner_body(*, query_id: int = 0) -> Cell:
    """Become the owner; only the proposed one may, from `HANDOVER_DELAY_S` after the proposal on."""
    return order_body(OP_ACCEPT_OWNER, query_id).end_cell()


def cancel_owner_body(*, query_id: int = 0) -> Cell:
    """Take the proposal back; only the owner may."""
    return order_body(OP_CANCEL_OWNER, query_id).end_cell()
