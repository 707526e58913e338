"""`chrysalis statement`: what a client, a payee or the operator had, moved and has, out of the operator's books.

And what a client's own receipts come to (`mine`).

The books are only read, and may be written to meanwhile. Exit code 0: done; 1: refused, standard error says why.
"""

import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from billing.entries import Entry
    from billing.statement import Party, Statement

app = typer.Typer(help="Balances and statements out of the operator's books.", no_args_is_help=True)

Settings = Annotated[
    Path | None, typer.Option("--settings", help="The operator's settings file: its `books`, or the file in `state`.")
]
Books = Annotated[Path | None, typer.Option("--books", help="The books themselves, an SQLite file.")]
From = Annotated[str, typer.Option("--from", help="First day, as 2026-01-01, in UTC. Default: the beginning.")]
To = Annotated[str, typer.Option("--to", help="Last day, in UTC. Default: today.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; amounts are nanotons.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the movements as CSV; amounts are TON.")]
Daily = Annotated[bool, typer.Option("--daily", help="Sums by day and kind instead of each movement.")]
Prices = Annotated[
    Path | None,
    typer.Option(help="CSV of date,currency,price,source: adds the value to --csv. Without it there is none."),
]
Currency = Annotated[str, typer.Option(help="Which currency of the price file, when it has several.")]
REFUSED = 1


@app.command()
def show(
    party: Annotated[
        str, typer.Argument(help="A client's key (64 hex digits), a payee's TON address, or the word `operator`.")
    ],
    *,
    settings: Settings = None,
    books: Books = None,
    first: From = "",
    last: To = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    daily: Daily = False,
    prices: Prices = None,
    currency: Currency = "",
) -> None:
    """The statement of one party: opening balance, what moved, closing balance."""
    from billing.statement import make_statement

    whose, (start, end) = _party(party), _period(first, last)
    with _exit_codes():
        statement = make_statement(_entries(settings, books), whose, start=start, end=end)
        _say(statement, as_json=as_json, as_csv=as_csv, daily=daily, prices=prices, currency=currency)


@app.command()
def mine(
    receipts: Annotated[Path, typer.Argument(help="The client's own receipts: receipts.sqlite in its `state`.")],
    *,
    first: From = "",
    last: To = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    daily: Daily = False,
    prices: Prices = None,
    currency: Currency = "",
) -> None:
    """What a client's own receipts come to, to compare with the operator's statement. Deposits are not in it."""
    from billing.statement import spending
    from client.receipts import read_receipts

    start, end = _period(first, last)
    with _exit_codes():
        statement = spending((kept.receipt for kept in read_receipts(receipts)), start=start, end=end)
        _say(statement, as_json=as_json, as_csv=as_csv, daily=daily, prices=prices, currency=currency)


@app.command()
def balances(settings: Settings = None, books: Books = None, last: To = "", as_json: AsJson = False) -> None:
    """What everybody has at the end of a day; the sum is treasury and claims on payment channels."""
    from billing.statement import balances as balances_of

    with _exit_codes():
        shares = balances_of(_entries(settings, books), end=_end(last))
        rows = [
            {"role": party.role.value, "name": _name(party), "amount": share.amount, "aside": share.aside}
            for party, share in shares.items()
        ]
        total = sum(share.amount for share in shares.values())
    if as_json:
        typer.echo(json.dumps({"balances": rows, "treasury_and_claims": total}))
        return
    _table(("role", "name", "TON", "of it held or on its way"), [_balance_row(row) for row in rows])
    typer.echo(f"treasury and claims on payment channels {_ton(total)} TON")


def _entries(settings: Path | None, books: Path | None) -> "Iterator[Entry]":
    from billing.entries import Entry
    from billing.journal_place import JournalPlace, read_records
    from billing.records import parse_record
    from cluster.config import NetworkConfig

    if (settings is None) == (books is None):
        raise typer.BadParameter("name the books by one of --settings and --books")
    place: JournalPlace = books if books is not None else NetworkConfig.load(settings).books  # type: ignore[arg-type]  # not None
    for payload in read_records(place):
        if isinstance(record := parse_record(payload), Entry):
            yield record


def _party(name: str) -> "Party":
    from pytoniq_core import Address

    from billing.statement import Party, Role

    if name == Role.OPERATOR:
        return Party(Role.OPERATOR)
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return Party(Role.CLIENT, bytes.fromhex(name))
    try:
        address = Address(name)
    except Exception:  # noqa: BLE001  pytoniq_core raises what it likes at text that is no address
        raise typer.BadParameter(f"neither `operator` nor a client's key nor a TON address: {name!r}") from None
    return Party(Role.PAYEE, address.wc.to_bytes(1, "big", signed=True) + address.hash_part)


def _say(
    statement: "Statement", *, as_json: bool, as_csv: bool, daily: bool, prices: Path | None, currency: str
) -> None:
    if as_csv and as_json:
        raise typer.BadParameter("choose one of --json and --csv")
    if prices is not None and not as_csv:
        raise typer.BadParameter("--prices adds columns to --csv")
    if as_csv:
        sys.stdout.write(_csv(statement, prices, currency, daily=daily))
    elif as_json:
        typer.echo(json.dumps(_described(statement, daily=daily)))
    else:
        _print(statement, daily=daily)


def _csv(statement: "Statement", prices: Path | None, currency: str, *, daily: bool) -> str:
    from billing.price_file import parse_prices
    from billing.statement_csv import statement_csv

    table = parse_prices(prices.read_text(encoding="utf-8"), currency=currency) if prices is not None else None
    return statement_csv(statement, table, daily=daily)


def _described(statement: "Statement", *, daily: bool) -> dict[str, Any]:
    from billing.statement import daily_totals

    described: dict[str, Any] = {
        "role": statement.party.role.value,
        "name": _name(statement.party),
        "start": statement.start,
        "end": statement.end,
        "opening": statement.opening,
        "closing": statement.closing,
        "aside": statement.aside,
    }
    if daily:
        described["days"] = [
            {"day": total.day.isoformat(), "kind": total.kind.value, "count": total.count, "amount": total.amount}
            for total in daily_totals(statement)
        ]
        return described
    described["movements"] = [
        {
            "at": movement.at,
            "kind": movement.kind.value,
            "reference": movement.reference,
            "amount": movement.amount,
            **({"price": movement.price, "usage": _counts(movement.usage)} if movement.usage else {}),
        }
        for movement in statement.movements
    ]
    return described


def _print(statement: "Statement", *, daily: bool) -> None:
    from billing.statement import daily_totals

    typer.echo(f"{statement.party.role} {_name(statement.party)}")
    typer.echo(f"opening {_ton(statement.opening)} TON")
    if daily:
        days = daily_totals(statement)
        _table(
            ("day", "kind", "count", "TON"),
            [(d.day.isoformat(), d.kind.value, str(d.count), _ton(d.amount)) for d in days],
        )
    else:
        _table(
            ("time (UTC)", "kind", "TON", "reference"),
            [
                (f"{datetime.fromtimestamp(m.at, UTC):%Y-%m-%d %H:%M:%S}", m.kind.value, _ton(m.amount), m.reference)
                for m in statement.movements
            ],
        )
    typer.echo(f"closing {_ton(statement.closing)} TON, of it {_ton(statement.aside)} held or on its way")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        typer.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _balance_row(row: dict[str, Any]) -> tuple[str, ...]:
    return row["role"], row["name"], _ton(row["amount"]), _ton(row["aside"])


def _counts(usage: Any) -> dict[str, int]:  # noqa: ANN401  a billing.tariff.Usage, which is imported where it runs
    return {
        name: getattr(usage, name)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    }


def _name(party: "Party") -> str:
    if len(party.name) == 33:
        return f"{int.from_bytes(party.name[:1], 'big', signed=True)}:{party.name[1:].hex()}"
    return party.name.hex()


def _ton(amount: int) -> str:
    from billing.money import format_ton

    return format_ton(amount)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"not a day like 2026-01-31: {text!r}") from None


def _period(first: str, last: str) -> tuple[int, int]:
    start = int(datetime.combine(_day(first), time(), UTC).timestamp()) if first else 0
    end = _end(last)
    if end <= start:
        raise typer.BadParameter("the period ends before it begins: --to is the later day")
    return start, end


def _end(last: str) -> int:
    day = _day(last) if last else datetime.now(UTC).date()
    return int(datetime.combine(day + timedelta(days=1), time(), UTC).timestamp())


@contextmanager
def _exit_codes() -> Iterator[None]:
    from billing.errors import BillingError
    from cluster.errors import ConfigError

    try:
        yield
    except (BillingError, ConfigError, OSError, sqlite3.DatabaseError, ValueError) as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(REFUSED) from None
