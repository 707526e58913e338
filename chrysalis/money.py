"""What the commands that move money share: options, exit codes, the question before money moves, sending, output.

Exit codes: 0 done; 1 refused, nothing was sent; 2 could not ask (settings, usage, chain), nothing was sent;
3 a message was sent and what became of it is not known: look, or send the same one again.
"""

import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from chrysalis.key_access import open_signing_key, read_public_key
from chrysalis.network_file import NetworkFile, network_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pytoniq_core import Address

    from billing.ton.client import ChainClient
    from billing.ton.proofs import AccountState
    from billing.ton.transaction import Transaction
    from billing.ton.transfer_request import TransferRequest
    from billing.ton.wallet import Transfer

REFUSED, NOT_ASKED, UNKNOWN = 1, 2, 3
PENDING_SUFFIX = ".pending"
VALID_S = 300  # of a transfer that is signed and sent at once
ARRIVAL_S = 30  # for a contract to do what it was told
OFFLINE_VALID_S = 86_400  # of one that is carried to another machine first

Key = Annotated[Path, typer.Option("--key", help="Key file of the wallet, see docs/KEYS.md.")]
Network = Annotated[
    Path, typer.Option("--network", help="YAML: chain and registry; operator.yaml or client.yaml will do.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; amounts are nanotons.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before money moves.")]
Offline = Annotated[
    Path | None,
    typer.Option("--offline", help="Sign and send nothing: write the request to this file, for `wallet sign`."),
]
OperatorName = Annotated[
    str,
    typer.Option("--operator", help="Id or public key of the operator in the registry (default: the only active one)."),
]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One command: which network, whose key, and how it may ask and answer."""

    network: NetworkFile
    key: Path
    password_file: Path | None
    yes: bool
    as_json: bool
    offline: Path | None = None

    @classmethod
    def load(
        cls,
        network: Path,
        key: Path,
        password_file: Path | None,
        *,
        yes: bool,
        as_json: bool,
        offline: Path | None = None,
    ) -> "Session":
        """The session that a command's options name. ConfigError when the network's file is of no use."""
        return cls(
            network=NetworkFile.load(network),
            key=key,
            password_file=password_file,
            yes=yes,
            as_json=as_json,
            offline=offline,
        )

    @property
    def public_key(self) -> bytes:
        """The key's public half, 32 bytes; needs no password."""
        return read_public_key(self.key)

    @property
    def wallet(self) -> "Address":
        """Where the key's wallet lives on this network."""
        return wallet_address(self.public_key, self.network)

    def signing_key(self) -> "Ed25519PrivateKey":
        """The key itself; asks for its password if no file names it."""
        return open_signing_key(self.key, self.password_file, network_id=self.network.chain.network_id)

    @property
    def pending(self) -> Path:
        """Where a signed transfer stands until its end was seen."""
        return self.key.with_name(self.key.name + PENDING_SUFFIX)

    def run(self, work: "Callable[[ChainClient], Awaitable[T]]", waiting: str = "asking the chain") -> T:
        """Run `work` with a connection to the chain, and say meanwhile what is waited for."""
        return run_on_chain(self.network, work, waiting=waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Transfers that a command wants to make, and what else to tell whoever confirms them."""

    transfers: "tuple[Transfer, ...]"
    purpose: str
    notes: tuple[str, ...] = ()
    arrived: "Callable[[AccountState], bool] | None" = None  # whether the first receiver shows that it did its part


def carry_out(session: Session, plan: "Callable[[ChainClient], Awaitable[Order]]") -> "dict[str, object]":
    """Plan on the chain, ask, sign, send, wait; with `offline` only plan and write the request.

    The signed message lies on the disk before it is sent and until its end is known: whatever happens in between, the
    same bytes are sent again or none.
    """
    from billing.errors import PendingTransferError, SendOutcomeUnknownError
    from billing.key_files import create_key_file
    from billing.ton.transfer_desk import PlannedTransfer, plan_transfer

    if session.offline is None and session.pending.exists():
        raise PendingTransferError(str(session.pending))
    public_key = session.public_key

    async def prepare(chain: "ChainClient") -> tuple[Order, PlannedTransfer]:
        order = await plan(chain)
        valid_s = VALID_S if session.offline is None else OFFLINE_VALID_S
        planned = await plan_transfer(chain, public_key, order.transfers, purpose=order.purpose, valid_s=valid_s)
        return order, planned

    order, planned = session.run(prepare)
    show_request(planned.request, fee=planned.fee, balance=planned.balance, notes=order.notes)
    if session.offline is not None:
        create_key_file(session.offline, planned.request.encode())
        return {"written": str(session.offline), "next": f"chrysalis wallet sign {session.offline} --key KEY"}
    confirm(session.yes)
    key = open_signing_key(session.key, session.password_file, network_id=planned.request.network_id)
    request = planned.request.sign(key)
    create_key_file(session.pending, request.encode())
    try:
        document = finish(session.network, request, pending=session.pending)
    except SendOutcomeUnknownError:
        typer.echo(f"the signed transfer is kept: run chrysalis wallet send {session.pending} ...", err=True)
        raise
    if order.arrived is not None:
        _wait_for_receiver(session, order.transfers[0].destination, order.arrived)
    return document


def _wait_for_receiver(session: Session, address: "Address", arrived: "Callable[[AccountState], bool]") -> None:
    try:
        session.run(
            lambda chain: chain.wait_for(address, arrived, timeout_s=ARRIVAL_S),
            "waiting until the contract has done it",
        )
    except TimeoutError:
        raise TimeoutError(
            f"the order went out, and the contract has not done it in {ARRIVAL_S} s: it may have refused "
            "(chrysalis wallet history shows what came back)"
        ) from None


def finish(network: NetworkFile, request: "TransferRequest", *, pending: Path | None) -> "dict[str, object]":
    """Send a signed request, wait for its end, and drop what is kept of it once that is certain."""
    from billing.errors import BalanceTooLowError, DeadRequestError, MessageRejectedError, TransferSkippedError
    from billing.ton.transfer_desk import send_request

    try:
        done = run_on_chain(
            network,
            lambda chain: send_request(chain, request),
            waiting="waiting until the transfer is in a block",
        )
    except (BalanceTooLowError, DeadRequestError, MessageRejectedError, TransferSkippedError):
        _drop(pending)
        raise
    _drop(pending)
    return transaction_fields(done)


def _drop(pending: Path | None) -> None:
    if pending is not None:
        pending.unlink(missing_ok=True)


def transaction_fields(transaction: "Transaction") -> "dict[str, object]":
    """A transfer's transaction, for output."""
    return {
        "transaction": transaction.hash.hex(),
        "lt": transaction.lt,
        "time": transaction.time,
        "sent": transaction.sent,
        "fee": transaction.cost,
    }


def run_on_chain(network: NetworkFile, work: "Callable[[ChainClient], Awaitable[T]]", *, waiting: str) -> T:
    """Run `work` with a connection to the chain, and say meanwhile what is waited for."""
    import asyncio

    from billing.ton.client import ChainClient

    async def connected() -> T:
        async with await ChainClient.connect(network.chain) as chain:
            return await work(chain)

    with progress(waiting):
        return asyncio.run(connected())


def progress(words: str) -> "AbstractContextManager[object]":
    """Say on stderr what is waited for, where somebody looks on; stdout stays the result's alone."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(f"{words} ...")


def show_request(
    request: "TransferRequest", *, fee: int | None = None, balance: int | None = None, notes: tuple[str, ...] = ()
) -> None:
    """Say on stderr what a request would do, in full: this is what is confirmed and signed."""
    from billing.money import format_ton
    from billing.ton.address import format_address
    from billing.ton.describe import describe_body

    def address(of: "Address", *, bounceable: bool) -> str:
        return format_address(of, network_id=request.network_id, bounceable=bounceable)

    lines = [
        f"network:  {network_name(request.network_id)}",
        f"purpose:  {request.purpose}",
        f"from:     {address(request.wallet.address, bounceable=False)}, its message {request.seqno}",
    ]
    for transfer in request.transfers:
        lines += [
            f"to:       {address(transfer.destination, bounceable=transfer.bounce)}",
            f"          {format_ton(transfer.amount)} TON, {describe_body(transfer.body)}"
            + (", with a contract's first state" if transfer.state_init is not None else ""),
        ]
    if fee is not None and balance is not None:
        lines.append(f"fees:     up to {format_ton(fee)} TON; the wallet holds {format_ton(balance)} TON")
    lines += [f"note:     {note}" for note in notes]
    typer.echo("\n".join(lines), err=True)


def confirm(yes: bool, question: str = "Send it?") -> None:
    """Ask, unless `yes`; no answer is no."""
    if not yes:
        typer.confirm(question, abort=True, err=True)


def wallet_address(public_key: bytes, network: NetworkFile) -> "Address":
    """Where the wallet of a key lives on a network."""
    from billing.ton.wallet import Wallet

    return Wallet(public_key=public_key, network_id=network.chain.network_id).address


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what goes wrong into one line on stderr and the exit code that this module's head describes."""
    from billing.errors import BillingError, ChainError, SendOutcomeUnknownError
    from cluster.errors import ConfigError

    try:
        yield
    except (SendOutcomeUnknownError, TimeoutError) as error:
        typer.echo(f"not known: {type(error).__name__}: {str(error) or 'it was not seen in time'}", err=True)
        raise typer.Exit(UNKNOWN) from error
    except (ChainError, ConfigError) as error:
        typer.echo(f"could not ask: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(NOT_ASKED) from error
    except (BillingError, ValueError) as error:
        typer.echo(f"refused: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(REFUSED) from error


def say(document: "dict[str, object]", as_json: bool, *, ton: tuple[str, ...] = ("sent", "fee")) -> None:
    """Print the result on stdout; in words the fields named in `ton` are shown as TON."""
    from billing.money import format_ton

    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    for name, value in document.items():
        words = f"{format_ton(value)} TON" if name in ton and isinstance(value, int) else value
        typer.echo(f"{name.replace('_', ' ')}: {words}")
