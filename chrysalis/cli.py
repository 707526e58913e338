"""The `chrysalis` command: thin entry points; each subcommand imports what it needs when it runs."""

import runpy
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from chrysalis import (
    channel_cli,
    claim_cli,
    cluster_cli,
    deposit_cli,
    devnet_cli,
    jobs_cli,
    join_cli,
    log_cli,
    models_cli,
    operator_cli,
    owner_cli,
    registry_cli,
    rotate_cli,
    settle_cli,
    statement_cli,
    submit_cli,
    wallet_cli,
)

app = typer.Typer(
    name="chrysalis",
    help="A confidential compute network on Ray: sealed prompts, attested hosts, receipts, TON settlement.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # a traceback must not print keys or prompts
)

app.add_typer(log_cli.app, name="log")
app.add_typer(statement_cli.app, name="statement")
app.add_typer(devnet_cli.app, name="devnet")
app.add_typer(settle_cli.app, name="settle")
app.add_typer(claim_cli.app, name="claim")
app.add_typer(cluster_cli.hosts_app, name="hosts")
app.add_typer(submit_cli.app, name="submit")
app.add_typer(jobs_cli.app, name="jobs")
app.command()(cluster_cli.explain)
operator_cli.app.command("rotate-token")(rotate_cli.rotate_token)
operator_cli.app.command("end-node")(rotate_cli.end_node)
app.add_typer(operator_cli.app, name="cluster")
app.add_typer(models_cli.app, name="models")
app.add_typer(wallet_cli.app, name="wallet")
app.add_typer(channel_cli.app, name="channel")
app.add_typer(registry_cli.app, name="registry")
app.command()(deposit_cli.deposit)
app.command()(owner_cli.owner)
app.command()(join_cli.join)

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class EngineName(StrEnum):
    """Which engine the enclaves run."""

    TORCH = "torch"
    VLLM = "vllm"


class TreasuryName(StrEnum):
    """The kind of treasury: the names of `cluster.settlement_config.SenderKind`."""

    HIGHLOAD = "highload"
    VAULT = "vault"


@app.command()
def demo(
    engine: Annotated[EngineName, typer.Option(help="Engine inside the enclaves; vllm needs `make vllm-cpu`.")] = (
        EngineName.TORCH
    ),
    treasury: Annotated[TreasuryName, typer.Option(help="Where earnings are paid from.")] = TreasuryName.HIGHLOAD,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the network running until Ctrl-C.")] = False,
    base_port: Annotated[
        int, typer.Option(help="First of 100 consecutive loopback ports.", min=1024, max=65000)
    ] = 24800,
    work_dir: Annotated[
        Path | None, typer.Option(help="Keep state and logs here (default: removed at the end).")
    ] = None,
) -> None:
    """Run a whole network on this machine: chain, hosts, requests, receipts, settlement."""
    from chrysalis.demo.run import run_demo
    from cluster.settlement_config import SenderKind

    sender = SenderKind(treasury.value)
    raise typer.Exit(run_demo(engine=engine.value, sender=sender, keep=keep, base_port=base_port, work_dir=work_dir))


def _run_module(module: str, arguments: list[str]) -> None:
    sys.argv = [f"chrysalis {module.rpartition('.')[2]}", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@app.command(context_settings=PASS_THROUGH)
def verify(context: typer.Context) -> None:
    """Verify an evidence file against a policy: exit 0 held, 1 refused, 2 could not tell."""
    from attestation.__main__ import main as run_attestation

    raise typer.Exit(run_attestation(["verify", *context.args]))


@app.command(context_settings=PASS_THROUGH)
def client(context: typer.Context) -> None:
    """Run the client: an OpenAI-compatible server on loopback that verifies hosts and seals requests."""
    _run_module("client", context.args)


@app.command(context_settings=PASS_THROUGH)
def enclave(context: typer.Context) -> None:
    """Run the enclave of a host (in production it is started by the measured image)."""
    _run_module("enclave", context.args)


def main() -> None:
    """Entry point of the `chrysalis` console script."""
    app()
