"""`chrysalis jobs`: the Python jobs of the operator's cluster, see `chrysalis submit job`.

Exit code 0: done; 1: refused, or unknown; 2: the cluster does not answer.
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from chrysalis.cluster_cli import AsJson, Where, connected

app = typer.Typer(help="Python jobs: list, logs, stop.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="The job's id in hex, see `chrysalis jobs list`.")]


@app.command("list")
def list_jobs(address: Where = "auto", as_json: AsJson = False) -> None:
    """List every job that the cluster remembers, newest first."""
    with connected(address) as dashboard:
        from cluster.jobs import Jobs

        rows = Jobs(dashboard).list()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    for row in rows:
        started = datetime.fromtimestamp(row.started_at, UTC)
        typer.echo(f"{row.job_id}  {row.status}  host {row.host_id}  {started:%Y-%m-%d %H:%M:%S}  {row.entrypoint}")


@app.command()
def logs(job: JobId, address: Where = "auto") -> None:
    """Print what a job has printed."""
    with connected(address) as dashboard:
        from cluster.jobs import Jobs

        typer.echo(Jobs(dashboard).logs(_id(job)), nl=False)


@app.command()
def stop(job: JobId, address: Where = "auto") -> None:
    """Stop a job and give its place to others."""
    with connected(address) as dashboard:
        from cluster.jobs import Jobs

        Jobs(dashboard).stop(_id(job))
    typer.echo(f"{job} is stopped")


def _id(text: str) -> bytes:
    from cluster.errors import JobStateError

    try:
        return bytes.fromhex(text)
    except ValueError:
        raise JobStateError(text[:64], "an id is hex: see `chrysalis jobs list`") from None
