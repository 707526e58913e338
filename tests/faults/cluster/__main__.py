"""The cluster's faults, one after the other, under load; prints a table and can write docs/FAULTS.md.

python -m tests.faults.cluster [--runs 1] [--rate 20] [--fault enclave ...] [--write]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.faults.cluster.audit import Audit, audit_files
from tests.faults.cluster.faults import FAULTS, Fault
from tests.faults.cluster.figures import Effect, Window, effect_of, read_asked, table
from tests.faults.cluster.page import write_page
from tests.faults.cluster.world import HOSTS, NotWholeError, World

BASE_PORT = 30000
CALM_S = 5.0  # before the next fault
SHORT_FOLDER = "/tmp"


def strike(world: World, fault: Fault, *, calm_s: float = CALM_S) -> Window:
    """One fault, from the blow until the network is calm again."""
    time.sleep(calm_s)
    began = time.monotonic()
    try:
        fault.strike(world)
        fault.mend(world)
    except Exception as error:  # whatever it is, it is the finding
        raise NotWholeError(f"{type(error).__name__}: {error}"[:500]) from error
    whole = time.monotonic()
    time.sleep(calm_s)
    return Window(fault=fault.name, began=began, whole=whole, ended=time.monotonic())


def effects(world: World, windows: Sequence[Window]) -> list[Effect]:
    """What each did, from the load's notes."""
    asked = read_asked(world.asked)
    return [effect_of(window, asked) for window in windows]


def settle_accounts(world: World) -> tuple[Audit, int]:
    """Wait until every receipt of the client is paid; the comparison, and the ledger's imbalance."""

    def audit() -> Audit:
        return audit_files(world.journal, world.receipts)

    try:
        world.until(lambda: audit().unpaid == 0, "every receipt is paid", timeout_s=60)
    except NotWholeError as error:
        print(error, file=sys.stderr)
    return audit(), world.net.billing("imbalance")


def _let_rogue_try(world: World) -> dict[str, int]:
    from tests.faults.cluster.rogue import try_rogue  # noqa: PLC0415  it imports ray, after its environment is set

    return try_rogue(world).to_json()


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--runs", type=int, default=1, help="how often each fault happens")
    arguments.add_argument("--rate", type=float, default=20.0, help="requests a second")
    arguments.add_argument("--fault", choices=FAULTS, nargs="+", default=list(FAULTS))
    arguments.add_argument("--hosts", type=int, choices=(2, 3), default=3)
    arguments.add_argument("--calm", type=float, default=CALM_S, help="seconds before and after a fault")
    arguments.add_argument("--base-port", type=int, default=BASE_PORT)
    arguments.add_argument("--write", action="store_true", help="write docs/FAULTS.md")
    arguments.add_argument("--rogue", action="store_true", help="let a rogue node join at the end")
    arguments.add_argument("--json", type=Path, help="write what was found, for a program")
    arguments.add_argument("--keep", action="store_true", help="leave logs and books in their folder")
    options = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chr-", dir=SHORT_FOLDER))
    world, windows, failures = (
        World(folder, base_port=options.base_port, hosts=HOSTS[: options.hosts]),
        list[Window](),
        list[str](),
    )
    try:
        world.start(rate=options.rate)
        for name in options.fault:
            for _ in range(options.runs):
                try:
                    windows.append(strike(world, FAULTS[name], calm_s=options.calm))
                except NotWholeError as error:
                    failures.append(f"{FAULTS[name].name}: {error}")
                    print(failures[-1], file=sys.stderr, flush=True)
                    break
                except KeyboardInterrupt:
                    failures.append("it was interrupted")
                    break
                print(table(effects(world, windows[-1:])).splitlines()[-1], flush=True)
            if "it was interrupted" in failures:
                break
        gained = _let_rogue_try(world) if options.rogue else None
        world.finish_load()
        found = effects(world, windows)
        audit, imbalance = settle_accounts(world)
    finally:
        left = world.net.stop()
        if options.keep:
            print(f"logs and books: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n" + table(found) + f"\n\n{audit.text()}; ledger imbalance {imbalance}")
    for effect in found:
        print(f"{effect.fault}: {effect.codes}", file=sys.stderr)
    if gained:
        print(f"a rogue node gained {gained}")
    if options.json:
        words = {"effects": [asdict(effect) for effect in found], "audit": asdict(audit), "imbalance": imbalance}
        words |= {"rogue": gained, "failures": failures, "left": left}
        options.json.write_text(json.dumps(words))
    if options.write:
        write_page(
            found,
            audit,
            imbalance,
            hosts=options.hosts,
            released=world.released,
            runs=options.runs,
            rate=options.rate,
            failures=failures,
        )
    broken = failures or left or imbalance or audit.unpaid or audit.twice or audit.unlike
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
