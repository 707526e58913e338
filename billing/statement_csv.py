"""A statement as CSV for an accountant: a line for each movement, and its value where the user brought prices."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime

from billing.money import format_ton
from billing.price_file import PriceTable
from billing.statement import Movement, Statement, daily_totals

_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_MOVEMENT = ("time_utc", "kind", "reference", "amount_ton", "price_ton", *_TOKENS)
_DAY = ("date_utc", "kind", "count", "amount_ton")


def statement_csv(statement: Statement, prices: PriceTable | None = None, *, daily: bool = False) -> str:
    """Return the statement's movements, or with `daily` their sums by day and kind, as CSV (RFC 4180).

    With prices four columns are added: currency, price of one TON that day, its source, and the value. Without, there
    are none: nothing here knows what a TON is worth.

    Raises:
        MissingPriceError: a day with a movement has no price.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    fiat = ("currency", "ton_price", "price_source", "value") if prices else ()
    writer.writerow((*(_DAY if daily else _MOVEMENT), *fiat))
    for day, amount, fields in _days(statement) if daily else _movements(statement.movements):
        writer.writerow((*fields, *(_value(prices, day, amount) if prices else ())))
    return out.getvalue()


def _movements(movements: Iterable[Movement]) -> Iterator[tuple[date, int, tuple[object, ...]]]:
    for movement in movements:
        time = datetime.fromtimestamp(movement.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        usage = movement.usage
        counts = [getattr(usage, name) for name in _TOKENS] if usage else [""] * len(_TOKENS)
        price = format_ton(movement.price) if usage or movement.price else ""
        fields = (time, movement.kind.value, movement.reference, format_ton(movement.amount), price, *counts)
        yield movement.day, movement.amount, fields


def _days(statement: Statement) -> Iterator[tuple[date, int, tuple[object, ...]]]:
    for total in daily_totals(statement):
        fields = (total.day.isoformat(), total.kind.value, total.count, format_ton(total.amount))
        yield total.day, total.amount, fields


def _value(prices: PriceTable, day: date, amount: int) -> tuple[object, ...]:
    price = prices.on(day)
    return prices.currency, price.price, price.source, f"{prices.value(amount, day):f}"
