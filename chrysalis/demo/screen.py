"""What the demo prints: steps with their times, and tables."""

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chrysalis.local.hosts import HostSpec
from cluster.admission import Admission


class Screen:
    """Numbered steps on one console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = self._step_began = time.monotonic()
        self._number = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._number += 1
        self._step_began = time.monotonic()
        self.console.print()
        self.console.rule(Text(f"{self._number}. {title}", style="bold"), align="left")

    def say(self, text: str, *, style: str = "") -> None:
        """One line of what happened."""
        self.console.print(f"   {text}", style=style, highlight=False, soft_wrap=True)

    def done(self) -> None:
        """How long the step took."""
        self.say(f"{time.monotonic() - self._step_began:.1f} s", style="dim")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; columns whose name begins with '>' are aligned to the right."""
        table = Table(title=title, title_justify="left", title_style="bold")
        for column in columns:
            table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def admission(self, spec: HostSpec, admission: Admission) -> None:
        """What came of one host's challenge."""
        if admission.capability is None:
            self.say(f"[red]refused [/red] {spec.title}: {admission.error}: {admission.reason}")
            return
        proved = admission.capability
        held = sum(check.outcome == "held" for check in proved.checks)
        gpus = f", {len(proved.gpus)} x {proved.gpus[0].model} in CC mode" if proved.gpus else ""
        self.say(
            f"[green]admitted[/green] {spec.title}: tier {proved.tier}{gpus}, TCB {proved.tcb_status}, "
            f"{held} checks held, roots {', '.join(proved.trust_domains) or 'none'}"
        )
