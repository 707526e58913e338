"""What a check says, for tests that look at the words."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import pytest

from attestation.errors import AttestationError
from attestation.verdict import Check


class Said(NamedTuple):
    """One check without its outcome."""

    name: str
    seen: str
    required: str

    @classmethod
    def by(cls, check: Check) -> Self:
        return cls(check.name, check.seen, check.required)


def refusal(call: Callable[[], object]) -> Said:
    """The check that refuses, which must be the last one."""
    with pytest.raises(AttestationError) as caught:
        call()
    assert caught.value.checks[-1].outcome == "failed"
    return Said.by(caught.value.checks[-1])
