"""What the settler needs of a treasury: signing a batch, and telling from the chain what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.batch import Batch, SignedMessage
from billing.books import Books
from billing.money import Nanotons
from billing.ton.outgoing import OutMessage
from billing.ton.proofs import AccountState
from billing.ton.transaction import Transaction

__all__ = ["Sender"]


class Sender(Protocol):
    """A treasury's kind: highload wallet v3 (`billing.ton.highload`) or vault (`billing.ton.vault_sender`)."""

    @property
    def address(self) -> Address:
        """Where the treasury lives."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether a batch may be signed only when no other one is under way."""

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
        """The message that makes the treasury send `messages`; `books` are caught up to the proved `state`."""

    def is_void(self, message: SignedMessage, state: AccountState) -> bool:
        """Whether the treasury will refuse the message in this proved state and every later one."""

    def paying(self, taken: Transaction, recent: Sequence[Transaction]) -> Transaction | None:
        """The transaction that makes the payments of the message `taken` took; None while it is still to come."""
