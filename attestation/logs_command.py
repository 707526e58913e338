"""The `logs` command: what a TDX guest says ran in it, event by event, and the registers that would prove it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from attestation.ccel import cut_ccel, parse_ccel, replay_ccel
from attestation.ccel_words import describe
from attestation.errors import MalformedEvidenceError
from attestation.eventlog import replay
from attestation.evidence import EVIDENCE_SIZE_MAX, TdxEvidence, parse_evidence
from attestation.tdx_quote import parse_quote

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SHOWN, UNREADABLE = 0, 2


def add_parser(commands: Commands) -> None:
    """Add `logs` to a command line."""
    parser = commands.add_parser("logs", help="show the event logs of a TDX host; proves nothing, see verify")
    parser.add_argument("file", type=Path, help="evidence document (CBOR), or with --ccel a firmware's log")
    parser.add_argument("--ccel", action="store_true", help="FILE is a raw log, /sys/firmware/acpi/tables/data/CCEL")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the logs of one file; return the exit code."""
    try:
        with options.file.open("rb") as file:
            data = file.read(EVIDENCE_SIZE_MAX + 1)
        lines = firmware_lines(cut_ccel(data)) if options.ccel else evidence_lines(data)
    except (OSError, MalformedEvidenceError) as error:
        print(f"could not read: {error}", file=sys.stderr)
        return UNREADABLE
    print("\n".join(lines))
    return SHOWN


def evidence_lines(document: bytes) -> list[str]:
    """Return both logs of an evidence document, each with its registers as replayed and as the quote has them.

    Raises:
        MalformedEvidenceError: it is no evidence, or not of a TDX host.
    """
    cpu = parse_evidence(document).cpu
    if not isinstance(cpu, TdxEvidence):
        raise MalformedEvidenceError("the evidence is not of a TDX host: no other hardware has these logs")
    rtmrs = parse_quote(cpu.quote).body.rtmrs
    lines = [f"rtmr3 {event}" for event in cpu.log]
    if cpu.ccel:
        lines = [*firmware_lines(cpu.ccel), *lines]
    lines.append(f"rtmr3 = {replay(cpu.log).hex()} replayed")
    return [*lines, *(f"rtmr{number} = {value.hex()} in the quote" for number, value in enumerate(rtmrs))]


def firmware_lines(ccel: bytes) -> list[str]:
    """Return the events of a firmware's log in words, and the values of RTMR0 to RTMR2 that they lead to.

    Raises:
        MalformedEvidenceError: it is no such log.
    """
    events = parse_ccel(ccel)
    values = [f"rtmr{number} = {value.hex()} replayed" for number, value in enumerate(replay_ccel(events)[:3])]
    return [*map(describe, events), *values]
