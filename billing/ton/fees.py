"""What a wallet's message will cost, before it is signed. Pure; prices of the basechain, configuration 18 to 25.

An estimate for people who are about to confirm: forwarding and import follow from the cells, gas was measured on the
devnet, which has the mainnet's prices. Rent that a wallet owes after years of rest, and what a receiving contract
does with the money, are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytoniq_core import Cell

from billing.money import Nanotons
from billing.ton.wallet import Transfer

__all__ = ["message_fee", "wallet_fee"]

LUMP, BIT, CELL = 400_000, 400, 40_000  # nanotons: for a message, and for each bit and cell below its root
GAS = 400  # nanotons
WALLET_GAS, TRANSFER_GAS = 5_000, 760  # of a wallet V5: for one message, and for each further transfer; a little over


def wallet_fee(external: bytes, transfers: Sequence[Transfer]) -> Nanotons:
    """The most that the wallet pays for a message, beyond the amounts: import, gas, and forwarding of the transfers.

    Args:
        external: the wallet's message as a bag of cells; the signature may be any 64 bytes.
        transfers: what it sends.
    """
    forward = sum(message_fee(transfer.message()) for transfer in transfers)
    gas = WALLET_GAS + TRANSFER_GAS * (len(transfers) - 1)
    return Nanotons(message_fee(Cell.one_from_boc(external)) + gas * GAS + forward)


def message_fee(message: Cell) -> int:
    """Nanotons for carrying a message: its root cell is free, a cell that stands in it twice counts once."""
    below = {cell.hash: cell for root in message.refs for cell in _tree(root)}
    return LUMP + sum(BIT * len(cell.bits) + CELL for cell in below.values())


def _tree(cell: Cell) -> Iterable[Cell]:
    yield cell
    for child in cell.refs:
        yield from _tree(child)
