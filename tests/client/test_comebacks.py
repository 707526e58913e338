"""Refused callers come back one after the other, not all at once."""

import itertools
import os

from hypothesis import given
from hypothesis import strategies as st

from client.comebacks import PAUSE_MAX_S, PER_S, Comebacks


def test_one_caller_waits_as_long_as_makes_sense_and_no_longer() -> None:
    now = [100.0]
    comebacks = Comebacks(clock_s=lambda: now[0], random=os.urandom)
    assert comebacks.pause_ms(500) == 500
    now[0] += 10
    assert comebacks.pause_ms(1_000) == 1_000


@given(
    refused=st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 2_000)), min_size=1, max_size=400), seed=st.binary()
)
def test_each_comes_back_at_a_time_of_its_own_until_the_line_is_full(
    refused: list[tuple[float, int]], seed: bytes
) -> None:
    now = [0.0]
    comebacks = Comebacks(clock_s=lambda: now[0], random=lambda size: (seed + bytes(size))[:size])
    in_line = []
    for later, least_ms in refused:
        now[0] += later
        pause_s = comebacks.pause_ms(least_ms) / 1000
        assert least_ms / 1000 - 0.001 <= pause_s <= PAUSE_MAX_S
        if pause_s < PAUSE_MAX_S / 2:
            in_line.append(now[0] + pause_s)
    gaps = [after - before for before, after in itertools.pairwise(in_line)]
    assert all(gap >= 1 / PER_S - 0.002 for gap in gaps)
