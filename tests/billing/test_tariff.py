from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import Nanotons
from billing.tariff import TOKENS_MAX, Tariff, Usage, operator_fee, price, quote
from tests.billing.support import TARIFF

tokens = st.integers(0, TOKENS_MAX // 2)
prices = st.integers(0, 10**15)
coefficients = st.integers(0, 1_000_000)


@st.composite
def tariffs(draw: st.DrawFn) -> Tariff:
    prompt = draw(prices)
    return Tariff(
        prompt_price=prompt,
        cached_price=draw(st.integers(0, prompt)),
        completion_price=draw(prices),
        reasoning_price=draw(prices),
    )


@st.composite
def usages(draw: st.DrawFn, prompt: int | None = None, completion_max: int | None = None) -> Usage:
    prompt = draw(tokens) if prompt is None else prompt
    completion = draw(tokens if completion_max is None else st.integers(0, completion_max))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=draw(st.integers(0, prompt)),
        reasoning_tokens=draw(st.integers(0, completion)),
    )


def exact(usage: Usage, tariff: Tariff, coefficient: int) -> Fraction:
    """What the usage is worth, token by token and without rounding."""
    classes = (
        (usage.prompt_tokens - usage.cached_tokens, tariff.prompt_price),
        (usage.cached_tokens, tariff.cached_price),
        (usage.completion_tokens - usage.reasoning_tokens, tariff.completion_price),
        (usage.reasoning_tokens, tariff.reasoning_price),
    )
    return sum((Fraction(n) * Fraction(p, 10**6) * Fraction(coefficient, 1000) for n, p in classes), Fraction(0))


@pytest.mark.parametrize(
    ("prompt", "completion", "coefficient", "nanotons"),
    [
        pytest.param(0, 0, 1000, 0, id="empty-job-is-free"),
        pytest.param(1, 0, 1000, 200, id="one-prompt-token"),
        pytest.param(0, 1, 1, 1, id="a-fraction-is-rounded-up"),
        pytest.param(10, 20, 1500, 21_000, id="the-coefficient-multiplies"),
        pytest.param(1_000_000, 1_000_000, 1000, 800_000_000, id="a-million-each"),
        pytest.param(5, 5, 0, 0, id="a-host-may-work-for-free"),
    ],
)
def test_price(prompt: int, completion: int, coefficient: int, nanotons: int) -> None:
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    assert price(usage, TARIFF, coefficient=coefficient) == nanotons


@pytest.mark.parametrize(
    ("cached", "reasoning", "nanotons"),
    [
        pytest.param(0, 0, 10 * 200 + 20 * 600, id="none"),
        pytest.param(4, 0, 6 * 200 + 4 * 50 + 20 * 600, id="cached-is-inside-the-prompt"),
        pytest.param(0, 5, 10 * 200 + 15 * 600 + 5 * 900, id="reasoning-is-inside-the-completion"),
        pytest.param(10, 20, 10 * 50 + 20 * 900, id="all"),
    ],
)
def test_cached_and_reasoning_tokens_have_their_own_prices(cached: int, reasoning: int, nanotons: int) -> None:
    tariff = Tariff(
        prompt_price=2 * 10**8, cached_price=5 * 10**7, completion_price=6 * 10**8, reasoning_price=9 * 10**8
    )
    usage = Usage(prompt_tokens=10, completion_tokens=20, cached_tokens=cached, reasoning_tokens=reasoning)
    assert price(usage, tariff, coefficient=1000) == nanotons


def test_a_tariff_of_two_prices_charges_cached_and_reasoning_tokens_like_the_others() -> None:
    assert (
        Tariff(prompt_price=2 * 10**8, cached_price=2 * 10**8, completion_price=6 * 10**8, reasoning_price=6 * 10**8)
        == TARIFF
    )


@given(usages(), tariffs(), coefficients)
def test_a_price_is_the_exact_one_rounded_up_once(usage: Usage, tariff: Tariff, k: int) -> None:
    assert price(usage, tariff, coefficient=k) == ceil(exact(usage, tariff, k))


@given(usages(), usages(), tariffs(), coefficients)
def test_splitting_a_job_never_makes_it_cheaper(first: Usage, second: Usage, tariff: Tariff, k: int) -> None:
    whole = Usage(
        **{
            name: getattr(first, name) + getattr(second, name)
            for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        }
    )
    parts = price(first, tariff, coefficient=k) + price(second, tariff, coefficient=k)
    assert parts >= price(whole, tariff, coefficient=k)


@given(tokens, tokens, tariffs(), coefficients, st.data())
def test_the_quote_is_never_below_the_price(
    prompt: int, most: int, tariff: Tariff, k: int, data: st.DataObject
) -> None:
    usage = data.draw(usages(prompt, most))
    assert price(usage, tariff, coefficient=k) <= quote(prompt, most, tariff, k)


@given(tokens, tokens, tariffs(), coefficients)
def test_the_quote_is_the_price_of_some_usage(prompt: int, most: int, tariff: Tariff, k: int) -> None:
    extremes = (
        Usage(prompt_tokens=prompt, completion_tokens=most, reasoning_tokens=reasoning) for reasoning in (0, most)
    )
    assert quote(prompt, most, tariff, k) == max(price(usage, tariff, coefficient=k) for usage in extremes)


@given(usages(), tariffs(), coefficients)
def test_a_host_earns_nothing_by_calling_tokens_cached(usage: Usage, tariff: Tariff, k: int) -> None:
    honest = Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
    assert price(usage, tariff, coefficient=k) <= price(honest, tariff, coefficient=k)


@given(st.integers(0, 10**18), st.integers(0, 1000))
def test_the_fee_is_its_share_rounded_down(amount: int, permille: int) -> None:
    assert operator_fee(Nanotons(amount), permille) == floor(Fraction(amount) * Fraction(permille, 1000))


@pytest.mark.parametrize("permille", [-1, 1001, 0.5, True])
def test_an_impossible_fee_is_refused(permille: int) -> None:
    with pytest.raises(ValueError, match="fee_permille"):
        operator_fee(Nanotons(1), permille)


@pytest.mark.parametrize("count", [-1, 1 << 32, True, 1.5])
def test_an_impossible_count_of_tokens_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="prompt_tokens"):
        Usage(prompt_tokens=count, completion_tokens=0)


@pytest.mark.parametrize("part", ["cached_tokens", "reasoning_tokens"])
@pytest.mark.parametrize("count", [-1, 11, True, 1.5])
def test_a_part_of_the_tokens_that_is_more_than_all_is_refused(part: str, count: int) -> None:
    with pytest.raises(ValueError, match=part):
        Usage(prompt_tokens=10, completion_tokens=10, **{part: count})


@pytest.mark.parametrize("value", [-1, 1 << 63, 0.2])
def test_an_impossible_price_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="completion_price"):
        Tariff(prompt_price=0, completion_price=value)


def test_a_cached_token_dearer_than_a_fresh_one_is_refused() -> None:
    with pytest.raises(ValueError, match="cached_price 3 is above prompt_price 2"):
        Tariff(prompt_price=2, completion_price=2, cached_price=3)


@pytest.mark.parametrize("coefficient", [-1, 1_000_001, 1.0])
def test_an_impossible_coefficient_is_refused(coefficient: int) -> None:
    with pytest.raises(ValueError, match="coefficient"):
        price(Usage(prompt_tokens=1, completion_tokens=1), TARIFF, coefficient=coefficient)
