"""`chrysalis devnet`: run a local TON network, and drive it from outside: faucet, clock, faults, validator, status.

Exit code 0: done; 1: the devnet refused; 2: it could not be started or asked.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from billing.ton.devnet import Devnet, DevnetAdmin

app = typer.Typer(
    help="A TON network on this machine: a real TVM with mainnet prices behind a lite-server.", no_args_is_help=True
)

REFUSED, UNKNOWN = 1, 2
ADMIN_SOCKET = "admin.sock"  # in the state folder

State = Annotated[Path, typer.Option("--state", help="Folder of the chain; an existing one is continued.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
STATE = Path(".chrysalis/devnet")


class ClockAction(StrEnum):
    """What to do to the chain's clock."""

    SHOW = "show"
    ADVANCE = "advance"
    SET = "set"
    FREEZE = "freeze"
    THAW = "thaw"


@app.command()
def run(
    *,
    state: State = STATE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port of the lite-server; 0: any free one.", min=0, max=65535)] = 0,
    block_interval: Annotated[float, typer.Option(help="Seconds between blocks when nothing happens.", min=0.01)] = 3.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what happens.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the devnet until Ctrl-C."""
    from billing.ton.devnet import serve_devnet

    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr)

    def announce(devnet: "Devnet") -> None:
        if as_json:
            typer.echo(json.dumps(devnet.summary()))
        else:
            _table("devnet", devnet.summary() | {"chain": str(state), "stop": "Ctrl-C; the chain is kept"})

    with _exit_codes(as_json):
        asyncio.run(serve_devnet(state, host=host, port=port, block_interval_s=block_interval, announce=announce))


@app.command()
def faucet(
    address: Annotated[str, typer.Argument(help="Raw (0:hex) or user-friendly address.")],
    amount: Annotated[str, typer.Argument(help="TON in decimal, for example 1.5.")],
    state: State = STATE,
    as_json: AsJson = False,
) -> None:
    """Mint TON to an address and wait until they are in a block."""
    from billing.money import format_ton, parse_ton

    with _exit_codes(as_json):
        nanotons = parse_ton(amount)
        minted = asyncio.run(_admin(state).faucet(address, nanotons))
    values = {"nanotons": nanotons, "block": minted.seqno, "lt": minted.lt, "hash": minted.hash.hex()}
    _say(f"{format_ton(nanotons)} TON to {address}", values, as_json)


@app.command()
def clock(
    action: Annotated[ClockAction, typer.Argument(help="What to do.")] = ClockAction.SHOW,
    value: Annotated[str | None, typer.Argument(help="advance: seconds. set: unix time, or 2030-01-31T12:00Z.")] = None,
    state: State = STATE,
    as_json: AsJson = False,
) -> None:
    """Show the chain's clock, move it forward, let it stand still or run on."""
    with _exit_codes(as_json):
        now = asyncio.run(_turn_clock(_admin(state), action, value))
    _say("clock", {"now": now, "time": datetime.fromtimestamp(now, UTC).isoformat()}, as_json)


@app.command()
def fault(
    kind: Annotated[str, typer.Argument(help="A kind of fault, or `clear`; `list` prints all kinds.")],
    count: Annotated[int, typer.Option(help="How many queries suffer it.", min=1)] = 1,
    delay: Annotated[float, typer.Option(help="Seconds, for delay and stall.", min=0)] = 0.0,
    state: State = STATE,
    as_json: AsJson = False,
) -> None:
    """Spoil the next queries: lost, late or repeated messages, silence, lies."""
    from billing.ton.devnet import FaultKind

    if kind == "list":
        _say("kinds of fault", {str(known): known.target.name.lower() for known in FaultKind}, as_json)
        return
    with _exit_codes(as_json):
        admin = _admin(state)
        if kind == "clear":
            asyncio.run(admin.clear_faults())
        elif kind in set(FaultKind):
            asyncio.run(admin.inject(FaultKind(kind), count=count, delay_s=delay))
        else:
            raise ValueError(f"no fault is called {kind!r}: give clear, list, or one of {', '.join(FaultKind)}")
        waiting = dict(asyncio.run(admin.status()).faults)
    _say("faults that wait for their query", waiting, as_json)


@app.command()
def rotate(state: State = STATE, as_json: AsJson = False) -> None:
    """Cut a key block that hands over to a new validator key."""
    with _exit_codes(as_json):
        seqno = asyncio.run(_admin(state).change_validator())
    _say("new validator", {"key_block": seqno}, as_json)


@app.command()
def status(state: State = STATE, as_json: AsJson = False) -> None:
    """Print block number, time, accounts, faults and key blocks."""
    from dataclasses import asdict

    with _exit_codes(as_json):
        values = asdict(asyncio.run(_admin(state).status()))
    _say("devnet", values, as_json)


async def _turn_clock(admin: "DevnetAdmin", action: ClockAction, value: str | None) -> int:
    if (value is None) == (action in {ClockAction.ADVANCE, ClockAction.SET}):
        raise ValueError("write `clock advance SECONDS` or `clock set TIME`; show, freeze and thaw take no value")
    if action is ClockAction.ADVANCE:
        return await admin.advance(int(value or ""))
    if action is ClockAction.SET:
        return await admin.set_time(_unix_time(value or ""))
    if action is ClockAction.FREEZE:
        return await admin.freeze()
    return await admin.thaw() if action is ClockAction.THAW else (await admin.status()).now


def _unix_time(text: str) -> int:
    if text.isdecimal():
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone: write for example {text}Z")
    return int(moment.timestamp())


def _admin(state: Path) -> "DevnetAdmin":
    from billing.ton.devnet import DevnetAdmin

    return DevnetAdmin(state / ADMIN_SOCKET)


def _say(title: str, values: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
    else:
        _table(title, values)


def _table(title: str, values: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(title, style="bold", soft_wrap=True)
    if not values:
        console.print("none")
        return
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), Text(_shown(value)))
    console.print(table)


def _shown(value: Any) -> str:  # noqa: ANN401  # whatever JSON holds
    if isinstance(value, Mapping):
        value = [f"{count} {kind}" for kind, count in value.items()]
    return (", ".join(map(str, value)) or "none") if isinstance(value, (list, tuple)) else str(value)


@contextmanager
def _exit_codes(as_json: bool) -> Iterator[None]:
    """Turn errors into one line on stderr (and JSON on stdout if asked for) and an exit code."""
    from billing.errors import BillingError
    from billing.ton.devnet.admin import AdminRefusedError

    try:
        yield
    except (BillingError, OSError, ValueError) as error:
        if as_json:
            typer.echo(json.dumps({"error": type(error).__name__, "message": str(error)}))
        typer.echo(f"devnet: {error}", err=True)
        raise typer.Exit(REFUSED if isinstance(error, (AdminRefusedError, ValueError)) else UNKNOWN) from error
