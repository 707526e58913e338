"""The vault as the settler's treasury: every batch is an order, with the root of what may be claimed after it.

The entitlements behind each root are on the disk before the order that anchors it is signed, so that payees can be
given their proofs whatever happens next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address
from pytoniq_core.tlb.account import StateInit

from billing.batch import Batch, SignedMessage
from billing.books import Books
from billing.claim_proof import ClaimProof, format_address, prove_claim
from billing.durable_file import replace_file
from billing.entitlements import Entitlements
from billing.errors import (
    BooksRolledBackError,
    MalformedRecordError,
    MissingEntitlementsError,
    NothingToClaimError,
)
from billing.ledger import Ledger
from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.outgoing import OutMessage
from billing.ton.proofs import AccountState, AccountStatus
from billing.ton.sender import last_taken
from billing.ton.transaction import Transaction
from billing.ton.vault import VaultState, parse_vault, parse_vault_data, vault_address
from billing.ton.vault_order import MESSAGES_MAX, TIMEOUT_S, Order, order_funds, order_is_void, sign_order

__all__ = ["EntitlementFiles", "VaultSender", "entitlements_after", "held_after"]

NOBODY = Entitlements(amounts={})
_OWED = ("client:", "hold:", "payee:", "settling:")  # accounts of money that is not the operator's


@dataclass(frozen=True, kw_only=True)
class EntitlementFiles:
    """The entitlements of the last roots, one file each, named by the root."""

    folder: Path

    def keep(self, entitlements: Entitlements, *, also: bytes) -> None:
        """Write entitlements durably, and drop all others but those of the root `also`, which is still in force."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(entitlements.root)
        replace_file(path, entitlements.encode())
        for old in set(self.folder.iterdir()) - {path, self._path(also)}:
            old.unlink()

    def load(self, root: bytes) -> Entitlements:
        """The entitlements behind a root.

        Raises:
            MissingEntitlementsError: they are not here.
            MalformedRecordError: the file is damaged.
        """
        try:
            entitlements = Entitlements.parse(self._path(root).read_bytes())
        except FileNotFoundError as error:
            raise MissingEntitlementsError(root.hex(), str(self.folder)) from error
        if entitlements.root != root:
            raise MalformedRecordError("entitlements", f"their root is {entitlements.root.hex()}")
        return entitlements

    def _path(self, root: bytes) -> Path:
        return self.folder / f"{root.hex()}.bin"


@dataclass(frozen=True, kw_only=True)
class VaultSender:
    """One vault: its first state, which gives the address, and where entitlements are kept."""

    init: StateInit
    files: EntitlementFiles
    timeout_s: int = TIMEOUT_S
    payouts_max: int = MESSAGES_MAX - 1  # one message is left for the registry's anchor

    @property
    def address(self) -> Address:
        """Where the vault lives."""
        return vault_address(self.init)

    def funds_needed(self, messages: Sequence[OutMessage]) -> Nanotons:
        """See `billing.ton.sender.Sender`."""
        return order_funds(messages)

    def sign_batch(
        self,
        batch: Batch,
        messages: Sequence[OutMessage],
        *,
        key: Ed25519PrivateKey,
        state: AccountState,
        books: Books,
    ) -> SignedMessage:
        """Sign the batch as the vault's next order.

        Raises:
            BooksRolledBackError: the vault executed orders these books do not know.
            WrongContractError: the account is no vault.
        """
        vault = self.state(state)
        _check_orders_known(vault, self.address, books)
        entitlements = entitlements_after(books.ledger)
        self.files.keep(entitlements, also=vault.root)
        return sign_order(
            Order(messages=tuple(messages), root=entitlements.root, held=held_after(books.ledger, batch)),
            vault=self.address,
            state=vault,
            key=key,
            created_at=state.head.time,
            after_lt=state.last_lt,
            timeout_s=self.timeout_s,
            deploy=None if state.status is AccountStatus.ACTIVE else self.init,
        )

    def is_void(self, message: SignedMessage, state: AccountState) -> bool:
        """See `billing.ton.sender.Sender`."""
        return order_is_void(message, self.state(state))

    def is_settlement(self, taken: Transaction) -> bool:
        """See `billing.ton.sender.Sender`: every order is."""
        return bool(taken.incoming and not taken.incoming.internal)

    def paying(self, taken: Transaction, recent: Sequence[Transaction]) -> Transaction | None:  # noqa: ARG002 - Sender
        """The vault pays in the transaction that takes the order."""
        return taken

    def claim_proof(self, payee: bytes, state: AccountState) -> ClaimProof:
        """What a payee (33 bytes) may claim under the root in force.

        Raises:
            NothingToClaimError: nothing is anchored for this payee, or it claimed it.
            MissingEntitlementsError: the leaves behind the root are not here.
        """
        vault = self.state(state)
        where = format_address(payee_of(self.address))
        entitlements = NOBODY if vault.root == NOBODY.root else self.files.load(vault.root)
        proof = prove_claim(
            entitlements, payee, network_id=vault.network_id, vault=payee_of(self.address), seqno=vault.seqno
        )
        if proof.index in vault.claimed:
            raise NothingToClaimError(format_address(payee), f"{where} paid the claim under the root in force")
        return proof

    def state(self, account: AccountState) -> VaultState:
        """The vault's state; its first one, when it is still to be deployed.

        Raises:
            WrongContractError: something else stands at its address.
        """
        if account.status in {AccountStatus.ABSENT, AccountStatus.UNINITIALISED}:
            return parse_vault_data(self.init.data, str(account.address))
        return parse_vault(account)


def entitlements_after(ledger: Ledger) -> Entitlements:
    """What payees may claim once every batch under way is paid: what they are owed outside of batches.

    The books know every claim that was paid when the order is signed; one they do not know makes the order void.
    """
    return Entitlements(amounts={payable.payee: payable.amount for payable in ledger.payables()})


def held_after(ledger: Ledger, batch: Batch) -> int:
    """Nanotons that are not the operator's once `batch` is paid."""
    owed = sum(amount for account, amount in ledger.balances().items() if account.startswith(_OWED))
    return owed - batch.amount


def _check_orders_known(vault: VaultState, address: Address, books: Books) -> None:
    """Refuse to sign from books that miss an order: what it pushed would be paid again."""
    last = last_taken(books, address)
    known = 0 if last is None else last.query_id + 1
    if vault.seqno % (1 << 23) != known:
        raise BooksRolledBackError(vault.seqno, known)
