import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.hot_float import FloatLimits
from billing.money import Nanotons

LIMITS = FloatLimits(cap=Nanotons(100), refill_below=Nanotons(20))
MONEY = st.integers(0, 1000)


@pytest.mark.parametrize(
    ("balance", "own", "needed", "surplus", "movable", "refill"),
    [
        pytest.param(50, 50, 0, 0, 0, 0, id="all-well"),
        pytest.param(100, 100, 0, 0, 0, 0, id="at-the-cap"),
        pytest.param(130, 130, 0, 30, 30, 0, id="above-the-cap"),
        pytest.param(130, 10, 0, 30, 10, 0, id="what-is-others-is-not-moved"),
        pytest.param(130, -5, 0, 30, 0, 0, id="operator-in-debt"),
        pytest.param(130, 130, 25, 5, 5, 0, id="what-batches-need-is-no-surplus"),
        pytest.param(20, 0, 0, 0, 0, 0, id="at-the-floor"),
        pytest.param(19, 0, 0, 0, 0, 1, id="below-the-floor"),
        pytest.param(30, 0, 70, 0, 0, 40, id="a-batch-needs-more"),
    ],
)
def test_a_treasury_beside_its_limits(balance, own, needed, surplus, movable, refill) -> None:
    report = LIMITS.report(balance=balance, own=own, needed=needed)
    assert (report.surplus, report.movable, report.refill) == (surplus, movable, refill)
    assert len(report.alarms()) == bool(surplus) + bool(refill)


@given(MONEY, MONEY, MONEY)
def test_moving_what_may_be_moved_leaves_enough(balance: int, own: int, needed: int) -> None:
    report = LIMITS.report(balance=balance, own=own, needed=needed)
    after = LIMITS.report(balance=balance - report.movable, own=own - report.movable, needed=needed)
    assert after.movable == 0
    assert after.refill == report.refill
    assert own >= report.movable


def test_without_limits_nothing_is_asked() -> None:
    assert FloatLimits().report(balance=10**18, own=0, needed=0).alarms() == ()
