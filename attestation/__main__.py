"""`python -m attestation verify EVIDENCE --policy POLICY --nonce HEX [--at TIME] [--json]`, `logs FILE [--ccel]`,
`measure-snp --ovmf FILE --vcpus N` and `check-rim FILE`.

Exit code 0: everything held; 1: refused; 2: could not tell (unreadable file, unusable policy, wrong arguments).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from attestation import logs_command, measure_command, rim_command
from attestation.errors import AttestationError, PolicyError
from attestation.evidence import EVIDENCE_SIZE_MAX, parse_evidence
from attestation.policy import AppraisalPolicy
from attestation.snp_floor import parse_floor_file
from attestation.verdict import Check, Verdict, checks_to_list
from attestation.verify import verify

HELD, REFUSED, UNKNOWN = 0, 1, 2
_MARKS = {"held": "ok  ", "failed": "FAIL", "not applicable": "n/a "}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    code: int = options.run(options)
    return code


def _verify(options: argparse.Namespace) -> int:
    try:
        data = _read(options.evidence)
        floor = parse_floor_file(options.snp_floor.read_text()).floor if options.snp_floor else None
        policy = AppraisalPolicy.from_yaml(options.policy.read_text(), snp_floor=floor)
    except (OSError, UnicodeDecodeError, PolicyError) as error:
        print(f"could not tell: {error}", file=sys.stderr)
        return UNKNOWN
    try:
        verdict = verify(parse_evidence(data), policy, nonce=options.nonce, now=options.at)
    except AttestationError as error:
        _report_refusal(error, as_json=options.json)
        return REFUSED
    _report_verdict(verdict, as_json=options.json)
    return HELD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m attestation", description="Judge the evidence of a host.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("verify", help="appraise an evidence file against a policy")
    command.add_argument("evidence", type=Path, help="evidence document (CBOR), as POST .../evidence answers")
    command.add_argument("--policy", type=Path, required=True, help="appraisal policy (YAML)")
    command.add_argument("--nonce", type=_nonce, required=True, help="the 32 bytes that were sent, in hex")
    command.add_argument("--at", type=_time, default=None, help="judge at this time: ISO 8601 or unix seconds")
    command.add_argument("--json", action="store_true", help="print the verdict or refusal as JSON")
    command.add_argument("--snp-floor", type=Path, help="AMD TCB floor file (YAML), if the policy leaves it open")
    command.set_defaults(at=datetime.now(UTC), run=_verify)
    logs_command.add_parser(commands)
    measure_command.add_parser(commands)
    rim_command.add_parser(commands)
    return parser


def _read(path: Path) -> bytes:
    """Read at most one byte more than a verifier takes."""
    with path.open("rb") as file:
        return file.read(EVIDENCE_SIZE_MAX + 1)


def _nonce(text: str) -> bytes:
    nonce = bytes.fromhex(text)
    if len(nonce) != 32:
        raise argparse.ArgumentTypeError(f"{len(nonce)} bytes, want 32 (64 hex digits)")
    return nonce


def _time(text: str) -> datetime:
    moment = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _report_verdict(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"outcome": "held", **verdict.to_dict()}, indent=2))
        return
    _print_checks(verdict.checks)
    domains = ", ".join(verdict.trust_domains) or "nobody"
    print(f"held: host {verdict.host_id.hex()} is {verdict.tier}, vouched for by {domains},")
    print(f"      TCB {verdict.tcb_status}, until {verdict.not_after.isoformat()}")


def _report_refusal(error: AttestationError, *, as_json: bool) -> None:
    kind = type(error).__name__
    if as_json:
        document = {"outcome": "refused", "error": kind, "message": str(error), "checks": checks_to_list(error.checks)}
        print(json.dumps(document, indent=2))
        return
    _print_checks(error.checks)
    print(f"refused: {kind}: {error}")


def _print_checks(checks: tuple[Check, ...]) -> None:
    for check in checks:
        print(f"{_MARKS[check.outcome]} {check.name}: {check.seen}")


if __name__ == "__main__":
    sys.exit(main())
