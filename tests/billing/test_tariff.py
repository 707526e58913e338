import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.tariff import Tariff, Usage, price, quote
from tests.billing.support import TARIFF

tokens = st.integers(0, 10_000_000)
tariffs = st.builds(Tariff, prompt_price=st.integers(0, 10**12), completion_price=st.integers(0, 10**12))
coefficients = st.integers(0, 10_000)


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


@given(tokens, tokens, tokens, tokens, tariffs, coefficients)
def test_splitting_a_job_never_makes_it_cheaper(a: int, b: int, c: int, d: int, tariff: Tariff, k: int) -> None:
    first = price(Usage(prompt_tokens=a, completion_tokens=b), tariff, coefficient=k)
    second = price(Usage(prompt_tokens=c, completion_tokens=d), tariff, coefficient=k)
    assert first + second >= price(Usage(prompt_tokens=a + c, completion_tokens=b + d), tariff, coefficient=k)


@given(tokens, tokens, st.data(), tariffs, coefficients)
def test_the_quote_is_never_below_the_price(
    prompt: int, most: int, data: st.DataObject, tariff: Tariff, k: int
) -> None:
    made = data.draw(st.integers(0, most))
    assert quote(prompt, most, tariff, k) >= price(
        Usage(prompt_tokens=prompt, completion_tokens=made), tariff, coefficient=k
    )


@given(tokens, tokens, tariffs, coefficients)
def test_one_rounding_loses_less_than_a_nanoton(prompt: int, completion: int, tariff: Tariff, k: int) -> None:
    exact = (prompt * tariff.prompt_price + completion * tariff.completion_price) * k
    asked = price(Usage(prompt_tokens=prompt, completion_tokens=completion), tariff, coefficient=k)
    assert 0 <= asked * 10**9 - exact < 10**9


@pytest.mark.parametrize("count", [-1, 1 << 32, True, 1.5])
def test_an_impossible_count_of_tokens_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="prompt_tokens"):
        Usage(prompt_tokens=count, completion_tokens=0)


@pytest.mark.parametrize("value", [-1, 1 << 63, 0.2])
def test_an_impossible_price_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="completion_price"):
        Tariff(prompt_price=0, completion_price=value)


@pytest.mark.parametrize("coefficient", [-1, 1_000_001, 1.0])
def test_an_impossible_coefficient_is_refused(coefficient: int) -> None:
    with pytest.raises(ValueError, match="coefficient"):
        price(Usage(prompt_tokens=1, completion_tokens=1), TARIFF, coefficient=coefficient)
