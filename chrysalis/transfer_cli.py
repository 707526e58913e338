"""The part of `chrysalis wallet` that reads the chain and moves money: balance, history, send, sign.

Exit codes: chrysalis/money.py.
"""

import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chrysalis.key_access import PasswordFile, open_signing_key, read_public_key
from chrysalis.money import (
    PENDING_SUFFIX,
    AsJson,
    Key,
    Network,
    Offline,
    Order,
    Session,
    Yes,
    carry_out,
    confirm,
    exit_codes,
    finish,
    run_on_chain,
    say,
    show_request,
    wallet_address,
)
from chrysalis.network_file import NetworkFile

if TYPE_CHECKING:
    from pytoniq_core import Address

    from billing.ton.client import ChainClient
    from billing.ton.transaction import Transaction
    from billing.ton.transfer_request import TransferRequest

WhoseKey = Annotated[Path | None, typer.Option("--key", help="Key file of the wallet.")]
WhichAddress = Annotated[str, typer.Option("--address", help="Or any address.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `chrysalis wallet`."""
    for command in (balance, history, send, sign):
        app.command()(command)


def balance(
    network: Network,
    key: WhoseKey = None,
    address: WhichAddress = "",
    as_json: AsJson = False,
) -> None:
    """What a wallet holds, proved from the newest block."""
    with exit_codes():
        net = NetworkFile.load(network)
        account = _which(net, key, address)
        state = run_on_chain(net, lambda chain: chain.account(account), waiting="asking the chain")
        fields = {
            "address": account.to_str(is_user_friendly=False),
            "network_id": net.chain.network_id,
            "balance": state.balance,
            "status": state.status.value,
            "block": state.head.seqno,
        }
        say(fields, as_json, ton=("balance",))


def history(
    network: Network,
    key: WhoseKey = None,
    address: WhichAddress = "",
    limit: Annotated[int, typer.Option(help="The newest so many transactions.", min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """A wallet's transactions, newest first, proved from the newest block."""

    async def read(chain: "ChainClient") -> "list[Transaction]":
        found: list[Transaction] = []
        async with contextlib.aclosing(chain.history(await chain.account(account))) as transactions:
            async for transaction in transactions:
                found.append(transaction)
                if len(found) == limit:
                    break
        return found

    with exit_codes():
        net = NetworkFile.load(network)
        account = _which(net, key, address)
        found = run_on_chain(net, read, waiting="reading the history")
        rows = [_history_row(transaction) for transaction in found]
        if as_json:
            say({"transactions": rows}, as_json)
        for row in () if as_json else rows:
            typer.echo(_history_line(row))


def send(
    network: Network,
    *,
    file: Annotated[Path | None, typer.Argument(help="A signed request; without it, --key, --to and --amount.")] = None,
    key: WhoseKey = None,
    to: Annotated[str, typer.Option(help="Receiver.")] = "",
    amount: Annotated[str, typer.Option(help="TON, as 1.5; or nanotons, as 1500000000nano.")] = "",
    comment: Annotated[str, typer.Option(help="Text that the receiver sees; public for ever.")] = "",
    password_file: PasswordFile = None,
    yes: Yes = False,
    offline: Offline = None,
    as_json: AsJson = False,
) -> None:
    """Send TON; or send a request that was signed elsewhere, or find what became of it."""
    if (file is None) == (key is None) or (file is None) != bool(to and amount):
        raise typer.BadParameter("give a signed FILE; or --key, --to and --amount")
    with exit_codes():
        if file is not None:
            say(_send_file(NetworkFile.load(network), file, yes=yes), as_json)
            return
        session = Session.load(network, key or Path(), password_file, yes=yes, as_json=as_json, offline=offline)
        say(carry_out(session, _transfer_to(session.network, to, amount, comment)), as_json)


def sign(
    file: Annotated[Path, typer.Argument(help="A request that --offline wrote.")],
    key: Key,
    to: Annotated[Path, typer.Option(help="New file for the signed request.")],
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Sign a request on a machine that needs no network; what is shown is what is signed."""
    from billing.key_files import create_key_file

    with exit_codes():
        request = _read_request(file)
        show_request(
            request, notes=(f"good until {datetime.fromtimestamp(request.valid_until, UTC):%Y-%m-%d %H:%M} UTC",)
        )
        confirm(yes, "Sign it?")
        signed = request.sign(open_signing_key(key, password_file, network_id=request.network_id))
        create_key_file(to, signed.encode())
        say({"signed": str(to), "next": f"chrysalis wallet send {to} --network FILE"}, as_json)


def _which(network: NetworkFile, key: Path | None, address: str) -> "Address":
    from billing.ton.address import parse_address

    if (key is None) != bool(address):
        raise typer.BadParameter("give --key or --address")
    if address:
        return parse_address(address, network_id=network.chain.network_id).address
    return wallet_address(read_public_key(key or Path()), network)


def _transfer_to(
    network: NetworkFile, to: str, amount: str, comment: str
) -> "Callable[[ChainClient], Awaitable[Order]]":
    """What `wallet send` plans; bad input is refused before anybody is asked."""
    from billing.money import parse_amount
    from billing.ton.address import parse_address
    from billing.ton.describe import comment_body
    from billing.ton.proofs import AccountStatus
    from billing.ton.wallet import Transfer

    given = parse_address(to, network_id=network.chain.network_id)
    value = parse_amount(amount)
    body = comment_body(comment) if comment else None

    async def plan(chain: "ChainClient") -> Order:
        active = (await chain.account(given.address)).status is AccountStatus.ACTIVE
        bounce = active if given.bounceable is None else given.bounceable
        notes = () if active or not bounce else ("nothing is deployed at this address yet: the money would come back",)
        transfer = Transfer(destination=given.address, amount=value, body=body, bounce=bounce)
        return Order(transfers=(transfer,), purpose="send", notes=notes)

    return plan


def _read_request(file: Path) -> "TransferRequest":
    from billing.errors import BadRequestFileError
    from billing.ton.transfer_request import REQUEST_SIZE_MAX, parse_request

    try:
        with file.open("rb") as source:
            return parse_request(source.read(REQUEST_SIZE_MAX + 1))
    except OSError as error:
        raise BadRequestFileError(f"{file} cannot be read: {error.strerror}") from error


def _send_file(network: NetworkFile, file: Path, *, yes: bool) -> dict[str, object]:
    """Send what somebody signed; the file of an unfinished transfer is removed once its end is certain."""
    request = _read_request(file)
    show_request(request)
    confirm(yes)
    pending = file if file.suffix == PENDING_SUFFIX else None
    return finish(network, request, pending=pending)


def _history_row(transaction: "Transaction") -> dict[str, Any]:
    from billing.ton.describe import describe_body

    def message(of: Any, other: bytes | None) -> dict[str, Any]:  # noqa: ANN401 - a billing.ton.transaction.Message
        name = None if other is None else f"{int.from_bytes(other[:1], 'big', signed=True)}:{other[1:].hex()}"
        what = "bounced: it came back" if of.bounced else describe_body(of.body)
        return {"address": name, "amount": of.value, "what": what}

    came = transaction.incoming
    return {
        "time": transaction.time,
        "lt": transaction.lt,
        "hash": transaction.hash.hex(),
        "balance_change": transaction.balance_change,
        "fee": transaction.cost,
        "received": message(came, came.source) if came is not None and came.internal else None,
        "sent": [message(out, out.destination) for out in transaction.outgoing],
    }


def _history_line(row: dict[str, Any]) -> str:
    from billing.money import format_ton

    lines = [
        f"{datetime.fromtimestamp(row['time'], UTC):%Y-%m-%d %H:%M:%S}  {row['hash']}  "
        f"{format_ton(row['balance_change'])} TON, fee {format_ton(row['fee'])}"
    ]
    if row["received"] is not None:
        lines.append(f"    from {row['received']['address']}: {format_ton(row['received']['amount'])}, ")
        lines[-1] += row["received"]["what"]
    lines += [f"    to {out['address']}: {format_ton(out['amount'])}, {out['what']}" for out in row["sent"]]
    return "\n".join(lines)
