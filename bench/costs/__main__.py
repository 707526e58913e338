"""Print docs/COSTS.md, or write it with --write; figures above what was asked for are named on stderr.

python -m bench.costs [--write]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.costs.page import Page, measure

PATH = Path(__file__).parents[2] / "docs" / "COSTS.md"


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m bench.costs", description=__doc__.partition("\n")[0])
    arguments.add_argument("--write", action="store_true", help="write docs/COSTS.md instead of printing it")
    page: Page = measure()
    if arguments.parse_args().write:
        PATH.write_text(page.text)
    else:
        print(page.text, end="")
    for failure in page.missed:
        print(f"above what was asked for: {failure}", file=sys.stderr)


if __name__ == "__main__":
    main()
