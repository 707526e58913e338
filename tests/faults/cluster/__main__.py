"""The cluster's faults, one after the other, under load. Each result is kept at once; docs/FAULTS.md is made of them.

python -m tests.faults.cluster [--fault enclave ...] [--runs 1] [--rate 20] [--results FILE]
python -m tests.faults.cluster --fault none --write [--results FILE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.faults.cluster import results
from tests.faults.cluster.audit import Audit, audit_files, imbalance_of
from tests.faults.cluster.faults import FAULTS, Fault, mend_all
from tests.faults.cluster.figures import Effect, Window, all_ended, effect_of, read_asked, table
from tests.faults.cluster.load import PATIENCE_S
from tests.faults.cluster.page import write_page
from tests.faults.cluster.partition import enter_namespace, why_not
from tests.faults.cluster.results import Books, Measured, Result, Unwell
from tests.faults.cluster.world import HOSTS, NotWholeError, World

BASE_PORT = 30000
CALM_S = 5.0  # before the next fault
PAID_S = 180.0  # a hold of a dead enclave's lease is released 120 s after its end, so receipts may come until then
SHORT_FOLDER = "/tmp"
NONE = "none"


def strike(world: World, fault: Fault, *, calm_s: float = CALM_S) -> Effect:
    """One fault, from the blow until the network is calm again, and what it did to the requests of that time."""
    time.sleep(calm_s)
    began = time.monotonic()
    try:
        fault.strike(world)
        fault.mend(world)
    except Exception as error:  # whatever it is, it is the finding
        raise NotWholeError(f"{type(error).__name__}: {error}"[:500]) from error
    whole, load = time.monotonic(), os.getloadavg()[0]
    time.sleep(calm_s)
    window = Window(fault=fault.name, began=began, whole=whole, ended=time.monotonic())
    world.until(
        lambda: all_ended(read_asked(world.asked), window.ended), "its requests ended", timeout_s=PATIENCE_S + 30
    )
    return effect_of(window, read_asked(world.asked), load=load)


def settle_accounts(world: World) -> tuple[Audit, int]:
    """Wait until every receipt of the client is paid; the comparison, and the ledger's imbalance."""

    def audit() -> Audit:
        return audit_files(world.journal, world.receipts)

    try:
        world.until(lambda: audit().unpaid == 0, "every receipt is paid", timeout_s=PAID_S)
    except NotWholeError as error:
        print(error, file=sys.stderr)
    return audit(), imbalance_of(world.journal)


def _let_rogue_try(world: World) -> dict[str, int]:
    from tests.faults.cluster.rogue import try_rogue  # noqa: PLC0415  it imports ray, after its environment is set

    return try_rogue(world).to_json()


def _recover(world: World) -> bool:
    """After a fault that did not end well: whatever is dead is started again. False when that does not help either."""
    try:
        if not world.in_ray():
            world.revive_head()
        mend_all(world)
    except Exception as error:
        print(f"it does not recover: {error}", file=sys.stderr, flush=True)
        return False
    return True


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--runs", type=int, default=1, help="how often each fault happens")
    arguments.add_argument("--rate", type=float, default=20.0, help="requests a second")
    arguments.add_argument("--fault", choices=[*FAULTS, NONE], nargs="+", default=list(FAULTS))
    arguments.add_argument("--hosts", type=int, choices=(2, 3), default=3)
    arguments.add_argument("--calm", type=float, default=CALM_S, help="seconds before and after a fault")
    arguments.add_argument("--base-port", type=int, default=BASE_PORT)
    arguments.add_argument("--results", type=Path, nargs="+", default=[results.RESULTS], help="the first is added to")
    arguments.add_argument("--write", action="store_true", help="write docs/FAULTS.md from all results")
    arguments.add_argument("--rogue", action="store_true", help="let a rogue node join at the end")
    arguments.add_argument("--json", type=Path, help="write what this run found, for a program")
    arguments.add_argument("--keep", action="store_true", help="leave logs and books in their folder")
    return arguments.parse_args()


def _run(options: argparse.Namespace) -> dict[str, object]:
    """All faults that were asked for, in one network; returns what was found as JSON."""
    folder = Path(tempfile.mkdtemp(prefix="chr-", dir=SHORT_FOLDER))
    world = World(folder, base_port=options.base_port, hosts=HOSTS[: options.hosts])
    found, failures, gained = list[Effect](), list[str](), None

    def keep(result: Result) -> None:
        results.append(options.results[0], result)

    try:
        world.start(rate=options.rate)
        for name in options.fault * options.runs:  # in turn: a run that is cut short has each about as often
            if reason := FAULTS[name].needs():
                print(f"{FAULTS[name].name}: skipped, {reason}", file=sys.stderr, flush=True)
                continue
            try:
                effect = strike(world, FAULTS[name], calm_s=options.calm)
            except KeyboardInterrupt:
                print("interrupted: the accounts are settled all the same", file=sys.stderr, flush=True)
                break
            except NotWholeError as error:
                failures.append(f"{FAULTS[name].name}: {error}")
                keep(Unwell(fault=FAULTS[name].name, why=str(error)))
                print(failures[-1], file=sys.stderr, flush=True)
                if not _recover(world):
                    break  # the next one would be measured in a network that is broken
                continue
            found.append(effect)
            keep(
                Measured(
                    effect=effect,
                    rate=options.rate,
                    hosts=options.hosts,
                    machine=results.machine(),
                )
            )
            print(table([effect]).splitlines()[-1], effect.codes or "", flush=True)
        gained = _let_rogue_try(world) if options.rogue else None
        world.finish_load()
        audit, imbalance = settle_accounts(world)
        keep(Books(audit=audit, imbalance=imbalance, faults=len(found), released=world.released))
    finally:
        left = world.net.stop()
        if options.keep:
            print(f"logs and books: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n" + table(found) + f"\n\n{audit.text()}; ledger imbalance {imbalance}")
    words: dict[str, object] = {"effects": [asdict(one) for one in found], "audit": asdict(audit)}
    return words | {"imbalance": imbalance, "rogue": gained, "failures": failures, "left": left}


def main() -> int:
    options, broken = _options(), False
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    if "partition" in options.fault and not why_not():
        enter_namespace(sys.argv[1:])
    if options.fault != [NONE]:
        words = _run(options)
        audit = Audit(**words["audit"])  # type: ignore[arg-type]  # as it was written
        broken = bool(words["failures"] or words["left"] or words["imbalance"])
        broken = broken or bool(audit.unpaid or audit.twice or audit.unlike)
        if options.json:
            options.json.write_text(json.dumps(words))
    if options.write:
        write_page(results.read(options.results))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
