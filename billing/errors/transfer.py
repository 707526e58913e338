"""Why a transfer that somebody asked for is not made."""

from __future__ import annotations

from billing.errors.root import BillingError


class TransferError(BillingError):
    """The transfer that was asked for cannot be made."""


class BadAddressError(TransferError):
    """The text is no address, or one of another network."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(text, why)
        self.text = text
        self.why = why

    def __str__(self) -> str:
        return f"{self.text[:80]!r} cannot be used as an address: {self.why}"


class BadAmountError(TransferError):
    """The text is no amount that can be sent."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(text, why)
        self.text = text
        self.why = why

    def __str__(self) -> str:
        return f"{self.text[:40]!r} cannot be used as an amount: {self.why}"


class BalanceTooLowError(TransferError):
    """The wallet holds less than amount and fees."""

    def __init__(self, balance: int, amount: int, fee: int) -> None:
        super().__init__(balance, amount, fee)
        self.balance = balance
        self.amount = amount
        self.fee = fee

    def __str__(self) -> str:
        return (
            f"the wallet holds {self.balance} nanoton, {self.amount} and fees of up to {self.fee} are needed: "
            f"send at least {self.amount + self.fee - self.balance} more to it"
        )


class BadRequestFileError(TransferError):
    """A request file is damaged, out of date, or for another wallet or network."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the request file cannot be used: {self.why}"


class DeadRequestError(BadRequestFileError):
    """The request was not executed, and never can be; its money may be sent by a new one."""


class PendingTransferError(TransferError):
    """An earlier transfer of this wallet has not been seen to its end; another one might pay twice."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"an earlier transfer of this wallet is not finished: run chrysalis wallet send {self.path}, "
            "which sends the same bytes again or finds what became of them"
        )


class TransferSkippedError(TransferError):
    """The wallet took the message, and left out a transfer: it held too little by then."""

    def __init__(self, transaction: str, made: int, asked: int) -> None:
        super().__init__(transaction, made, asked)
        self.transaction = transaction
        self.made = made
        self.asked = asked

    def __str__(self) -> str:
        return (
            f"transaction {self.transaction} made {self.made} of {self.asked} transfers: "
            "the rest of the money is still in the wallet; send what is missing again"
        )
