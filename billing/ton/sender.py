"""What the settler needs of a treasury: signing a batch, and telling from the chain what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address, Cell

from billing.batch import Batch, BatchState, SignedMessage
from billing.books import Books
from billing.claim_proof import ClaimProof
from billing.money import Nanotons
from billing.ton.outgoing import OutMessage
from billing.ton.proofs import AccountState
from billing.ton.transaction import Transaction

__all__ = ["Sender", "last_taken"]

_TAKEN = {BatchState.ACCEPTED, BatchState.CONFIRMED}


class Sender(Protocol):
    """A treasury's kind: highload wallet v3 (`billing.ton.highload`) or vault (`billing.ton.vault_sender`)."""

    @property
    def address(self) -> Address:
        """Where the treasury lives."""

    @property
    def payouts_max(self) -> int:
        """How many payouts a batch may have; the registry's anchor may ride with them."""

    def funds_needed(self, messages: Sequence[OutMessage]) -> Nanotons:
        """What the treasury must hold before a batch is sent."""

    def sign_batch(
        self,
        batch: Batch,
        messages: Sequence[OutMessage],
        *,
        key: Ed25519PrivateKey,
        state: AccountState,
        books: Books,
    ) -> SignedMessage:
        """The message that makes the treasury send `messages`; `books` are caught up to the proved `state`.

        It is good only if no other message of its number was executed, so it is signed when none is under way.
        """

    def is_settlement(self, taken: Transaction) -> bool:
        """Whether the message `taken` took bears a number of the settler's, and not one free for the key's holder."""

    def is_void(self, message: SignedMessage, state: AccountState) -> bool:
        """Whether the treasury will refuse the message in this proved state and every later one."""

    def claim_proof(self, payee: bytes, state: AccountState) -> ClaimProof:
        """What a payee may claim in this proved state; NothingToClaimError for nothing."""

    def paying(self, taken: Transaction, recent: Sequence[Transaction]) -> Transaction | None:
        """The transaction that makes the payments of the message `taken` took; None while it is still to come."""


def last_taken(books: Books, address: Address) -> SignedMessage | None:
    """The last message that the treasury at `address` executed, as the books know it; None before the first."""
    for batch in reversed(tuple(books.batches().values())):
        if batch.message and batch.state in _TAKEN and _goes_to(batch.message, address):
            return batch.message
    return None


def _goes_to(message: SignedMessage, address: Address) -> bool:
    return bool(Cell.one_from_boc(message.boc).begin_parse().skip_bits(4).load_address() == address)
