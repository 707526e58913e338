"""`chrysalis cluster rotate-token` and `end-node`: a new token for every machine, and Ray nodes that begin anew.

Neither touches the relay or an enclave: requests of clients that hold a lease are answered meanwhile.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import typer

from chrysalis.operator_cli import TROUBLE, File, exit_codes

END_NODE = "set -a && . /etc/chrysalis/ray/ray.env && set +a && chrysalis cluster end-node"


def end_node() -> None:
    """End this machine's Ray node of this cluster, and nothing else. On a host the head starts it again."""
    from cluster.errors import ConfigError
    from cluster.node_end import FOLDER, end_node

    with exit_codes():
        folder = os.environ.get(FOLDER, "")
        if not folder.startswith("/"):
            raise ConfigError("read the cluster's settings first: set -a; . /etc/chrysalis/ray/ray.env; set +a")
        typer.echo(f"{end_node(Path(folder))} processes ended")


def rotate_token(file: File = Path("cluster.yaml")) -> None:
    """Give every machine a new token, and end the Ray nodes, which know the old one; `ray up` starts them again.

    A host that cannot be reached is left out (exit code 2), and is not in the cluster until it has the new token.
    """
    from cluster.errors import MachineError
    from cluster.launch_file import LaunchFile
    from cluster.launch_form import SECRET_MOUNT
    from cluster.machines import copy_folder, run_there, write_token

    def reached(address: str) -> str:
        try:
            run_there(launch, address, "true")
        except MachineError as error:
            return str(error)
        return ""

    def end(address: str) -> None:
        run_there(launch, address, END_NODE)

    with exit_codes(), ThreadPoolExecutor() as pool:
        launch = LaunchFile.load(file)
        run_there(launch, launch.head, "true")  # without the head nothing is begun
        away = {address: why for address, why in zip(launch.hosts, pool.map(reached, launch.hosts), strict=True) if why}
        machines = [address for address in launch.addresses if address not in away]
        secret = launch.mount(SECRET_MOUNT)
        write_token(secret, replace=True)
        list(pool.map(lambda address: copy_folder(launch, address, secret, SECRET_MOUNT), machines))
        end(launch.head)  # first, as its autoscaler would start the others again
        list(pool.map(end, [address for address in machines if address != launch.head]))
        typer.echo(f"{len(machines)} machines have the new token, and no Ray node runs there")
        typer.echo(f"now: ray up -y --no-config-cache {file}, then admit each host of your own again")
        for why in away.values():
            typer.echo(f"left out: {why}", err=True)
        if away:
            raise typer.Exit(TROUBLE)
