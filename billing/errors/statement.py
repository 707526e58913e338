"""Why a statement cannot be made as it was asked for."""

from __future__ import annotations

from billing.errors.root import BillingError


class StatementError(BillingError):
    """The statement cannot be made as it was asked for."""


class PriceFileError(StatementError):
    """The file of prices is not one."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(line, why)
        self.line = line
        self.why = why

    def __str__(self) -> str:
        return f"the file of prices, line {self.line}: {self.why}"


class MissingPriceError(StatementError):
    """A day has movements and no price."""

    def __init__(self, currency: str, day: str) -> None:
        super().__init__(currency, day)
        self.currency = currency
        self.day = day

    def __str__(self) -> str:
        return f"there is no price in {self.currency} of {self.day}: add it, nothing is guessed"
