"""What a cut leaves: the blocks and states that queries are answered from, and what must be stored with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from billing.ton.devnet.blocks import MASTERCHAIN, BlockId, Moment
from billing.ton.devnet.cells import Cell
from billing.ton.devnet.messages import Account, AccountId, Parcel, Transaction
from billing.ton.devnet.trie import AugmentedTrie


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One cut: a masterchain block, the basechain block it commits to, and the states after them."""

    moment: Moment
    ids: Mapping[int, BlockId]
    blocks: Mapping[int, Cell]
    states: Mapping[int, Cell]
    accounts: Mapping[int, AugmentedTrie]
    shards: Cell

    @property
    def seqno(self) -> int:
        """Number of both blocks."""
        return self.moment.seqno

    @property
    def master(self) -> BlockId:
        """Name of the masterchain block."""
        return self.ids[MASTERCHAIN]

    def account(self, account: AccountId) -> Account | None:
        """The account in this state, or None."""
        trie = self.accounts.get(account.workchain)
        found = trie.get(account.key) if trie else None
        return found if isinstance(found, Account) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a cut changed: the snapshot, and all that must be stored with it."""

    snapshot: Snapshot
    is_key: bool
    bocs: Mapping[int, bytes]
    transactions: tuple[Transaction, ...]
    changed: Mapping[AccountId, Account]
    queue: tuple[Parcel, ...]
