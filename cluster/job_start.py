"""`python -m cluster.job_start DIGEST -- COMMAND...`: on an attested host, start a job whose code is logged first.

1. Read the bundle that lies beside it, with a limit, and compare it with its digest.
2. Have the enclave log it: it refuses what its policy does not name, and hosts without a register refuse everything.
3. Unpack it, and become the command, in the job's own folder.

What the job asks Ray to run on other hosts goes the same way: Ray calls `set_up` in every worker of the job before it
runs anything of it there (`worker_process_setup_hook`), and ends the worker when that fails.

Exit codes: the command's; 2 when the job may not run here, 127 when there is no such command.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.enclave_client import CONTROL_VARIABLE, EnclaveControl
from cluster.errors import ClusterError, ConfigError
from cluster.job_unpack import BUNDLE_NAME, read_bundle, unpack_bundle

REFUSED, NO_COMMAND = 2, 127
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # where Ray's job submission leaves the settings of the driver it starts
HOOK, SET_UP = "worker_process_setup_hook", "cluster.job_start.set_up"
DIGEST_VARIABLE = "CHRYSALIS_JOB_BUNDLE"  # in every worker of a measured job: the SHA-256 of its bundle in hexadecimal


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


def driver_variables(environment: Mapping[str, str], digest: bytes) -> dict[str, str]:
    """What a job's driver needs in its environment so that its workers, wherever they run, begin with `set_up`.

    Raises:
        ConfigError: the environment is not that of a job of Ray's, or the job has such a hook of its own.
    """
    try:
        config = json.loads(environment[JOB_CONFIG])
        runtime = config["runtime_env"]
        own = runtime.get(HOOK)
        runtime[HOOK] = SET_UP
        runtime["env_vars"] = {**(runtime.get("env_vars") or {}), DIGEST_VARIABLE: digest.hex()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"this is no job of Ray's ({JOB_CONFIG}: {error}): use `chrysalis submit job`") from error
    if own is not None:
        raise ConfigError(f"a measured job cannot have a {HOOK} of its own: leave it out")
    return {JOB_CONFIG: json.dumps(config)}


def set_up() -> None:
    """In a worker of a measured job: log its code on this host, and unpack it into the worker's own working folder.

    Raises:
        ConfigError: no enclave runs beside this node, as on the head.
        BundleError, EnclaveControlError, EnclaveUnreachableError: as `prepare`.
    """
    digest = bytes.fromhex(os.environ[DIGEST_VARIABLE])
    folder = asyncio.run(prepare(Path(BUNDLE_NAME).absolute(), digest, _control(os.environ)))
    os.chdir(folder)
    sys.path.insert(0, str(folder))


def main() -> int:
    """Start the job; returns only when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m cluster.job_start", description="Start a job on its host.")
    parser.add_argument("digest", type=bytes.fromhex, help="SHA-256 of the bundle")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        control, more = _control(os.environ), driver_variables(os.environ, arguments.digest)
        folder = asyncio.run(prepare(Path(BUNDLE_NAME).absolute(), arguments.digest, control))
    except ClusterError as error:
        print(f"job refused: {error}", file=sys.stderr)
        return REFUSED
    os.chdir(folder)
    try:
        # the job is what this host was asked to run
        os.execvpe(arguments.command[0], arguments.command, {**os.environ, **more})  # noqa: S606
    except OSError as error:
        print(f"cannot run {arguments.command[0]}: {error.strerror}", file=sys.stderr)
    return NO_COMMAND


def _control(environment: Mapping[str, str]) -> Path:
    control = environment.get(CONTROL_VARIABLE)
    if not control:
        raise ConfigError(f"no enclave on this node: start it with {CONTROL_VARIABLE} naming the control socket")
    return Path(control)


if __name__ == "__main__":
    sys.exit(main())
