"""Coverage-guided fuzzing of every parser, a bounded time each: `python -m tests.fuzz.run [TARGET ...]` (`make fuzz`).

Needs atheris (the extra `fuzz`). Each target runs in a process of its own with the honest documents as its first
corpus. Anything but the target's named refusals, a warning included, is a finding: the input is kept, and the exit
code is 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["attestation"]):
    from tests.fuzz.targets import TARGETS

from attestation.table import format_table

FINDINGS = Path(".fuzz")
INPUT_MAX = 1 << 17  # bytes; larger inputs are the suite's (test_hostile_bytes.py)


def fuzz_one(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    warnings.simplefilter("error")
    target = TARGETS[name]
    for seed in target.seeds():  # makes the simulated vendors: no input's fault, and seconds
        target.try_bytes(seed)

    def test_one_input(data: bytes) -> None:
        target.try_bytes(data)

    atheris.Setup([sys.argv[0], *arguments], test_one_input)
    atheris.Fuzz()


def start(name: str, seconds: int) -> tuple[str, str, str, str]:
    """Fuzz one target in another process; return its row of the table."""
    target = TARGETS[name]
    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        options = (
            f"-max_total_time={seconds}",
            f"-max_len={min(target.size + 1, INPUT_MAX)}",
            f"-artifact_prefix={FINDINGS}/{name}-",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        )
        command = [sys.executable, "-m", "tests.fuzz.run", "--only", name, corpus, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    executed = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode:
        print(f"{name}:\n{done.stderr[-3000:]}", file=sys.stderr)
    found = "finding" if done.returncode else "none"
    return name, executed[1] if executed else "?", covered[-1] if covered else "?", found


def main() -> int:
    """Fuzz the targets named, or all; print a table."""
    if sys.argv[1:2] == ["--only"]:
        fuzz_one(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help=f"some of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=20, help="time for each target")
    options = parser.parse_args()
    rows = [start(name, options.seconds) for name in options.targets or TARGETS]
    print(format_table(("target", "inputs", "edges covered", "findings"), rows, width=100))
    return 1 if any(row[-1] != "none" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
