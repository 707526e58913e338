from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fair_queue import COST_MAX, FairQueue


def first(queue: FairQueue) -> tuple[bytes, bytes]:
    """The account whose turn it is, and its item."""
    account, items = next(queue.fronts(1))
    return account, items[0][0]


def serve(queue: FairQueue, count: int) -> list[bytes]:
    order = []
    for _ in range(count):
        account, item_id = first(queue)
        queue.take(account, item_id)
        order.append(account)
    return order


def filled(**counts: int) -> FairQueue:
    queue: FairQueue[int] = FairQueue()
    for name, count in counts.items():
        for number in range(count):
            queue.add(f"{name}{number}".encode(), number, account=name.encode(), cost=10)
    return queue


def test_an_account_with_one_item_does_not_wait_for_the_thousand_of_another() -> None:
    queue = filled(greedy=1000)
    serve(queue, 500)
    queue.add(b"x", 0, account=b"small", cost=10)
    assert b"small" in serve(queue, 2)


def test_equal_accounts_take_turns() -> None:
    assert serve(filled(a=3, b=3), 6) == [b"a", b"b"] * 3


def test_a_heavier_account_gets_more() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(90):
        queue.add(b"h%d" % number, number, account=b"heavy", cost=10, weight=3)
        queue.add(b"l%d" % number, number, account=b"light", cost=10)
    order = serve(queue, 80)
    assert 59 <= order.count(b"heavy") <= 61


def test_an_account_does_not_save_up_turns_while_it_has_nothing() -> None:
    queue = filled(a=100)
    serve(queue, 50)
    for number in range(50):
        queue.add(b"b%d" % number, number, account=b"b", cost=10)
    assert serve(queue, 10).count(b"b") == 5


def test_an_item_that_is_dropped_costs_nothing() -> None:
    queue = filled(a=3, b=1)
    assert queue.drop(b"a", b"a0") == 0
    assert queue.drop(b"a", b"a0") is None
    assert serve(queue, 3) == [b"a", b"b", b"a"]
    assert len(queue) == 0


def test_an_item_that_is_passed_over_keeps_its_turn() -> None:
    queue = filled(a=1, b=5)
    for number in range(5):
        queue.take(b"b", b"b%d" % number)
    assert first(queue) == (b"a", b"a0")


@pytest.mark.parametrize(("cost", "weight"), [(0, 1), (-1, 1), (COST_MAX + 1, 1), (1, 0), (1, 1 << 20)])
def test_impossible_costs_are_refused(cost, weight) -> None:
    with pytest.raises(ValueError, match="want"):
        FairQueue().add(b"x", 0, account=b"a", cost=cost, weight=weight)


def test_an_item_waits_once() -> None:
    with pytest.raises(ValueError, match="once"):
        filled(a=1).add(b"a0", 0, account=b"a", cost=1)


ACCOUNTS = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.integers(1, 1000), min_size=1, max_size=8)), min_size=2, max_size=5
)


@given(ACCOUNTS, st.data())
def test_no_two_waiting_accounts_ever_differ_by_more_than_one_largest_item_each(accounts, data) -> None:
    """The proved bound, over every interval in which all accounts have items waiting."""
    queue: FairQueue[int] = FairQueue()
    costs: dict[bytes, int] = {}

    def refill(number: int) -> None:
        weight, sizes = accounts[number]
        item, cost = b"%d" % len(costs), data.draw(st.sampled_from(sizes))
        costs[item] = cost
        queue.add(item, number, account=b"%d" % number, cost=cost, weight=weight)

    for number in range(len(accounts)):
        refill(number)
        refill(number)
    served = [[0.0] for _ in accounts]  # service by weight, after each step
    for _ in range(40):
        account, item_id = first(queue)
        number = queue.take(account, item_id)
        refill(number)
        for one, history in enumerate(served):
            history.append(history[-1] + (costs[item_id] / accounts[one][0] if one == number else 0))
    for i, j in combinations(range(len(accounts)), 2):
        most = max(accounts[i][1]) / accounts[i][0] + max(accounts[j][1]) / accounts[j][0]
        for begin in range(41):
            for end in range(begin, 41):
                gap = (served[i][end] - served[i][begin]) - (served[j][end] - served[j][begin])
                assert abs(gap) <= most + 1e-3


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 100), st.booleans()), max_size=80))
def test_every_item_is_served_or_dropped_exactly_once(orders) -> None:
    queue: FairQueue[int] = FairQueue()
    waiting: dict[bytes, int] = {}
    for number, (account, cost, serve_one) in enumerate(orders):
        item = b"%d" % number
        queue.add(item, number, account=b"%d" % account, cost=cost)
        waiting[item] = number
        if serve_one:
            name, item_id = first(queue)
            assert queue.take(name, item_id) == waiting.pop(item_id)
        assert len(queue) == len(waiting) == sum(queue.waiting(b"%d" % account) for account in range(5))
        assert set(queue) == set(waiting.values())
        assert len(list(queue.fronts(3))) == sum(1 for account in range(5) if queue.waiting(b"%d" % account))
