"""`python -m attestation verify FILE --policy POLICY [--nonce HEX] [--at TIME] [--json | --sign-key PEM]`.

`chrysalis verify` is the same command. Exit code 0: everything held; 1: refused; 2: could not tell (unreadable file,
unusable policy, wrong arguments, or no nonce to check freshness with). `logs FILE [--ccel]` prints event logs in words,
`measure-snp --ovmf FILE --vcpus N` a launch digest, `check-rim FILE` the signature of a manifest.

`python -m attestation conformance make FOLDER | run FOLDER [--verifier CMD] | answer`: cases for verifiers. Exit code
0: every outcome was right; 1: some were not; 2: could not tell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from attestation import conformance_command, logs_command, measure_command, rim_command, verify_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m attestation", description="Judge the evidence of a host.")
    commands = parser.add_subparsers(required=True)
    for module in (verify_command, logs_command, measure_command, rim_command, conformance_command):
        module.add_parser(commands)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
