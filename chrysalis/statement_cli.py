"""`chrysalis statement`: what a client, a payee or the operator had, moved and has, out of the operator's books.

What a client's own receipts come to (`mine`), and what the operator's gateway sends to whom it is about (`fetch`).

The books are only read, and may be written to meanwhile. Exit code 0: done; 1: refused, standard error says why; those
of `fetch` stand in chrysalis/statement_fetch_cli.py.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chrysalis import statement_fetch_cli
from chrysalis.money import progress
from chrysalis.statement_period import From, To, parse_end, parse_period
from chrysalis.statement_view import in_ton, party_name, print_table, say_statement

if TYPE_CHECKING:
    from billing.entries import Entry
    from billing.statement import Party

app = typer.Typer(help="Balances and statements out of the operator's books.", no_args_is_help=True)
app.command()(statement_fetch_cli.fetch)

Settings = Annotated[
    Path | None, typer.Option("--settings", help="The operator's settings file: its `books`, or the file in `state`.")
]
Books = Annotated[Path | None, typer.Option("--books", help="The books themselves, an SQLite file.")]
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

    whose, (start, end) = _party(party), parse_period(first, last)
    with _exit_codes():
        with progress("reading the books"):
            statement = make_statement(_entries(settings, books), whose, start=start, end=end)
        say_statement(statement, as_json=as_json, as_csv=as_csv, daily=daily, prices=prices, currency=currency)


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

    start, end = parse_period(first, last)
    with _exit_codes():
        statement = spending((kept.receipt for kept in read_receipts(receipts)), start=start, end=end)
        say_statement(statement, as_json=as_json, as_csv=as_csv, daily=daily, prices=prices, currency=currency)


@app.command()
def balances(settings: Settings = None, books: Books = None, last: To = "", as_json: AsJson = False) -> None:
    """What everybody has at the end of a day; the sum is treasury and claims on payment channels."""
    from billing.statement import balances as balances_of

    with _exit_codes():
        with progress("reading the books"):
            shares = balances_of(_entries(settings, books), end=parse_end(last))
        rows = [
            {"role": party.role.value, "name": party_name(party), "amount": share.amount, "aside": share.aside}
            for party, share in shares.items()
        ]
        total = sum(share.amount for share in shares.values())
    if as_json:
        typer.echo(json.dumps({"balances": rows, "treasury_and_claims": total}))
        return
    print_table(("role", "name", "TON", "of it held, in review or on its way"), [_balance_row(row) for row in rows])
    typer.echo(f"treasury and claims on payment channels {in_ton(total)} TON")


def _entries(settings: Path | None, books: Path | None) -> "Iterator[Entry]":
    from billing.booked import read_entries
    from billing.journal_place import JournalPlace
    from cluster.config import NetworkConfig

    if (settings is None) == (books is None):
        raise typer.BadParameter("name the books by one of --settings and --books")
    place: JournalPlace = books if books is not None else NetworkConfig.load(settings).books  # type: ignore[arg-type]  # not None
    return read_entries(place)


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


def _balance_row(row: dict[str, Any]) -> tuple[str, ...]:
    return row["role"], row["name"], in_ton(row["amount"]), in_ton(row["aside"])


@contextmanager
def _exit_codes() -> Iterator[None]:
    from billing.errors import BillingError
    from cluster.errors import ConfigError

    try:
        yield
    except (BillingError, ConfigError, OSError, sqlite3.DatabaseError, ValueError) as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(REFUSED) from None
