"""Plain-text tables for terminals and logs: no colours, no dependencies, columns wrapped to a width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

_GAP = "  "
_COLUMN_MIN = 8


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, width: int) -> str:
    """Return the table, each line at most `width` characters where eight a column leave room for it.

    Args:
        head: column titles.
        rows: cells; long ones are wrapped, also inside a word.
        width: characters a line may have.
    """
    cells = [list(head), *(list(map(_printable, row)) for row in rows)]
    wanted = [max(len(row[column]) for row in cells) for column in range(len(head))]
    widths = _fit(wanted, width - len(_GAP) * (len(head) - 1))
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, _GAP.join("-" * size for size in widths))
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Escape what could move a terminal's cursor: cells hold words of a stranger's evidence."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _fit(wanted: list[int], room: int) -> list[int]:
    """Shrink the widest columns first until all fit, none below eight characters (or what it wanted)."""
    widths = list(wanted)
    while sum(widths) > room and max(widths) > _COLUMN_MIN:
        widths[widths.index(max(widths))] -= 1
    return widths


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    wrapped = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
    height = max(map(len, wrapped))
    filled = [
        [part.ljust(size) for part in parts + [""] * (height - len(parts))]
        for parts, size in zip(wrapped, widths, strict=True)
    ]
    return "\n".join(_GAP.join(parts).rstrip() for parts in zip(*filled, strict=True))
