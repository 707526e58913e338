"""`chrysalis models`: which root of a model is served where, and how to change it without losing a request.

The commands speak to the operator's Ray cluster as `chrysalis hosts` does: RAY_ADDRESS (or --address) says where.
Exit code 0: done; 1: refused, or unknown; 2: the cluster does not answer.
"""

import json
from typing import Annotated, Any

import typer

from chrysalis.cluster_cli import REFUSED, AsJson, Where, _ask, connected

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Name in the registry.")]

app = typer.Typer(help="The operator's models: list, plan, roll out, roll back.", no_args_is_help=True)


@app.command("list")
def list_models(address: Where = "auto", as_json: AsJson = False) -> None:
    """List every model with its roots, replicas wanted, and hosts that serve it."""
    with connected(address):
        rows = _ask("models", "models")
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        _say(row)


@app.command()
def plan(address: Where = "auto", as_json: AsJson = False) -> None:
    """Show what the next round would load and unload, and what finds no place; changes nothing."""
    with connected(address):
        planned = _ask("models", "plan")
    if as_json:
        typer.echo(json.dumps(planned, indent=2))
        return
    for what in ("load", "unload", "leaving"):
        for row in planned[what]:
            typer.echo(f"{what} {row['root'][:16]} on {row['host']}")
    for row in planned["missing"]:
        typer.echo(f"no place for {row['replicas']} of {row['root'][:16]}: {'; '.join(row['lost'])}")
    if not any(planned.values()):
        typer.echo("nothing to change")


@app.command()
def rollout(
    name: Name,
    root: Annotated[str, typer.Argument(help="Manifest root in hex; default: the only one that is not in use.")] = "",
    first: Annotated[int, typer.Option(help="Hosts that must serve it before leases are for it.", min=1)] = 1,
    address: Where = "auto",
    as_json: AsJson = False,
) -> None:
    """Deploy a model, or change it to another root; the old one stays until its leases ended."""
    try:
        wanted = bytes.fromhex(root) or None
    except ValueError:
        typer.echo(f"refused: {root} is not a manifest root: give 64 hexadecimal digits", err=True)
        raise typer.Exit(REFUSED) from None
    with connected(address):
        _show(_ask("models", "rollout", name, wanted, first), as_json)


@app.command()
def rollback(name: Name, address: Where = "auto", as_json: AsJson = False) -> None:
    """Go back to the root before the last roll-out, in the same careful way."""
    with connected(address):
        _show(_ask("models", "roll_back", name), as_json)


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row, indent=2))
    else:
        _say(row)


def _say(row: dict[str, Any]) -> None:
    serving = row["serving"]
    lacking = f"; the work needs {row['needed']}: add hosts" if row["needed"] > row["offered"] else ""
    typer.echo(f"{row['name']}  wanted {row['wanted']} of {row['offered']} hosts{lacking}")
    typer.echo(f"  {row['root'][:16]}  leases are for it, {serving.get(row['root'], 0)} serve it")
    if row["incoming"]:
        count = serving.get(row["incoming"], 0)
        typer.echo(f"  {row['incoming'][:16]}  comes, {count} of the first {row['first']} serve it")
    if row["outgoing"]:
        count = serving.get(row["outgoing"], 0)
        typer.echo(f"  {row['outgoing'][:16]}  goes at {row['retire_at']}, {count} serve it")
    if row["trouble"]:
        typer.echo(f"  waits: {row['trouble']}")
