"""What a batch may cost: bounds from the tariff before it begins, and a budget that it cannot pass. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from billing.money import Nanotons
from billing.tariff import COEFFICIENT_ONE
from client.batch_file import BatchLine
from client.registry import ModelOffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What lines can cost at most. Counts are bounds: a token has at least one byte, answers end at their limits."""

    lines: int
    prompt_tokens: int
    completion_tokens: int
    at_tariff: Nanotons  # at hosts that ask the tariff
    most: Nanotons  # at the dearest hosts the settings allow, each line within its price cap
    unknown: int  # lines that name no model of the registry: they cost nothing
    copies: int = 1  # of each line, counted in at_tariff
    copies_max: int = 1  # of each line, counted in most


def estimate(
    lines: Iterator[BatchLine],
    models: Mapping[str, ModelOffer],
    *,
    coefficient: int,
    cap: int,
    copies: tuple[int, int] = (1, 1),
) -> Estimate:
    """Return the bounds for these lines.

    Args:
        lines: the requests.
        models: what the registry offers, by name.
        coefficient: of the dearest host, thousandths.
        cap: of one request, nanotons.
        copies: how many of each line are asked for as a rule, and at most.
    """
    count = prompt = completion = at_tariff = most = unknown = 0
    for line in lines:
        count += 1
        offer = models.get(line.model)
        if offer is None:
            unknown += 1
            continue
        used = line.usage_max(offer.context)
        prompt, completion = prompt + used[0], completion + used[1]
        at_tariff += min(cap, line.price_max(offer, COEFFICIENT_ONE))
        most += min(cap, line.price_max(offer, coefficient))
    return Estimate(
        lines=count,
        prompt_tokens=prompt,
        completion_tokens=completion,
        at_tariff=Nanotons(at_tariff * copies[0]),
        most=Nanotons(most * copies[1]),
        unknown=unknown,
        copies=copies[0],
        copies_max=copies[1],
    )


class Purse:
    """A budget that questions on their way have a part of, so that together they can never pass it."""

    def __init__(self, limit: int | None, *, spent: int, reserved: int) -> None:
        self._limit, self._spent, self._reserved = limit, spent, reserved
        self._closed = False
        self._changed = asyncio.Event()

    async def reserve(self, amount: int) -> bool:
        """Set `amount` aside; waits while answers on their way may give some back; False when it is not there."""
        while not self._closed and self._limit is not None and self._spent + self._reserved + amount > self._limit:
            if not self._reserved:
                return False
            self._changed.clear()
            await self._changed.wait()
        self._reserved += 0 if self._closed else amount
        return not self._closed

    def settle(self, amount: int, paid: int) -> None:
        """End a reservation of `amount`, of which `paid` was spent."""
        self._reserved -= amount
        self._spent += paid
        self._changed.set()

    def close(self) -> None:
        """Give nothing more."""
        self._closed = True
        self._changed.set()
