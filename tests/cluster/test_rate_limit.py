from hypothesis import given
from hypothesis import strategies as st

from cluster.rate_limit import Buckets, Rate

RATE = Rate(burst=3, period_s=2.0)


def test_a_burst_and_then_one_for_each_period() -> None:
    buckets = Buckets(RATE, askers_max=8)
    assert [buckets.take("a", now_s=100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert buckets.take("b", now_s=100.0) == 0.0
    assert [buckets.take("a", now_s=102.0) for _ in range(2)] == [0.0, 2.0]
    assert [buckets.take("a", now_s=200.0) for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]


@given(st.lists(st.floats(min_value=0, max_value=5), max_size=60))
def test_never_more_than_the_burst_and_what_the_time_gives(waits: list[float]) -> None:
    buckets, now, taken = Buckets(RATE, askers_max=8), 1000.0, 0
    for wait in waits:
        now += wait
        taken += buckets.take("a", now_s=now) == 0.0
        assert taken <= RATE.burst + (now - 1000.0) / RATE.period_s + 1e-6


def test_what_is_kept_of_many_askers_is_bounded_and_the_one_that_asked_last_is_kept() -> None:
    buckets = Buckets(RATE, askers_max=8)
    for number in range(100):
        buckets.take(str(number), now_s=0.0)
    assert sorted(map(int, buckets._full_at)) == list(range(92, 100))
