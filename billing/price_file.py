"""What a TON was worth on a day, as a file of the user says. Nothing is looked up, guessed or carried over.

CSV with the header `date,currency,price,source`; the price is of one TON, in decimal:

    date,currency,price,source
    2026-11-25,EUR,2.815,ECB reference x exchange close
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction

from billing.errors import MissingPriceError, PriceFileError
from billing.money import NANOTONS_PER_TON

COLUMNS = ("date", "currency", "price", "source")
PLACES = 6  # decimals of an amount in another currency
LINES_MAX = 100_000
_PRICE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One TON in another currency on one day, and who says so."""

    price: str  # in decimal, as the file writes it
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """The prices of one currency, by day."""

    currency: str  # ISO 4217
    prices: dict[date, Price]

    def on(self, day: date) -> Price:
        """Return the price of that very day.

        Raises:
            MissingPriceError: the file has none.
        """
        if day not in self.prices:
            raise MissingPriceError(self.currency, day.isoformat())
        return self.prices[day]

    def value(self, amount: int, day: date) -> Decimal:
        """Return what `amount` nanotons were worth, rounded half to even to `PLACES` decimals."""
        exact = amount * Fraction(self.on(day).price) * 10**PLACES / NANOTONS_PER_TON
        return Decimal(round(exact)).scaleb(-PLACES)


def parse_prices(text: str, *, currency: str = "") -> PriceTable:
    """Return the prices of one currency in a price file.

    Args:
        text: the file.
        currency: which; may be left out when the file has only one.

    Raises:
        PriceFileError: it is not such a file, a day has two prices, or the currency is not clear.
    """
    lines = csv.DictReader(io.StringIO(text), strict=True)
    found: dict[str, dict[date, Price]] = {}
    try:
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise PriceFileError(1, f"the header must be {','.join(COLUMNS)}")
        for line in lines:
            if lines.line_num > LINES_MAX:
                raise PriceFileError(lines.line_num, f"at most {LINES_MAX} lines are read")
            name, day, price = _parse_line(line, lines.line_num)
            if found.setdefault(name, {}).setdefault(day, price) is not price:
                raise PriceFileError(lines.line_num, f"a second price of {name} on {day}")
    except csv.Error as error:
        raise PriceFileError(lines.line_num, str(error)) from error
    if not currency and len(found) == 1:
        (currency,) = found
    if currency not in found:
        names = ", ".join(sorted(found)) or "none"
        raise PriceFileError(1, f"choose a currency that the file has: {names}")
    return PriceTable(currency=currency, prices=found[currency])


def _parse_line(line: dict[str, str], number: int) -> tuple[str, date, Price]:
    if None in line or None in line.values():
        raise PriceFileError(number, f"a line has {len(COLUMNS)} fields")
    name, price, source = line["currency"], line["price"], line["source"].strip()
    if not re.fullmatch(r"[A-Z]{3,5}", name):
        raise PriceFileError(number, f"not a currency code: {name!r}")
    if not _PRICE.fullmatch(price):
        raise PriceFileError(number, f"not a price in decimal: {price!r}")
    if not source or not source.isprintable() or source[0] in "=+-@":  # a spreadsheet would compute the last ones
        raise PriceFileError(number, "the source must say in words where the price is from")
    try:
        day = date.fromisoformat(line["date"])
    except ValueError:
        raise PriceFileError(number, f"not a date like 2026-11-25: {line['date']!r}") from None
    return name, day, Price(price=price, source=source)
