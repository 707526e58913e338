"""The days a statement covers, as options name them."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

import typer

From = Annotated[str, typer.Option("--from", help="First day, as 2026-01-01, in UTC. Default: the beginning.")]
To = Annotated[str, typer.Option("--to", help="Last day, in UTC. Default: today.")]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"not a day like 2026-01-31: {text!r}") from None


def parse_period(first: str, last: str) -> tuple[int, int]:
    """Unix seconds: the first that counts, and the first that does not any more; BadParameter if it makes no sense."""
    start = int(datetime.combine(_day(first), time(), UTC).timestamp()) if first else 0
    end = parse_end(last)
    if end <= start:
        raise typer.BadParameter("the period ends before it begins: --to is the later day")
    return start, end


def parse_end(last: str) -> int:
    """The first unix second after a day; today's for none."""
    day = _day(last) if last else datetime.now(UTC).date()
    return int(datetime.combine(day + timedelta(days=1), time(), UTC).timestamp())
