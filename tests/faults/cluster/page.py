"""Writes docs/FAULTS.md from results."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults.cluster.faults import FAULTS
from tests.faults.cluster.figures import table
from tests.faults.cluster.results import Books, Measured, Result, Unwell

PAGE = Path(__file__).parents[3] / "docs" / "FAULTS.md"
_TEMPLATE = Path(__file__).with_name("page.template.md")


def write_page(found: Sequence[Result]) -> None:
    """Write the page into docs/."""
    PAGE.write_text(page_text(found))
    print(f"{PAGE} written", file=sys.stderr)


def page_text(found: Sequence[Result]) -> str:
    """The whole page."""
    measured = [one for one in found if isinstance(one, Measured)]
    books = [one for one in found if isinstance(one, Books)]
    unwell = [one for one in found if isinstance(one, Unwell)]
    return _TEMPLATE.read_text().format(
        conditions=_conditions(measured),
        released=sum(one.released for one in books),
        tables=_tables(measured),
        missing=_missing(measured),
        broken=_broken(unwell),
        targets=_targets(measured),
        money=_money(books),
    )


def _conditions(measured: Sequence[Measured]) -> str:
    loads = [one.effect.load for one in measured] or [0.0]
    machines = ", and ".join(dict.fromkeys(one.machine for one in measured))
    return f"Measured on {machines}; the machine's load average was between {min(loads):.0f} and {max(loads):.0f}."


def _tables(measured: Sequence[Measured]) -> str:
    """One table for each rate and number of hosts, faults in the suite's order."""
    parts = []
    for rate, hosts in sorted({(one.rate, one.hosts) for one in measured}):
        some = [one.effect for one in measured if (one.rate, one.hosts) == (rate, hosts)]
        ordered = [effect for fault in FAULTS.values() for effect in some if effect.fault == fault.name]
        parts.append(f"{rate:g} sealed requests a second, {hosts} hosts:\n\n{table(ordered)}\n")
    return "\n".join(parts)


def _missing(measured: Iterable[Measured]) -> str:
    seen = {one.effect.fault for one in measured}
    names = [fault.name for fault in FAULTS.values() if fault.name not in seen]
    return f"Not measured: {', '.join(names)}.\n" if names else ""


def _broken(unwell: Iterable[Unwell]) -> str:
    lines = [f"- {one.fault}: {one.why.splitlines()[0][:200]}" for one in unwell]
    return (
        "\nIt also happened that the network did not get well, and was given up:\n\n" + "\n".join(lines) + "\n"
        if lines
        else ""
    )


def _targets(measured: Sequence[Measured]) -> str:
    """Each target, and whether it held every time."""
    lines = []
    for fault in FAULTS.values():
        times = [(one.effect.recovery_s, one.rate) for one in measured if one.effect.fault == fault.name]
        if fault.target_s is None:
            continue
        words = "not measured"
        if times:
            words = "held" if max(times)[0] <= fault.target_s else "**not held**"
            rates = max(rate for _, rate in times)
            words += f" ({len(times)} times, most {max(times)[0]:.1f} s, at up to {rates:g} requests a second)"
        lines.append(f"- {fault.name}: answers after {fault.target_s:.0f} s at most: {words}")
    return "\n".join(lines)


def _money(books: Iterable[Books]) -> str:
    """A line a run."""
    lines = [f"- after {one.faults} faults: {one.audit.text()}; ledger imbalance {one.imbalance}" for one in books]
    return "\n".join(lines) or "Not measured: no run came to its end."
