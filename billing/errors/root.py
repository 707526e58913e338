"""The root of billing's refusals, and the two that any record may meet."""

from __future__ import annotations


class BillingError(Exception):
    """The request is refused; the books are unchanged."""


class MalformedRecordError(BillingError):
    """The bytes do not form the record they should be."""

    def __init__(self, record: str, why: str) -> None:
        super().__init__(record, why)
        self.record = record
        self.why = why

    def __str__(self) -> str:
        return f"malformed {self.record}: {self.why}"


class BadSignatureError(BillingError):
    """The record is not signed by the key that had to sign it."""

    def __init__(self, record: str, signer: str) -> None:
        super().__init__(record, signer)
        self.record = record
        self.signer = signer

    def __str__(self) -> str:
        return f"the {self.record} is not signed by key {self.signer}"
