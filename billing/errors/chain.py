"""What the chain answered that is refused, and why it could not be asked."""

from __future__ import annotations

from billing.errors.root import BillingError


class ProofRejectedError(BillingError):
    """A chain answer whose proof does not hold."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why

    def __str__(self) -> str:
        return f"the proof of {self.what} does not hold: {self.why}"


class ChainsDisagreeError(BillingError):
    """Two lite-servers show different blocks of one number: one of them lies, or they serve two networks."""

    def __init__(self, seqno: int, first: str, second: str) -> None:
        super().__init__(seqno, first, second)
        self.seqno = seqno
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"masterchain block {self.seqno} is {self.first} for the first lite-server, {self.second} for the second: "
            "nothing is booked or sent; find out which of them is right before going on"
        )


class MessageRejectedError(BillingError):
    """The chain refused the message; it has no effect."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the chain refused the message: {self.why}"


class ChainError(Exception):
    """The chain could not be asked; retry may help."""


class ChainUnreachableError(ChainError):
    """No usable answer from the lite-server."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why

    def __str__(self) -> str:
        return f"{self.what}: the lite-server gave no answer ({self.why})"


class SendOutcomeUnknownError(ChainError):
    """A message was sent and whether it arrived is not known."""

    def __init__(self, message_hash: str, why: str) -> None:
        super().__init__(message_hash, why)
        self.message_hash = message_hash
        self.why = why

    def __str__(self) -> str:
        return f"message {self.message_hash} may or may not have arrived ({self.why}): look on the chain first"


class WrongContractError(BillingError):
    """The account is not the contract it should be, or not on this network."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why

    def __str__(self) -> str:
        return f"{self.address} is not the expected contract ({self.why}): check the configured address"


class UnknownOperatorError(BillingError):
    """The registry names no such operator, or several, or one that does not do what is asked of it."""

    def __init__(self, why: str, known: tuple[str, ...]) -> None:
        super().__init__(why, known)
        self.why = why
        self.known = known

    def __str__(self) -> str:
        return f"{self.why}; the registry names: {'; '.join(self.known) or 'nobody'}"


class WrongNetworkError(BillingError):
    """The lite-server serves another network than the configuration names."""

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(got, expected)
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the lite-server serves network {self.got}, the configuration names {self.expected}: check both"


class StaleChainError(ChainError):
    """The newest block the lite-server shows cannot be the newest one."""

    def __init__(self, seqno: int, why: str) -> None:
        super().__init__(seqno, why)
        self.seqno = seqno
        self.why = why

    def __str__(self) -> str:
        return f"masterchain block {self.seqno} is not current ({self.why}): ask another lite-server or check the clock"
