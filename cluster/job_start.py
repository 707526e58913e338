"""`python -m cluster.job_start DIGEST -- COMMAND...`: on an attested host, start a job whose code is logged first.

1. Read the bundle that lies beside it, with a limit, and compare it with its digest.
2. Have the enclave log it: it refuses what its policy does not name, and hosts without a register refuse everything.
3. Unpack it, and become the command, in the job's own folder.

Exit codes: the command's; 2 when the job may not run here, 127 when there is no such command.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from cluster.enclave_client import CONTROL_VARIABLE, EnclaveControl
from cluster.errors import ClusterError, ConfigError
from cluster.job_unpack import BUNDLE_NAME, read_bundle, unpack_bundle

REFUSED, NO_COMMAND = 2, 127


async def prepare(archive: Path, digest: bytes, control: Path) -> Path:
    """Log a bundle and unpack it; returns the folder it lies in, beside the archive.

    Raises:
        BundleError: it is not the archive that was meant, or not one that may be unpacked.
        EnclaveControlError: the enclave refuses to log it. EnclaveUnreachableError: it could not be asked.
    """
    data = read_bundle(archive, digest)  # (1)
    async with EnclaveControl(control) as enclave:
        await enclave.log_bundle(digest)  # (2)
    folder = Path(tempfile.mkdtemp(prefix="job-", dir=archive.parent))  # goes with what Ray unpacked
    unpack_bundle(data, folder)  # (3)
    return folder


def main() -> int:
    """Start the job; returns only when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m cluster.job_start", description="Start a job on its host.")
    parser.add_argument("digest", type=bytes.fromhex, help="SHA-256 of the bundle")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        control = os.environ.get(CONTROL_VARIABLE)
        if not control:
            raise ConfigError(f"no enclave on this node: start it with {CONTROL_VARIABLE} naming the control socket")
        folder = asyncio.run(prepare(Path(BUNDLE_NAME).absolute(), arguments.digest, Path(control)))
    except ClusterError as error:
        print(f"job refused: {error}", file=sys.stderr)
        return REFUSED
    os.chdir(folder)
    try:
        os.execvp(arguments.command[0], arguments.command)  # noqa: S606  the job is what this host was asked to run
    except OSError as error:
        print(f"cannot run {arguments.command[0]}: {error.strerror}", file=sys.stderr)
    return NO_COMMAND


if __name__ == "__main__":
    sys.exit(main())
