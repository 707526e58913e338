"""`chrysalis hosts` and `chrysalis explain`: what the operator's scheduler knows, and orders to the registry.

They speak to the operator's Ray cluster: RAY_ADDRESS (or --address) says where, RAY_AUTH_TOKEN_PATH names its token.
Exit code 0: done; 1: refused, or unknown; 2: the cluster does not answer.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from string import hexdigits
from typing import Annotated, Any

import typer

REFUSED, UNKNOWN = 1, 2
CALL_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
MACHINE_DIGITS = 64

Where = Annotated[str, typer.Option("--address", envvar="RAY_ADDRESS", help="Address of the Ray cluster, HOST:PORT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Host = Annotated[str, typer.Argument(help="Host id in hex, its name, or its address.")]
Reason = Annotated[str, typer.Option("--reason", help="For the owner to read.")]

hosts_app = typer.Typer(help="The operator's hosts: list, drain, resume, ban, release.", invoke_without_command=True)


@hosts_app.callback()
def list_hosts(context: typer.Context, address: Where = "auto", as_json: AsJson = False) -> None:
    """List every host with its state, its share of traffic, and why."""
    context.obj = address
    if context.invoked_subcommand is not None:
        return
    with connected(address):
        rows = _ask("scheduler", "hosts")
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        name = row["name"] or row["host_id"] or row["address"]
        typer.echo(f"{name}  {row['state']}  {row['gpus']} GPUs  share {row['share']:.3f}  {row['reason']}")


@hosts_app.command()
def drain(
    context: typer.Context,
    host: Host,
    reason: Reason = "maintenance",
    in_minutes: Annotated[int, typer.Option("--in", help="Minutes from now until it begins.", min=0)] = 0,
    minutes: Annotated[
        int | None, typer.Option("--for", help="Minutes it lasts (default: until resumed).", min=1)
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if no other host serves one of its models.")] = False,
) -> None:
    """Give a host no new work; what it has begun goes on."""
    from cluster.fleet import Window

    start = datetime.now(UTC) + timedelta(minutes=in_minutes)
    end = start + timedelta(minutes=minutes) if minutes is not None else None
    with connected(context.obj):
        record = _ask("registry", "plan", _host_id(host), Window(start=start, end=end, reason=reason, forced=force))
    typer.echo(f"{record.label} is {record.state}: {record.reason}")


@hosts_app.command()
def resume(context: typer.Context, host: Host) -> None:
    """Call off a host's maintenance."""
    with connected(context.obj):
        record = _ask("registry", "plan", _host_id(host), None)
    typer.echo(f"{record.label} is {record.state}: {record.reason}")


@hosts_app.command()
def ban(context: typer.Context, host: Host, reason: Annotated[str, typer.Option("--reason")]) -> None:
    """Send a host away, and keep its machine out."""
    with connected(context.obj):
        _ask("registry", "expel", _host_id(host), reason)
    typer.echo(f"{host} is banned: {reason}")


@hosts_app.command()
def release(
    context: typer.Context,
    host: Annotated[str, typer.Argument(help="Host id, name or address; or the id of a banned machine.")],
    reason: Reason = "released by the operator",
    at: Annotated[str, typer.Option("--at", help="IP:PORT of the right one, when it is quarantined at two.")] = "",
) -> None:
    """Lift a quarantine or a ban."""
    with connected(context.obj):
        machine = len(host) == MACHINE_DIGITS and set(host) <= set(hexdigits)
        _ask("registry", "release", bytes.fromhex(host) if machine else _host_id(host), reason, at)
    typer.echo(f"{host} is released")


def explain(
    name: Annotated[str, typer.Argument(metavar="HOST|JOB", help="Host id, name or address; or a job's id in hex.")],
    address: Where = "auto",
    as_json: AsJson = False,
) -> None:
    """Say why a host gets the work it gets, or why a job is not placed."""
    with connected(address):
        told = _ask("scheduler", "explain", name)
    if told is None:
        typer.echo(
            f"refused: nobody is called {name}: `chrysalis hosts` lists hosts, finished jobs are forgotten", err=True
        )
        raise typer.Exit(REFUSED)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    for key, value in told.items():
        _say(key, value)


def _say(key: str, value: object) -> None:
    if isinstance(value, dict):
        for name, words in value.items():
            typer.echo(f"{key} {name}: {words}")
    elif isinstance(value, list):
        for item in value:
            typer.echo(f"{key}: {'  '.join(map(str, item.values())) if isinstance(item, dict) else item}")
    elif value is not None:
        typer.echo(f"{key}: {value}")


def _host_id(name: str) -> bytes:
    told = _ask("scheduler", "explain", name)
    if told is None or not told.get("host_id"):
        typer.echo(f"refused: no host is called {name}, or it has proved nothing yet", err=True)
        raise typer.Exit(REFUSED)
    return bytes.fromhex(told["host_id"])


def _ask(actor: str, method: str, *args: object) -> Any:  # noqa: ANN401  as the actor's method
    import ray

    from cluster.actors.handles import find

    return ray.get(getattr(find(actor), method).remote(*args), timeout=CALL_TIMEOUT_S)


def _check_listens(address: str) -> None:
    """OSError or ValueError when nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        with socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S):
            pass


@contextmanager
def connected(address: str) -> Iterator[str]:
    """A connection to the cluster, and host:port of its dashboard; what goes wrong in it becomes an exit code."""
    import logging

    import ray

    from cluster.errors import ClusterError

    try:
        _check_listens(address)
        context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        yield context.dashboard_url
    except ray.exceptions.RayTaskError as error:
        refused = isinstance(error.cause, ClusterError)
        typer.echo(f"{'refused' if refused else 'failed'}: {error.cause}", err=True)
        raise typer.Exit(REFUSED if refused else UNKNOWN) from None
    except ClusterError as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(REFUSED) from None
    except (OSError, ValueError, ray.exceptions.RayError) as error:
        typer.echo(f"no answer from the operator's cluster at {address}: {error}", err=True)
        raise typer.Exit(UNKNOWN) from None
    finally:
        ray.shutdown()
