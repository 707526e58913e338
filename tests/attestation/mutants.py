"""Mutation testing by a sample: `python -m tests.attestation.mutants --sample 60` (or `make mutmut SAMPLE=60`).

mutmut changes the modules named in `pyproject.toml`, one place at a time, and runs the tests that reach the place, the
fastest first. From each module the same number of its mutants is drawn, so that small modules are asked as hard as
large ones; the share killed over all of them weighs each module by its size. Runs made before are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("mutants/attestation")
FIRST = "attestation.tdx.x_measurement_id__mutmut_1"  # asking for any one makes all of them, and times the tests
KILLED = frozenset({1, 3})  # pytest failed; its own errors count
TIMED_OUT = frozenset({-24, 24, 36, 152, 255})
Z_95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Mutants of one module: how many there are, were run, and were killed (a run that never ended counts)."""

    total: int
    run: int
    killed: int

    @property
    def share(self) -> float:
        return self.killed / self.run


def draw(mutants: Mapping[str, Sequence[str]], size: int, seed: int) -> list[str]:
    """Return up to `size` mutants of each module; the same ones for the same seed."""
    drawn: list[str] = []
    for module in sorted(mutants):
        names = sorted(mutants[module])
        drawn += random.Random(f"{seed}:{module}").sample(names, min(size, len(names)))
    return drawn


def estimate(tallies: Sequence[Tally]) -> tuple[float, float, float]:
    """Return the share killed over all modules, and its 95 % interval.

    Stratified sampling without replacement. A stratum in which all or none were killed counts with one more of each
    kind (Laplace) in the variance, or it would be believed to be without error.
    """
    whole = sum(tally.total for tally in tallies)
    share = sum(tally.total / whole * tally.share for tally in tallies)
    variance = 0.0
    for tally in tallies:
        likely = (tally.killed + 1) / (tally.run + 2)
        unseen = 1 - tally.run / tally.total
        variance += (tally.total / whole) ** 2 * unseen * likely * (1 - likely) / tally.run
    margin = Z_95 * math.sqrt(variance)
    return share, max(0.0, share - margin), min(1.0, share + margin)


def results() -> dict[str, dict[str, int | None]]:
    """Return by module what became of each of its mutants: mutmut's exit code, None if it was not run."""
    found = {}
    for path in FOLDER.glob("*.py.meta"):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        if codes:
            found[path.name.removesuffix(".meta")] = codes
    return found


def tally(codes: Mapping[str, int | None], names: frozenset[str]) -> Tally:
    run = [codes[name] for name in names & codes.keys()]
    return Tally(total=len(codes), run=len(run), killed=sum(code in KILLED | TIMED_OUT for code in run))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, required=True, help="mutants to draw from each module")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--children", type=int, default=1)
    options = parser.parse_args()
    mutmut = [str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", str(options.children)]
    if not results():
        subprocess.run([*mutmut, FIRST], check=True)
    drawn = frozenset(draw({module: [*codes] for module, codes in results().items()}, options.sample, options.seed))
    left = [name for codes in results().values() for name in sorted(drawn & codes.keys()) if codes[name] is None]
    if left:
        subprocess.run([*mutmut, *left], check=True)
    tallies = {module: tally(codes, drawn) for module, codes in sorted(results().items())}
    for module, one in tallies.items():
        print(f"{module:24} {one.killed:4} of {one.run:4} killed, of {one.total:4} mutants")
    share, low, high = estimate([*tallies.values()])
    print(f"killed, modules weighed by their mutants: {share:.1%} (95 %: {low:.1%} to {high:.1%}); survivors:")
    survivors = [
        name
        for codes in results().values()
        for name in sorted(drawn & codes.keys())
        if codes[name] not in KILLED | TIMED_OUT
    ]
    print("\n".join(survivors) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
