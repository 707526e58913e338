"""Why a statement cannot be made as it was asked for."""

from __future__ import annotations

from billing.errors.root import BillingError


class StatementError(BillingError):
    """The statement cannot be made as it was asked for."""


class StatementMismatchError(StatementError):
    """A statement that was fetched is not the one asked for, or does not hold together."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the statement cannot be believed: {self.why}; ask the operator, and show it your own receipts"


class StatementRefusedError(StatementError):
    """The operator's gateway gives no statement."""

    def __init__(self, gateway: str, why: str) -> None:
        super().__init__(gateway, why)
        self.gateway = gateway
        self.why = why

    def __str__(self) -> str:
        return f"{self.gateway} gives no statement: {self.why}"


class StatementTooLongError(StatementError):
    """It has more movements than one answer carries."""

    def __init__(self, movements: int, movements_max: int) -> None:
        super().__init__(movements, movements_max)
        self.movements = movements
        self.movements_max = movements_max

    def __str__(self) -> str:
        return f"{self.movements} movements, one answer has at most {self.movements_max}: ask for a shorter period"


class NoStatementError(StatementError):
    """The books never heard of the party."""

    def __init__(self, party: str) -> None:
        super().__init__(party)
        self.party = party

    def __str__(self) -> str:
        return f"the books know nothing of {self.party}: nothing was deposited, promised or earned yet"


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
