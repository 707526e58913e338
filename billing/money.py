"""Money is a whole number of nanotons, 10^9 to the TON; never a float."""

from __future__ import annotations

import re
from typing import NewType

from billing.errors import BadAmountError

Nanotons = NewType("Nanotons", int)

NANOTONS_PER_TON = 1_000_000_000
NANOTONS_MAX = (1 << 63) - 1  # above all TON there is (about 5.1 * 10^18 nanoton); fits signed 64 bits


def check_nanotons(amount: int, what: str) -> Nanotons:
    """Return `amount` as money.

    Raises:
        ValueError: not a plain int, negative, or more than exists.
    """
    if type(amount) is not int or not 0 <= amount <= NANOTONS_MAX:
        raise ValueError(f"{what} must be an int from 0 to {NANOTONS_MAX} nanoton, got {amount!r}")
    return Nanotons(amount)


def format_ton(amount: int) -> str:
    """Write nanotons as TON with all nine decimals, exact and signed: `1500000000` is `1.500000000`."""
    whole, rest = divmod(abs(amount), NANOTONS_PER_TON)
    return f"{'-' if amount < 0 else ''}{whole}.{rest:09d}"


def parse_ton(text: str) -> Nanotons:
    """Read TON written in decimal, at most nine places, exactly.

    Raises:
        ValueError: anything but digits with an optional fraction of at most nine digits.
    """
    whole, _, fraction = text.strip().partition(".")
    if not re.fullmatch(r"[0-9]+", whole) or not re.fullmatch(r"[0-9]{0,9}", fraction):
        raise ValueError(f"not an amount of TON: {text!r} (write for example 1.5)")
    return check_nanotons(int(whole) * NANOTONS_PER_TON + int(fraction.ljust(9, "0")), "amount")


def parse_amount(text: str) -> Nanotons:
    """Read an amount to send: TON in decimal (`1.5`), or whole nanotons with their unit (`1500000000nano`).

    Raises:
        BadAmountError: neither, zero, below zero, or more than exists.
    """
    try:
        whole = re.fullmatch(r"([0-9]{1,19})nano", text)
        amount = check_nanotons(int(whole[1]), "amount") if whole else parse_ton(text)
    except ValueError as error:
        raise BadAmountError(text, str(error)) from None
    if amount == 0:
        raise BadAmountError(text, "it is nothing")
    return amount
