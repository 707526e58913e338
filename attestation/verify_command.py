"""The `verify` command: reads files and clock, calls the core, prints a table, an Attestation Result or a token."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestation.appraisal import Appraisal, Result, appraise, group_checks
from attestation.errors import PolicyError
from attestation.evidence import EVIDENCE_SIZE_MAX
from attestation.policy import AppraisalPolicy
from attestation.result import attestation_result
from attestation.result_token import sign_result
from attestation.snp_floor import parse_floor_file
from attestation.table import format_table

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

HELD, REFUSED, UNKNOWN = 0, 1, 2
_EXIT = {Result.HELD: HELD, Result.REFUSED: REFUSED, Result.UNKNOWN: UNKNOWN}


def add_parser(commands: Commands) -> None:
    """Add `verify` to a command line."""
    parser = commands.add_parser("verify", help="appraise an evidence file against a policy")
    parser.add_argument("evidence", type=Path, help="evidence document (CBOR), as POST .../evidence answers")
    parser.add_argument("--policy", type=Path, required=True, help="appraisal policy (YAML)")
    parser.add_argument("--nonce", type=_nonce, help="the 32 bytes that were sent, in hex; without: exit 2 at best")
    parser.add_argument("--at", type=_time, help="judge at this time (ISO 8601 or unix seconds); default: now")
    parser.add_argument("--snp-floor", type=Path, help="AMD TCB floor file (YAML), if the policy leaves it open")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the Attestation Result as JSON")
    form.add_argument("--sign-key", type=Path, help="print it as a JWT signed with this Ed25519 key (PEM)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Appraise one file; return the exit code."""
    now: datetime = options.at or datetime.now(UTC)
    try:
        document = _read(options.evidence)
        text = options.policy.read_text()
        floor = parse_floor_file(options.snp_floor.read_text()).floor if options.snp_floor else None
        policy = AppraisalPolicy.from_yaml(text, snp_floor=floor)
        key = _signing_key(options.sign_key) if options.sign_key else None
    except (OSError, ValueError) as error:
        print(f"could not tell: {error}", file=sys.stderr)
        return UNKNOWN
    appraisal = appraise(document, policy, nonce=options.nonce, now=now)
    policy_id = f"sha-256:{hashlib.sha256(text.encode()).hexdigest()}"
    claims = attestation_result(appraisal, policy, policy_id=policy_id, nonce=options.nonce, now=now)
    if key is not None:
        print(sign_result(claims, key))
    elif options.json:
        print(json.dumps(claims, indent=2))
    else:
        _print_table(appraisal, width=shutil.get_terminal_size((120, 24)).columns)
    return _EXIT[appraisal.result]


def _print_table(appraisal: Appraisal, *, width: int) -> None:
    for group, checks in group_checks(appraisal.checks).items():
        rows = [(check.name, check.seen, check.required, check.outcome.upper()) for check in checks]
        print(f"== {group}")
        print(format_table(("check", "seen", "required", "outcome"), rows, width=width), end="\n\n")
    print(outcome_line(appraisal))


def outcome_line(appraisal: Appraisal) -> str:
    """Return what came out and what to do next, in plain words, on one line."""
    if appraisal.verdict is not None:
        verdict = appraisal.verdict
        domains = ", ".join(verdict.trust_domains) or "nobody"
        found = (
            f"held: host {verdict.host_id.hex()} is {verdict.tier}, vouched for by {domains}, TCB {verdict.tcb_status},"
            f" until {verdict.not_after.isoformat()}."
        )
    elif appraisal.result is Result.REFUSED:
        found = f"refused: {appraisal.reason}: {ascii(appraisal.message)[1:-1]}."
    else:
        found = f"could not tell: {appraisal.message}."
    return f"{found} {appraisal.advice}"


def _read(path: Path) -> bytes:
    """Read at most one byte more than a verifier takes."""
    with path.open("rb") as file:
        return file.read(EVIDENCE_SIZE_MAX + 1)


def _signing_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PolicyError(f"{path} holds no private key that can be read: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise PolicyError(f"{path} holds another key than Ed25519")
    return key


def _nonce(text: str) -> bytes:
    nonce = bytes.fromhex(text)
    if len(nonce) != 32:
        raise argparse.ArgumentTypeError(f"{len(nonce)} bytes, want 32 (64 hex digits)")
    return nonce


def _time(text: str) -> datetime:
    moment = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
