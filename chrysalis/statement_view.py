"""Statements as the commands show them: words, JSON (nanotons) or CSV (TON)."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from billing.statement import Party, Statement


def say_statement(
    statement: "Statement", *, as_json: bool, as_csv: bool, daily: bool, prices: Path | None, currency: str
) -> None:
    """Print a statement in the form that was asked for."""
    if as_csv and as_json:
        raise typer.BadParameter("choose one of --json and --csv")
    if prices is not None and not as_csv:
        raise typer.BadParameter("--prices adds columns to --csv")
    if as_csv:
        sys.stdout.write(_csv(statement, prices, currency, daily=daily))
    elif as_json:
        typer.echo(json.dumps(describe_statement(statement, daily=daily)))
    else:
        print_statement(statement, daily=daily)


def _csv(statement: "Statement", prices: Path | None, currency: str, *, daily: bool) -> str:
    from billing.price_file import parse_prices
    from billing.statement_csv import statement_csv

    table = parse_prices(prices.read_text(encoding="utf-8"), currency=currency) if prices is not None else None
    return statement_csv(statement, table, daily=daily)


def describe_statement(statement: "Statement", *, daily: bool) -> dict[str, Any]:
    """A statement as JSON; amounts are nanotons."""
    from billing.statement import daily_totals

    described: dict[str, Any] = {
        "role": statement.party.role.value,
        "name": party_name(statement.party),
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
            **({"price": movement.price} if movement.usage or movement.price else {}),
            **({"usage": _counts(movement.usage)} if movement.usage else {}),
        }
        for movement in statement.movements
    ]
    return described


def print_statement(statement: "Statement", *, daily: bool) -> None:
    """A statement in words."""
    from billing.entries import EntryKind
    from billing.statement import daily_totals

    typer.echo(f"{statement.party.role} {party_name(statement.party)}")
    typer.echo(f"opening {in_ton(statement.opening)} TON")
    if daily:
        days = daily_totals(statement)
        print_table(
            ("day", "kind", "count", "TON"),
            [(d.day.isoformat(), d.kind.value, str(d.count), in_ton(d.amount)) for d in days],
        )
    else:
        print_table(
            ("time (UTC)", "kind", "TON", "reference"),
            [
                (f"{datetime.fromtimestamp(m.at, UTC):%Y-%m-%d %H:%M:%S}", m.kind.value, in_ton(m.amount), m.reference)
                for m in statement.movements
            ],
        )
    for kind, words in ((EntryKind.REVIEW, "went into review"), (EntryKind.REFUSAL, "of reviewed receipts refused")):
        if amount := statement.priced(kind):
            typer.echo(f"{in_ton(amount)} TON {words}")
    typer.echo(
        f"closing {in_ton(statement.closing)} TON, of it {in_ton(statement.aside)} held, in review or on its way"
    )


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Rows under their heads."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        typer.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _counts(usage: Any) -> dict[str, int]:  # noqa: ANN401  a billing.tariff.Usage, which is imported where it runs
    return {
        name: getattr(usage, name)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    }


def party_name(party: "Party") -> str:
    """A party's name for people: a key in hex, an address as workchain:hex."""
    if len(party.name) == 33:
        return f"{int.from_bytes(party.name[:1], 'big', signed=True)}:{party.name[1:].hex()}"
    return party.name.hex()


def in_ton(amount: int) -> str:
    """Nanotons as TON."""
    from billing.money import format_ton

    return format_ton(amount)
