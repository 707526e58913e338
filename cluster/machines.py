"""The machines of a cluster.yaml, by ssh: folders copied to them, commands run on them, the token they share."""

import os
import secrets
import shlex
import subprocess
from pathlib import Path

from cluster.errors import MachineError
from cluster.launch_file import LaunchFile

TOKEN = "token"  # noqa: S105  the name of its file
TOKEN_BYTES = 32
KNOWN_HOSTS = "known_hosts"  # beside cluster.yaml; a machine's key is taken at its first visit and may not change
COMMAND_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 10


def copy_folder(launch: LaunchFile, address: str, folder: Path, there: str) -> None:
    """Copy what lies in `folder` into the machine's folder `there`; modes stay, each file is replaced at once.

    Raises:
        MachineError: the machine did not take it.
    """
    ssh = shlex.join(["ssh", *_ssh_options(launch)])
    target = f"{launch.ssh_user}@{address}:{there}/"
    _run(address, ["rsync", "-a", "--mkpath", "-e", ssh, f"{folder}/", target])


def run_there(launch: LaunchFile, address: str, command: str) -> str:
    """Run a command line on a machine, in a login shell; returns what it printed. MachineError when it failed."""
    target = f"{launch.ssh_user}@{address}"
    return _run(address, ["ssh", *_ssh_options(launch), target, f"bash -lc {shlex.quote(command)}"])


def write_token(folder: Path, *, replace: bool) -> None:
    """Make the cluster's token, 32 random bytes in hexadecimal, mode 0600; one that is there stays unless `replace`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / TOKEN
    if path.exists() and not replace:
        return
    new = folder.with_name(f"{folder.name}.{TOKEN}")  # not in the folder, which is copied to every machine
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secrets.token_hex(TOKEN_BYTES))
    new.replace(path)


def _ssh_options(launch: LaunchFile) -> list[str]:
    options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_TIMEOUT_S}", "StrictHostKeyChecking=accept-new"]
    options.append(f"UserKnownHostsFile={launch.folder / KNOWN_HOSTS}")
    return ["-i", str(launch.ssh_key), *(part for one in options for part in ("-o", one))]


def _run(address: str, command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(address, f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise MachineError(address, (done.stderr.strip() or done.stdout.strip())[-500:])
    return done.stdout
