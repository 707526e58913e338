"""Certificate chains and revocation lists whose signatures held, and manifests: not to be checked or read again.

Only what does not depend on time or policy is kept: trust in the root, validity and revocation are judged on every use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

_T = TypeVar("_T")


class ChainCache:
    """What held before, by all its bytes or their fingerprint; the entry used longest ago goes first.

    A GPU chain saves 4 of 5 verifications, an AMD chain with its revocation list 4 of 5; GPUs of a family also share
    the certificates above them. One instance may serve all vendors: an entry of another kind than asked for is none.
    """

    def __init__(self, capacity: int = 1024) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity}, want at least 1")
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, object] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, fingerprint: Hashable, kind: type[_T]) -> _T | None:
        """Return what was remembered under this fingerprint, if it is of this kind."""
        entry = self._entries.get(fingerprint)
        if not isinstance(entry, kind):
            return None
        self._entries.move_to_end(fingerprint)
        return entry

    def put(self, fingerprint: Hashable, entry: object) -> None:
        """Remember what held."""
        self._entries[fingerprint] = entry
        self._entries.move_to_end(fingerprint)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
