"""`chrysalis submit`: batches of sealed prompts from where the client is, and Python jobs through the operator's Ray.

Exit code of a batch: 0 every line answered; 1 some lines ended in errors; 2 something has to be changed first; 3 it
stopped with lines left (budget, no host, no funds) and goes on when started again; 130 interrupted, the same.
"""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from billing.money import Nanotons, format_ton, parse_ton
from chrysalis.cluster_cli import Where, connected

if TYPE_CHECKING:
    from client.config import ClientConfig
    from client.redundancy import Rule
    from client.running import ClientParts

FAILED_LINES, CHANGE_FIRST, STOPPED, INTERRUPTED = 1, 2, 3, 130
T = TypeVar("T")

app = typer.Typer(help="Submit work: a batch of prompts, or a Python job.", no_args_is_help=True)


def _budget(text: str | None) -> Nanotons | None:
    try:
        return None if text is None else parse_ton(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def job(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What runs, as: python script.py")],
    spec: Annotated[Path, typer.Option("--spec", help="What the job needs, YAML; see docs/JOBS.md.")],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="The network's policy; its job_bundles must list the code, which the host logs."),
    ] = None,
    address: Where = "auto",
    *,
    unapproved: Annotated[
        bool, typer.Option("--unsafe-unapproved", help="Without a policy, on attested hosts: for development.")
    ] = False,
    only_pack: Annotated[bool, typer.Option("--digest", help="Print the digest of its code, start nothing.")] = False,
) -> None:
    """Run Python on a host that satisfies the spec, and show what it prints; exit 0 when it succeeded."""
    from attestation.verdict import Tier
    from cluster.errors import ClusterError
    from cluster.job_bundle import make_bundle
    from cluster.job_spec import load_spec, measurable

    try:
        wanted = load_spec(spec)
        bundle = make_bundle(wanted.working_dir)
        typer.echo(f"bundle {bundle.digest.hex()}: {bundle.files} files, {len(bundle.data)} bytes", err=not only_pack)
        if only_pack:
            return
        sealed = wanted.requirement.tier is not Tier.OPEN
        _check_approved(bundle.digest, policy, needed=sealed and not unapproved)
        measured = sealed and policy is not None
        if measured:
            wanted = measurable(wanted)
    except ClusterError as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(CHANGE_FIRST) from None
    job_id = os.urandom(8)
    with connected(address) as dashboard:
        from cluster.jobs import Jobs

        jobs = Jobs(dashboard)
        placement = jobs.place(wanted, job_id)
        typer.echo(f"job {job_id.hex()} on host {placement.host_id.hex()}", err=True)
        jobs.start(wanted, bundle, command, placement, job_id, measured=measured)
        try:
            row = jobs.follow(job_id, timeout_s=wanted.timeout_s, show=lambda text: typer.echo(text, nl=False))
        except KeyboardInterrupt:
            jobs.stop(job_id)
            raise typer.Exit(INTERRUPTED) from None
    if row.status != "SUCCEEDED":
        typer.echo(f"job {row.job_id} {row.status}: {row.message}", err=True)
        raise typer.Exit(FAILED_LINES)


def _check_approved(digest: bytes, path: Path | None, *, needed: bool) -> None:
    """Refuse code that the policy does not list, and with `needed` code for which none is given."""
    from attestation.errors import PolicyError
    from attestation.policy_file import read_job_bundles
    from cluster.errors import ConfigError
    from cluster.job_bundle import check_approved

    if path is None:
        if needed:
            raise ConfigError("attested hosts run approved code only: give --policy, a file with job_bundles")
        return
    try:
        approved = read_job_bundles(path)
    except PolicyError as error:
        raise ConfigError(str(error)) from error
    check_approved(digest, approved)


@app.command()
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests, one JSON object a line, as OpenAI's.")],
    out: Annotated[Path, typer.Option("--out", help="Answers, one JSON object a line; its journal lies beside it.")],
    config: Annotated[Path, typer.Option("--config", help="The client's settings, see `chrysalis client`.")],
    *,
    concurrency: Annotated[int, typer.Option(help="Requests on their way at once.", min=1, max=512)] = 16,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TON", help="The most all of it may cost, earlier runs included.")
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(metavar="open", help="Ask hosts without a TEE, whose owners can read it: public data only."),
    ] = None,
    agreement: Annotated[
        str, typer.Option(metavar="exact|numeric", help="Of --tier open: when answers agree; numeric reads numbers.")
    ] = "exact",
    tolerance: Annotated[
        float, typer.Option(metavar="REL", help="Of --agreement numeric: relative to the larger number.", min=0.0)
    ] = 0.0,
    only_estimate: Annotated[bool, typer.Option("--estimate", help="Say what it can cost, ask nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what ended in an error.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event a line instead of a bar.")] = False,
) -> None:
    """Ask every line at attested hosts, sealed; started again it goes on where it stopped."""
    from client.batch import BatchOptions, estimate_batch, run_batch
    from client.config import load_config
    from client.errors import BatchStoppedError, ClientError
    from client.open_batch import COPIES, run_open_batch

    limit, rule = _budget(budget), _rule(tier, agreement, tolerance)
    try:
        settings = load_config(config)
        parts = _open(settings, open_hosts=rule is not None)
        if only_estimate:
            copies = (1, 1) if rule is None else COPIES
            _say_estimate(asdict(asyncio.run(estimate_batch(parts, source, copies=copies))), as_json)
            return
        run = run_batch if rule is None else partial(run_open_batch, rule=rule)
        options = BatchOptions(concurrency=concurrency, budget=limit, retry_failed=retry_failed)
        with _reporter(as_json) as report:
            totals = asyncio.run(_until_told(run(parts, source, out, options, report=report, random=random.random)))
    except BatchStoppedError as error:
        typer.echo(f"stopped: {error}; start it again to go on", err=True)
        raise typer.Exit(STOPPED) from None
    except ClientError as error:
        typer.echo(f"batch: {error}", err=True)
        raise typer.Exit(CHANGE_FIRST) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("interrupted: start it again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if totals.failed:
        typer.echo(f"{totals.failed} of {totals.lines} lines ended in errors, see {out}", err=True)
        raise typer.Exit(FAILED_LINES)


def _rule(tier: str | None, agreement: str, tolerance: float) -> "Rule | None":
    """When answers of open hosts agree; None for attested hosts, which are asked unless the tier is named."""
    from client.redundancy import Agreement, Rule

    if tier is None:
        if agreement != Agreement.EXACT or tolerance:
            raise typer.BadParameter("--agreement and --tolerance are of --tier open")
        return None
    if tier != "open":
        raise typer.BadParameter("--tier: only open can be named; the tier of attested hosts stands in the policy")
    try:
        return Rule(agreement=Agreement(agreement), relative=tolerance)
    except ValueError as error:
        raise typer.BadParameter(f"--agreement and --tolerance: {error}") from None


@asynccontextmanager
async def _open(config: "ClientConfig", *, open_hosts: bool) -> AsyncIterator["ClientParts"]:
    """The client of these settings, on the chain."""
    from attestation.verdict import Tier
    from client.registry import ChainRegistry
    from client.running import open_parts
    from client.wallet import Wallet

    wallet = Wallet.open_or_create(config.wallet)
    source = await ChainRegistry.connect(config.lite_server, config.registry)
    async with open_parts(config, wallet, source, chain=source.chain, tier=Tier.OPEN if open_hosts else None) as parts:
        yield parts


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; SIGINT and SIGTERM cancel it, so that it writes down where it stands."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


@contextmanager
def _reporter(as_json: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show the events of a batch: as they are, or as a bar on standard error with words around it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if as_json:
        yield lambda event: typer.echo(json.dumps(event))
        return
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        bar, price, failed = progress.add_task("", total=None), 0, 0

        def show(event: Mapping[str, Any]) -> None:
            nonlocal price, failed
            if event["event"] == "notice":
                console.print(event["text"], style="bold")
            elif event["event"] == "start":
                console.print(f"{event['left']} of {event['lines']} lines are left; {_bounds(event['estimate'])}")
                progress.update(bar, total=event["lines"], completed=event["lines"] - event["left"])
            elif event["event"] == "line":
                price, failed = price + event["price_nanotons"], failed + bool(event["code"])
                progress.update(bar, advance=1, description=f"{format_ton(price)} TON, {failed} errors")
            else:
                lost = (
                    f", and up to {format_ton(event['lost'])} TON for answers that never came" if event["lost"] else ""
                )
                console.print(f"{event['answered']} answered for {format_ton(event['price'])} TON{lost}")
                for code, count in event["failures"].items():
                    console.print(f"{count} ended in {code}")
                if event.get("verdicts_waiting"):
                    console.print(f"{event['verdicts_waiting']} verdicts could not be delivered: start it again today")

        yield show


def _say_estimate(bounds: Mapping[str, Any], as_json: bool) -> None:
    typer.echo(
        json.dumps({"event": "estimate", **bounds}) if as_json else f"{bounds['lines']} lines; {_bounds(bounds)}"
    )


def _bounds(bounds: Mapping[str, Any]) -> str:
    many = bounds["copies_max"] > 1
    copies = f" for each of {bounds['copies']} copies of a line, {bounds['copies_max']} at most" if many else ""
    unknown = f"; {bounds['unknown']} lines name no model that there is" if bounds["unknown"] else ""
    tariff, most = format_ton(bounds["at_tariff"]), format_ton(bounds["most"])
    return (
        f"at most {bounds['prompt_tokens']} tokens of prompts and {bounds['completion_tokens']} of answers{copies}:"
        f" up to {tariff} TON at the tariff, {most} TON at the dearest hosts allowed{unknown}"
    )
