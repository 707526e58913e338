"""What is refused about batches, the treasury and claims."""

from __future__ import annotations

from billing.errors.root import BillingError


class SettlementError(BillingError):
    """The settlement batch refuses the event."""


class WrongBatchStateError(SettlementError):
    """The event does not fit the batch's state."""

    def __init__(self, batch: str, state: str, event: str) -> None:
        super().__init__(batch, state, event)
        self.batch = batch
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"batch {self.batch} is {self.state}: {self.event} does not fit"


class PrematureExpiryError(SettlementError):
    """The batch's message could still be executed, or was not looked for everywhere."""

    def __init__(self, batch: str, why: str) -> None:
        super().__init__(batch, why)
        self.batch = batch
        self.why = why

    def __str__(self) -> str:
        return f"batch {self.batch} is not proved to be dead: {self.why}; paying it again could pay twice"


class BooksRolledBackError(SettlementError):
    """The registry holds an epoch these books never anchored: they are an old copy, or not the operator's only ones."""

    def __init__(self, chain_epoch: int, books_epoch: int) -> None:
        super().__init__(chain_epoch, books_epoch)
        self.chain_epoch = chain_epoch
        self.books_epoch = books_epoch

    def __str__(self) -> str:
        return (
            f"epoch {self.chain_epoch} is anchored on the chain, these books end at {self.books_epoch}: "
            "paying from an old copy could pay twice; restore the newest journal"
        )


class SecondWriterError(SettlementError):
    """The treasury executed a settlement message that these books never signed: somebody else writes with its key."""

    def __init__(self, message_hash: str, lt: int) -> None:
        super().__init__(message_hash, lt)
        self.message_hash = message_hash
        self.lt = lt

    def __str__(self) -> str:
        return (
            f"the treasury executed message {self.message_hash} (logical time {self.lt}), which these books never "
            "signed: they are an old copy, or another program pays with the same key. Nothing is booked or sent; stop "
            "the other one and restore the newest journal. If the key was stolen, replace it first, then write this "
            "hash into settlement.acknowledged: its payments are then booked as the operator's own"
        )


class NothingToClaimError(SettlementError):
    """The vault's root in force entitles this payee to nothing, or the treasury takes no claims."""

    def __init__(self, payee: str, why: str) -> None:
        super().__init__(payee, why)
        self.payee = payee
        self.why = why

    def __str__(self) -> str:
        return f"{self.payee} has nothing to claim: {self.why}"


class MissingEntitlementsError(SettlementError):
    """The leaves behind the vault's root are not in the operator's folder."""

    def __init__(self, root: str, folder: str) -> None:
        super().__init__(root, folder)
        self.root = root
        self.folder = folder

    def __str__(self) -> str:
        return (
            f"{self.folder} lacks the entitlements of root {self.root}: restore it, or let the next order anchor anew"
        )


class StaleClaimError(SettlementError):
    """The claim proof leads to another root than the one in force."""

    def __init__(self, root: str, in_force: str) -> None:
        super().__init__(root, in_force)
        self.root = root
        self.in_force = in_force

    def __str__(self) -> str:
        return (
            f"the proof is for root {self.root}, the vault holds {self.in_force}: fetch a newer proof; "
            "what the old one promised was either paid out since or stands in the new one"
        )
