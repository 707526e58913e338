"""The `check-rim` command: is this manifest NVIDIA's, and which digest is to be pinned?"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attestation.errors import AttestationError
from attestation.rim import RIM_SIZE_MAX
from attestation.rim_signature import SignedRim, check_rim_signature
from attestation.roots import NVIDIA_RIM_ROOT

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

HELD, REFUSED, UNKNOWN = 0, 1, 2


def add_parser(commands: Commands) -> None:
    """Add `check-rim` to a command line."""
    parser = commands.add_parser("check-rim", help="check NVIDIA's signature of a manifest, print the digest to pin")
    parser.add_argument("file", type=Path, help="manifest (XML), as NVIDIA's RIM service gives it")
    parser.add_argument(
        "--at", type=datetime.fromisoformat, default=datetime.now(UTC), help="judge at this time (ISO 8601)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check one file; return the exit code."""
    try:
        with options.file.open("rb") as file:
            data = file.read(RIM_SIZE_MAX + 1)
        now = options.at.replace(tzinfo=options.at.tzinfo or UTC)
        signed = check_rim_signature(data, roots=frozenset({NVIDIA_RIM_ROOT}), now=now)
    except (OSError, ModuleNotFoundError) as error:
        print(f"could not tell: {error}", file=sys.stderr)
        return UNKNOWN
    except AttestationError as error:
        print(f"refused: {type(error).__name__}: {error}")
        return REFUSED
    print("\n".join(describe(signed)))
    return HELD


def describe(signed: SignedRim) -> list[str]:
    """Return what is worth knowing about a manifest, the digest last."""
    rim = signed.rim
    return [
        f"held: {rim.product} {rim.version}, {len(rim.measurements)} measurements",
        f"signed by {signed.signer}, certificates until {signed.not_after:%F}",
        f"sha256 to pin: {rim.digest.hex()}",
    ]
