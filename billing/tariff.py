"""What a job costs: four counts of tokens times four prices times the host's coefficient, rounded once, up.

Counts nest as in the OpenAI API: cached tokens are those of the prompt that came out of a cache, reasoning tokens are
those of the completion that the reader does not see. Each token is charged at one price.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from billing.money import NANOTONS_MAX, Nanotons

TOKENS_PER_PRICE = 1_000_000  # prices are for a million tokens
COEFFICIENT_ONE = 1_000  # coefficients are parts per thousand: 1000 is the tariff itself
COEFFICIENT_MAX = 1_000_000
FEE_ONE = 1_000  # operator's fees are parts per thousand of the price
TOKENS_MAX = (1 << 32) - 1  # a count of tokens travels as u32
_DIVISOR = TOKENS_PER_PRICE * COEFFICIENT_ONE


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
    cached_tokens: int = 0  # of prompt_tokens
    reasoning_tokens: int = 0  # of completion_tokens

    def __post_init__(self) -> None:
        prompt, cached, completion, reasoning = (
            self.prompt_tokens,
            self.cached_tokens,
            self.completion_tokens,
            self.reasoning_tokens,
        )
        if type(prompt) is type(cached) is type(completion) is type(reasoning) is int and (
            0 <= cached <= prompt <= TOKENS_MAX and 0 <= reasoning <= completion <= TOKENS_MAX
        ):
            return  # once an answer: what follows finds the words for a refusal
        _check_tokens("prompt_tokens", self.prompt_tokens, TOKENS_MAX)
        _check_tokens("completion_tokens", self.completion_tokens, TOKENS_MAX)
        _check_tokens("cached_tokens", self.cached_tokens, self.prompt_tokens)
        _check_tokens("reasoning_tokens", self.reasoning_tokens, self.completion_tokens)


def _check_tokens(name: str, count: int, most: int) -> None:
    if type(count) is not int or not 0 <= count <= most:
        raise ValueError(f"{name} must be an int from 0 to {most}, got {count!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Prices of one model, nanotons per million tokens.

    A cached token never costs more than another of the prompt: a host must not earn by its cache. Prices that are left
    out are those of the tokens they are part of.
    """

    prompt_price: int
    completion_price: int
    cached_price: int = None  # type: ignore[assignment]  # stands for prompt_price until it is constructed
    reasoning_price: int = None  # type: ignore[assignment]  # likewise for completion_price

    def __post_init__(self) -> None:
        for name, general in (("cached_price", self.prompt_price), ("reasoning_price", self.completion_price)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, general)
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or not 0 <= value <= NANOTONS_MAX:
                raise ValueError(f"{field.name} must be an int from 0 to {NANOTONS_MAX}, got {value!r}")
        if self.cached_price > self.prompt_price:
            raise ValueError(f"cached_price {self.cached_price} is above prompt_price {self.prompt_price}: lower it")


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
    if usage.cached_tokens:
        weighted -= usage.cached_tokens * (tariff.prompt_price - tariff.cached_price)
    if usage.reasoning_tokens:
        weighted += usage.reasoning_tokens * (tariff.reasoning_price - tariff.completion_price)
    return Nanotons(-(-weighted * check_coefficient(coefficient) // _DIVISOR))


def quote(prompt_tokens: int, max_tokens: int, tariff: Tariff, coefficient: int) -> Nanotons:
    """Return the most a job can cost: nothing of its prompt is cached, and all `max_tokens` are the dearer kind.

    Exact: no `price` of such a job is above it, and one is equal to it.
    """
    dearer = max(tariff.completion_price, tariff.reasoning_price)
    weighted = prompt_tokens * tariff.prompt_price + max_tokens * dearer
    return Nanotons(-(-weighted * check_coefficient(coefficient) // _DIVISOR))


def operator_fee(amount: Nanotons, fee_permille: int) -> Nanotons:
    """Return the operator's part of a price, rounded down; the rest is the host's.

    Args:
        amount: the price, nanotons.
        fee_permille: the operator's share, thousandths of the price.

    Raises:
        ValueError: the share is not an int from 0 to `FEE_ONE`.
    """
    if type(fee_permille) is not int or not 0 <= fee_permille <= FEE_ONE:
        raise ValueError(f"fee_permille must be an int from 0 to {FEE_ONE}, got {fee_permille!r}")
    return Nanotons(amount * fee_permille // FEE_ONE)
