"""`chrysalis cluster`: an operator's cluster over several machines, before `ray up` and after it.

`certs` and `check` run where cluster.yaml lies; `start`, `admit` and `place` run on the head, in a shell that has read
/etc/chrysalis/ray/ray.env; `relay` runs on the head, before Ray. Exit code 0: done; 1: refused, or wrong; 2: it could
not be asked.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="A cluster over several machines: certificates, checks, the operator's actors, hosts, models.")

REFUSED, TROUBLE = 1, 2
GATEWAY_PORT = 8000
CALL_TIMEOUT_S = 60.0

File = Annotated[Path, typer.Argument(help="cluster.yaml")]


@app.command()
def certs(
    file: File = Path("cluster.yaml"),
    *,
    install: Annotated[bool, typer.Option(help="Copy each machine its own by ssh.")] = True,
) -> None:
    """Make a new certificate for each machine (and CA and token if there are none), and copy it there."""
    from cluster.certificates import JOINING_DAYS, NODE_DAYS, read_pin, write_certificates, write_joining
    from cluster.launch_file import LaunchFile
    from cluster.launch_form import JOINING_FOLDER, SECRET_MOUNT, TLS_FOLDER
    from cluster.machines import copy_folder, write_token

    with exit_codes():
        launch = LaunchFile.load(file)
        folders = write_certificates(launch.tls_folder, launch.name, launch.addresses, now=datetime.now(UTC))
        write_token(launch.mount(SECRET_MOUNT), replace=False)
        for address, folder in folders.items():
            if install:
                copy_folder(launch, address, folder, TLS_FOLDER)
            typer.echo(f"{address}: {NODE_DAYS} days{', installed' if install else f', in {folder}'}")
        joining = write_joining(launch.tls_folder, now=datetime.now(UTC))
        if install:
            copy_folder(launch, launch.head, joining, JOINING_FOLDER)
        typer.echo(f"joining CA: {JOINING_DAYS} days{', installed on the head' if install else f', in {joining}'}")
        typer.echo(f"others join by: chrysalis join {launch.head} --pin {read_pin(launch.tls_folder)}")


@app.command()
def check(file: File = Path("cluster.yaml")) -> None:
    """Say everything that would keep `ray up` from working, or make it unsafe."""
    from cluster.launch_file import LaunchFile

    with exit_codes():
        launch = LaunchFile.load(file)
        problems = list(launch.problems(now=datetime.now(UTC)))
        for problem in problems:
            typer.echo(problem, err=True)
        if problems:
            raise typer.Exit(REFUSED)
        typer.echo(f"{file}: head {launch.head} and {len(launch.hosts)} hosts; ray up -y --no-config-cache {file}")


@app.command()
def relay(config: Annotated[Path, typer.Argument(help="The operator's settings, on the head.")]) -> None:
    """Start the relay with the hosts that it last knew: the first thing to do when the head has booted, before Ray."""
    with exit_codes():
        from cluster.config import NetworkConfig
        from cluster.relay_service import open_relay

        running = open_relay(NetworkConfig.load(config.resolve()))
        typer.echo(json.dumps({"relay": running.address, "pid": running.pid, "hosts": running.hosts()}))


@app.command()
def backup(
    config: Annotated[Path, typer.Argument(help="The operator's settings, on the head.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Copy the operator's state into a new folder while everything runs; take that folder off the machine."""
    with exit_codes():
        from cluster.backup import back_up
        from cluster.config import NetworkConfig

        settings = NetworkConfig.load(config.resolve())
        count = back_up(settings.state, target)
        books = "" if isinstance(settings.books, Path) else f"; the books are in {settings.books}: back that up too"
        typer.echo(f"{count} files in {target}{books}")


@app.command()
def start(
    config: Annotated[Path, typer.Argument(help="The operator's settings, on the head.")],
    port: Annotated[int, typer.Option(help="Where the gateway listens, on all addresses of the head.")] = GATEWAY_PORT,
) -> None:
    """Start relay, registry, scheduler, billing and gateway on the head; those that run already are replaced."""
    from cluster.errors import ConfigError

    with exit_codes(), _driver() as node:
        from cluster.actors.handles import start_joining, start_operator, stop_operator
        from cluster.config import NetworkConfig
        from serve_apps.deploy import ANY, deploy_gateway, start_models

        if "node:__internal_head__" not in node["Resources"]:
            raise ConfigError("this machine is not the head: the operator's keys and actors belong there")
        stop_operator()
        start_operator(config.resolve())
        address = node["NodeManagerAddress"]
        deploy_gateway(config.resolve(), port=port, host=ANY)
        start_models(config.resolve())
        told = {"gateway": f"http://{address}:{port}"}
        if NetworkConfig.load(config).joining is not None:
            told["join"], told["pin"] = start_joining(config.resolve())
        typer.echo(json.dumps(told))


@app.command()
def admit(
    address: Annotated[str, typer.Argument(help="IP:PORT of the host's enclave.")],
    name: Annotated[str, typer.Option(help="For people.")],
    control: Annotated[Path, typer.Option(help="The enclave's control socket on the host.")] = Path(
        "/run/chrysalis/control.sock"
    ),
) -> None:
    """Challenge a host's enclave, and bind the Ray node on the same machine to it."""
    with exit_codes(), _driver():
        from cluster.actors.handles import REGISTRY, find, start_host
        from cluster.model import HostHints
        from cluster.ray_nodes import alive_nodes

        admission = _get(find(REGISTRY).admit.remote(address, HostHints(name=name)))
        if not admission.accepted:
            typer.echo(f"{name} is refused: {admission.error}: {admission.reason}", err=True)
            raise typer.Exit(REFUSED)
        machine = address.rpartition(":")[0].strip("[]")
        nodes = [node for node in alive_nodes() if node["NodeManagerAddress"] == machine]
        if not nodes:
            typer.echo(
                f"{name} is admitted, and no Ray node is alive at {machine}: start it, then admit again", err=True
            )
            raise typer.Exit(TROUBLE)
        start_host(admission.host_id, node_id=nodes[-1]["NodeID"], control=control)
        typer.echo(json.dumps({"host_id": admission.host_id.hex(), "node_id": nodes[-1]["NodeID"]}))


@app.command()
def place(
    model: Annotated[str, typer.Argument(help="Manifest root of the model, 64 hexadecimal digits.")],
    hosts: Annotated[int, typer.Option(help="How many hosts there must be.", min=1)] = 1,
) -> None:
    """Load a model on every host that may serve it; again after the fleet has changed."""
    from cluster.errors import ConfigError

    with exit_codes(), _driver():
        from serve_apps.deploy import place_model, wait_loaded

        root = bytes.fromhex(model)
        if len(root) != 32:
            raise ConfigError(f"{model} is not a manifest root: 64 hexadecimal digits")
        decision = place_model(root, bound_to=hosts)
        wait_loaded(root, hosts)
        typer.echo(json.dumps({"nodes": sorted(one.node_id for one in decision.placements if one.node_id)}))


@contextmanager
def _driver() -> Iterator[dict[str, Any]]:
    """This process as a driver of the cluster on this machine; gives this machine's node."""
    from cluster.errors import ConfigError

    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_USE_TLS") != "1":
        raise ConfigError("read the cluster's settings first: set -a; . /etc/chrysalis/ray/ray.env; set +a")
    import ray

    from cluster.actors.handles import NAMESPACE
    from cluster.ray_nodes import alive_nodes

    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    try:
        own = ray.get_runtime_context().get_node_id()
        yield next(node for node in alive_nodes() if node["NodeID"] == own)
    finally:
        ray.shutdown()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Errors of the block as a line on standard error and an exit code."""
    from cluster.errors import ClusterError, TroubleError

    try:
        yield
    except (TroubleError, OSError, subprocess.SubprocessError) as error:  # timeouts of Ray are OSErrors too
        typer.echo(f"trouble, try again: {error}", err=True)
        raise typer.Exit(TROUBLE) from error
    except (ClusterError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(REFUSED) from error


def _get(reference: Any) -> Any:  # noqa: ANN401  ray is untyped here
    import ray

    return ray.get(reference, timeout=CALL_TIMEOUT_S)
