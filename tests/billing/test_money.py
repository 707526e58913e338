import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import NANOTONS_MAX, check_nanotons, format_ton, parse_ton


@given(st.integers(0, NANOTONS_MAX))
def test_money_written_and_read_is_the_same_money(amount: int) -> None:
    assert parse_ton(format_ton(amount)) == amount


@pytest.mark.parametrize(("text", "nanotons"), [("1.5", 1_500_000_000), ("0", 0), (" 3 ", 3 * 10**9), ("1.", 10**9)])
def test_ton_is_read_exactly(text: str, nanotons: int) -> None:
    assert parse_ton(text) == nanotons


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", "1.0000000001", "\u0661", "1.\u0661", "nan", "1.5.2", "1,5", "99999999999"]
)
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_ton(text)


def test_a_debt_is_written_with_its_sign() -> None:
    assert format_ton(-1) == "-0.000000001"


@pytest.mark.parametrize("amount", [-1, NANOTONS_MAX + 1, True, 1.0])
def test_money_is_a_whole_number_that_exists(amount: int) -> None:
    with pytest.raises(ValueError, match="nanoton"):
        check_nanotons(amount, "amount")
