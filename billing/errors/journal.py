"""Why books cannot be opened or written."""

from __future__ import annotations

from billing.errors.root import BillingError


class JournalError(BillingError):
    """The journal cannot be used as it is."""


class JournalBusyError(JournalError):
    """Another process has the journal open."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is open in another process: stop that one first, two writers would lose entries"


class JournalLostError(JournalError):
    """The writer has lost its journal; whether the last records were written is not known."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(place, why)
        self.place = place
        self.why = why

    def __str__(self) -> str:
        return f"the journal in {self.place} is lost ({self.why}): open it anew, the books are what it says then"


class JournalPlaceError(JournalError):
    """The address of a journal is not one, or what it needs is missing."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(place, why)
        self.place = place
        self.why = why

    def __str__(self) -> str:
        return f"books cannot be kept in {self.place}: {self.why}"


class JournalMovedError(JournalError):
    """The books were moved away from here."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"the books in {self.path} were moved to another place: name that one as `books` in the settings"


class BooksDifferError(JournalError):
    """A copy of books is not what was copied."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path} is no copy of the books: {self.why}; the old ones stand, remove this one and move again"


class CorruptJournalError(JournalError):
    """The journal's chain of checksums breaks, or its file is damaged."""

    def __init__(self, path: str, after: int, why: str) -> None:
        super().__init__(path, after, why)
        self.path = path
        self.after = after
        self.why = why

    def __str__(self) -> str:
        return (
            f"{self.path} is damaged after record {self.after} ({self.why}): restore a backup, "
            "or call repair_journal to keep the valid prefix"
        )
