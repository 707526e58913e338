"""The part of `chrysalis settle` that moves the books between SQLite and PostgreSQL; see chrysalis/settle_cli.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from billing.journal_place import JournalPlace
    from cluster.config import NetworkConfig

SQLITE = "sqlite"
To = Annotated[str, typer.Option("--to", help="postgresql://user@host/database; or `sqlite`, the file in `state`.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--to-password", help="File with the database's password, mode 0600 (else PGPASSFILE).")
]


def move(settings: "NetworkConfig", to: str, password_file: Path | None) -> dict[str, Any]:
    """Move books and describe what stands in the new place; raises as `billing.move_books.move_books`."""
    from rich.console import Console
    from rich.progress import Progress

    from billing.move_books import move_books

    source, target = settings.books, _place(settings, to, password_file)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copying records")
        moved = move_books(source, target, progress=lambda done, of: bar.update(task, completed=done, total=of))
    follow = "take `books` out of the settings" if to == SQLITE else f"write `books: {target}` into the settings"
    return {
        "from": str(source),
        "to": str(target),
        "records": moved.records,
        "copied": moved.copied,
        "head": moved.head.hex(),
        "treasury": moved.treasury,
        "imbalance": moved.imbalance,
        "batches": moved.batches,
        "next": f"{follow}; the old books are kept, and opened no more",
    }


def _place(settings: "NetworkConfig", to: str, password_file: Path | None) -> "JournalPlace":
    from billing.journal_place import PostgresPlace
    from cluster.config import BOOKS_FILE

    if to != SQLITE:
        return PostgresPlace(url=to, password_file=password_file)
    if password_file is not None:
        raise typer.BadParameter("--to-password is for a database")
    return settings.state / BOOKS_FILE
