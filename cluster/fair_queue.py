"""Start-time fair queueing: who is served next, so that no account waits for the greed of others. Pure.

Each item gets a start tag S = max(virtual time, finish tag of the account's item before it) and a finish tag
S + cost / weight; the smallest start tag goes first, and virtual time is the start tag last served.

The bound, for any two accounts i and j that have items waiting through an interval: what they got differs by no more
than one largest item of each,  |W_i / w_i - W_j / w_j| <= c_i / w_i + c_j / w_j.  So before the next item of i starts,
j gets at most  c_i * w_j / w_i + c_j,  however many items it has waiting.

Source: P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queuing", IEEE/ACM Transactions on Networking 5 (1997), theorem
1.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Generic, TypeVar

SCALE = 1 << 20  # tags are integers: cost * SCALE // weight
COST_MAX = 1 << 40
WEIGHT_MAX = 1 << 10

Item = TypeVar("Item")


@dataclass(slots=True)
class _Account(Generic[Item]):
    items: "OrderedDict[bytes, tuple[Item, int, int]]" = field(default_factory=OrderedDict)  # id -> item, cost, weight
    finish: int = 0  # tag of the item served last, or given away
    start: int = 0  # tag of the first item waiting


class FairQueue(Generic[Item]):
    """Items by account. Deterministic: of equal tags the lower account goes first."""

    def __init__(self) -> None:
        self._accounts: dict[bytes, _Account[Item]] = {}
        self._order: list[tuple[int, bytes]] = []  # heap of start tags; entries of accounts that changed are stale
        self._virtual = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def waiting(self, account: bytes) -> int:
        """How many items of an account wait."""
        known = self._accounts.get(account)
        return len(known.items) if known else 0

    def add(self, item_id: bytes, item: Item, *, account: bytes, cost: int, weight: int = 1) -> None:
        """Append an item to its account's.

        Args:
            item_id: unique among those that wait.
            item: what waits.
            account: who is charged with its cost.
            cost: of serving it, 1 to COST_MAX, in any unit that all share.
            weight: how much service this account gets compared with others, 1 to WEIGHT_MAX.
        """
        if not 1 <= cost <= COST_MAX or not 1 <= weight <= WEIGHT_MAX:
            raise ValueError(f"cost {cost} and weight {weight}: want 1..{COST_MAX} and 1..{WEIGHT_MAX}")
        entry = self._accounts.setdefault(account, _Account())
        if item_id in entry.items:
            raise ValueError("an item waits once")
        entry.items[item_id] = (item, cost, weight)
        self._size += 1
        if len(entry.items) == 1:
            self._enter(account, entry)

    def take(self, account: bytes, item_id: bytes) -> Item:
        """Serve an item: remove it, and charge its account. KeyError when it does not wait."""
        entry = self._accounts[account]
        item, cost, weight = entry.items.pop(item_id)
        self._size -= 1
        self._virtual = max(self._virtual, entry.start)
        entry.finish = entry.start + cost * SCALE // weight
        self._after_removal(account, entry)
        return item

    def drop(self, account: bytes, item_id: bytes) -> Item | None:
        """Remove an item that is not served; it costs its account nothing. None when it does not wait."""
        entry = self._accounts.get(account)
        if entry is None or item_id not in entry.items:
            return None
        item, _, _ = entry.items.pop(item_id)
        self._size -= 1
        if not entry.items:
            self._after_removal(account, entry)
        return item

    def item(self, account: bytes, item_id: bytes) -> Item:
        """An item that waits; KeyError when it does not."""
        return self._accounts[account].items[item_id][0]

    def fronts(self, depth: int) -> Iterator[tuple[bytes, list[tuple[bytes, Item]]]]:
        """Accounts in the order of their turn, each with the first `depth` of its items as (id, item).

        What the caller takes meanwhile does not disturb the iteration; an account appears once.
        """
        heap, seen = list(self._order), set[bytes]()
        heapify(heap)
        while heap:
            start, account = heappop(heap)
            entry = self._accounts.get(account)
            if entry is None or account in seen or entry.start != start or not entry.items:
                continue
            seen.add(account)
            yield account, [(item_id, item) for item_id, (item, _, _) in islice(entry.items.items(), depth)]

    def __iter__(self) -> Iterator[Item]:
        for entry in self._accounts.values():
            for item, _, _ in entry.items.values():
                yield item

    def _after_removal(self, account: bytes, entry: _Account[Item]) -> None:
        if entry.items:
            self._enter(account, entry)
        elif entry.finish <= self._virtual:
            del self._accounts[account]  # nothing of its past matters any more
        self._forget_idle()

    def _enter(self, account: bytes, entry: _Account[Item]) -> None:
        entry.start = max(self._virtual, entry.finish)
        heappush(self._order, (entry.start, account))
        if len(self._order) > 2 * len(self._accounts) + 16:
            self._order = [(one.start, name) for name, one in self._accounts.items() if one.items]
            heapify(self._order)

    def _forget_idle(self) -> None:
        if len(self._accounts) > 2 * self._size + 1024:
            busy = {name: one for name, one in self._accounts.items() if one.items or one.finish > self._virtual}
            self._accounts = busy
