"""How much each host answered and each client asked, by the receipts that earn something. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from billing.receipt import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums over posted receipts."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: int = 0  # nanotons, operator's fee included

    def plus(self, receipt: Receipt) -> Tally:
        """With one more receipt."""
        return Tally(
            requests=self.requests + 1,
            prompt_tokens=self.prompt_tokens + receipt.usage.prompt_tokens,
            completion_tokens=self.completion_tokens + receipt.usage.completion_tokens,
            price=self.price + receipt.price,
        )


_NONE = Tally()


class TallyBook:
    """The tallies of one set of books."""

    def __init__(self) -> None:
        self._hosts: dict[bytes, Tally] = {}
        self._clients: dict[bytes, Tally] = {}

    @property
    def hosts(self) -> Mapping[bytes, Tally]:
        """By host id (8 bytes), read-only."""
        return MappingProxyType(self._hosts)

    @property
    def clients(self) -> Mapping[bytes, Tally]:
        """By account key (32 bytes), read-only."""
        return MappingProxyType(self._clients)

    def record(self, receipt: Receipt) -> None:
        """Take a receipt that is paid."""
        self._hosts[receipt.host_id] = self._hosts.get(receipt.host_id, _NONE).plus(receipt)
        self._clients[receipt.account] = self._clients.get(receipt.account, _NONE).plus(receipt)
