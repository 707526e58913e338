"""`chrysalis join`: this machine becomes a host of somebody's cluster, when its enclave's evidence holds.

Exit code 0: it was in, and has left; 1: refused, with what to do; 2: no answer, try again.
"""

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cluster.join_folder import JoinFolder
    from cluster.join_host import HostFacts
    from cluster.processes import Supervisor
    from cluster.relay import Address

REFUSED, TROUBLE = 1, 2
ENCLAVE_START_S = 300.0
OWN = Path("/etc/chrysalis")


def join(
    head: Annotated[str, typer.Argument(help="IP or IP:PORT of the head's join service.")],
    *,
    pin: Annotated[str, typer.Option(help="SHA-256 of the cluster's CA, from the operator.")],
    enclave_control: Annotated[Path, typer.Option(help="Control socket of the enclave that runs.")] = Path(
        "/run/chrysalis/control.sock"
    ),
    enclave: Annotated[
        Path | None, typer.Option(help="Start this enclave first (enclave.yaml), and end it too.")
    ] = None,
    address: Annotated[str, typer.Option(help="IP:PORT of the enclave, if not the one it listens on.")] = "",
    name: Annotated[str, typer.Option(help="For people (default: the machine's name).")] = "",
    labels: Annotated[Path, typer.Option(help="File with name=value,name=value: hints.")] = OWN / "labels",
    resources: Annotated[Path, typer.Option(help="File with a JSON object of numbers: hints.")] = (
        OWN / "resources.json"
    ),
    folder: Annotated[Path, typer.Option(help="Where token and certificate lie while it is in.")] = Path(
        "/run/chrysalis/join"
    ),
    ray_folder: Annotated[Path, typer.Option(help="Where Ray keeps sessions and logs.")] = Path("/var/lib/chrysalis"),
    drain_s: Annotated[float, typer.Option(help="Seconds that answers may take when it leaves.", min=0)] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each step.")] = False,
) -> None:
    """Join a cluster and stay in it until Ctrl-C or SIGTERM: evidence first, then certificate, token and Ray node."""
    from cluster.errors import ClusterError, JoinRefusedError, TroubleError
    from cluster.join_client import parse_head, parse_pin
    from cluster.processes import ProgramError

    say = Teller(as_json=as_json)
    try:
        options = Options(
            head=parse_head(head),
            pin=parse_pin(pin),
            control=enclave_control.absolute(),
            enclave=enclave.absolute() if enclave else None,
            address=address,
            name=name or socket.gethostname(),
            labels=_read_labels(labels),
            resources=_read_resources(resources),
            folder=folder.absolute(),
            ray_folder=ray_folder.absolute(),
            drain_s=drain_s,
        )
        _run(options, say)
    except (TroubleError, ProgramError) as error:
        say.end("trouble", TROUBLE, str(error), getattr(error, "code", type(error).__name__))
    except ClusterError as error:
        code = error.code if isinstance(error, JoinRefusedError) else type(error).__name__
        say.end("refused", REFUSED, str(error), code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line, read."""

    head: "Address"
    pin: bytes
    control: Path
    enclave: Path | None
    address: str
    name: str
    labels: Mapping[str, str]
    resources: str
    folder: Path
    ray_folder: Path
    drain_s: float


class Teller:
    """Progress on standard output: a line for each step, with the seconds since the start."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json, self._began = as_json, time.monotonic()

    def __call__(self, step: str, facts: Mapping[str, Any]) -> None:
        """Print one step."""
        seconds = round(time.monotonic() - self._began, 2)
        if self._as_json:
            print(json.dumps({"step": step, "time": round(time.time(), 2), "seconds": seconds, **facts}), flush=True)
        else:
            words = "  ".join(f"{key} {value}" for key, value in facts.items())
            print(f"{seconds:7.2f} s  {step}  {words}".rstrip(), flush=True)

    def end(self, outcome: str, code: int, message: str, error: str) -> None:
        """Say why it is over, and exit."""
        if self._as_json:
            print(json.dumps({"step": outcome, "code": error, "message": message}), flush=True)
        print(f"{outcome}: {message}", file=sys.stderr)
        raise typer.Exit(code)


def _run(options: Options, say: Teller) -> None:
    from cluster.join_folder import JoinFolder
    from cluster.processes import Supervisor

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))  # until it is in, there is nothing to leave
    with ExitStack() as stack:
        folder = stack.enter_context(JoinFolder(options.folder))
        supervisor = Supervisor(folder.path / "logs")
        stack.callback(supervisor.stop)
        folder.note_run(supervisor.mark)
        control = _start_enclave(supervisor, options.enclave, say) if options.enclave else options.control
        asyncio.run(_stay(replace(options, control=control), folder, supervisor, say))


async def _stay(options: Options, folder: "JoinFolder", supervisor: "Supervisor", say: Teller) -> None:
    from cluster.enclave_client import EnclaveControl
    from cluster.join_client import Grant, JoinClient
    from cluster.join_host import Membership
    from cluster.join_node import JoinedNode, ray_command

    stop, hurry = asyncio.Event(), asyncio.Event()

    def ask_to_stop() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ask_to_stop)
    async with EnclaveControl(options.control) as enclave, JoinClient(options.head, options.pin, enclave) as client:
        facts = _facts(await enclave.status(), options)

        def command(grant: Grant, node_name: str) -> list[str]:
            return ray_command(
                grant, node_name, address=facts.address, labels=facts.labels, resources=options.resources
            )

        node = JoinedNode(supervisor, folder, command, control=options.control, ray_folder=options.ray_folder)
        membership = Membership(
            facts, client, enclave, node, say=say, clock=lambda: datetime.now(UTC), drain_s=options.drain_s
        )
        await membership.run(stop, hurry)


def _facts(status: Mapping[str, Any], options: Options) -> "HostFacts":
    from cluster.errors import ConfigError, EnclaveUnreachableError
    from cluster.join_host import HostFacts
    from cluster.join_messages import check_name
    from cluster.relay import parse_address

    listens = options.address or str(status.get("address", ""))
    if not listens:
        raise EnclaveUnreachableError(f"the enclave at {options.control} does not say where it listens: give --address")
    if parse_address(listens).ip.is_unspecified:
        raise ConfigError(f"the enclave listens on {listens}, all addresses: give --address, as the head reaches it")
    return HostFacts(
        address=listens, control=str(options.control), name=check_name(options.name), labels=options.labels
    )


def _read_labels(path: Path) -> Mapping[str, str]:
    from cluster.errors import ConfigError
    from cluster.join_messages import check_labels

    try:
        text = path.read_text().strip() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    labels = {name: value for name, _, value in (pair.partition("=") for pair in text.split(",") if pair)}
    check_labels(labels)
    return labels


def _read_resources(path: Path) -> str:
    from cluster.errors import ConfigError

    try:
        values = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not JSON ({error}): write an object, as {{}}") from error
    if not isinstance(values, dict) or not all(type(value) in {int, float} for value in values.values()):
        raise ConfigError(f"{path} must be a JSON object of numbers, as {{}}")
    return json.dumps(values)


def _start_enclave(supervisor: "Supervisor", config: Path, say: Teller) -> Path:
    argv = [sys.executable, "-m", "enclave", "--config", str(config.absolute()), "--parent-death"]
    _, ready = supervisor.start_reporting("enclave", argv, timeout_s=ENCLAVE_START_S)
    say("enclave runs", {"host_id": ready["host_id"], "address": ready["address"]})
    return Path(ready["control"])
