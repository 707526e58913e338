"""What a job costs: tokens times tariff times the host's coefficient, rounded once, up."""

from __future__ import annotations

from dataclasses import dataclass

from billing.money import NANOTONS_MAX, Nanotons

TOKENS_PER_PRICE = 1_000_000  # prices are for a million tokens
COEFFICIENT_ONE = 1_000  # coefficients are parts per thousand: 1000 is the tariff itself
COEFFICIENT_MAX = 1_000_000
TOKENS_MAX = (1 << 32) - 1  # a count of tokens travels as u32


def check_coefficient(coefficient: int) -> int:
    """Return the coefficient, parts per thousand; 0 means the host works for free.

    Raises:
        ValueError: not an int from 0 to `COEFFICIENT_MAX`.
    """
    if type(coefficient) is not int or not 0 <= coefficient <= COEFFICIENT_MAX:
        raise ValueError(f"coefficient must be an int from 0 to {COEFFICIENT_MAX} thousandths, got {coefficient!r}")
    return coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens one job consumed, counted inside the enclave."""

    prompt_tokens: int
    completion_tokens: int

    def __post_init__(self) -> None:
        _check_tokens("prompt_tokens", self.prompt_tokens)
        _check_tokens("completion_tokens", self.completion_tokens)


def _check_tokens(name: str, count: int) -> None:
    if type(count) is not int or not 0 <= count <= TOKENS_MAX:
        raise ValueError(f"{name} must be an int from 0 to {TOKENS_MAX}, got {count!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Prices of one model, nanotons per million tokens."""

    prompt_price: int
    completion_price: int

    def __post_init__(self) -> None:
        for name in ("prompt_price", "completion_price"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= NANOTONS_MAX:
                raise ValueError(f"{name} must be an int from 0 to {NANOTONS_MAX}, got {value!r}")


def price(usage: Usage, tariff: Tariff, *, coefficient: int) -> Nanotons:
    """Return what `usage` costs.

    Everything is multiplied first and divided once, rounding up to a whole nanoton. Rounding up makes the price
    subadditive: splitting a job never makes it cheaper.

    Args:
        usage: tokens consumed.
        tariff: prices of the model.
        coefficient: the host's multiplier, parts per thousand.

    Raises:
        ValueError: the coefficient is out of range.
    """
    weighted = usage.prompt_tokens * tariff.prompt_price + usage.completion_tokens * tariff.completion_price
    return Nanotons(-(-weighted * check_coefficient(coefficient) // (TOKENS_PER_PRICE * COEFFICIENT_ONE)))


def quote(prompt_tokens: int, max_tokens: int, tariff: Tariff, coefficient: int) -> Nanotons:
    """Return the most a job can cost: all `max_tokens` are produced. Never below the final `price`."""
    return price(Usage(prompt_tokens=prompt_tokens, completion_tokens=max_tokens), tariff, coefficient=coefficient)
