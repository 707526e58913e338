"""`chrysalis statement fetch`: the operator's statement of one's own account or wallet, checked receipt by receipt.

Exit codes: chrysalis/money.py, and 4: everything holds together, and the client's own bill is another.
"""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chrysalis.key_access import PasswordFile
from chrysalis.money import AsJson, Key, Network, OperatorName, Session, exit_codes, progress, say
from chrysalis.statement_period import From, To, parse_period
from chrysalis.statement_view import describe_statement, in_ton, print_statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing.bill import Bill, Finding
    from billing.statement_check import CheckedStatement
    from billing.ton.client import ChainClient
    from billing.ton.registry import OperatorTerms

DIFFERENT = 4
FETCH_TIMEOUT_S = 300  # the operator reads all of its books for it
Daily = Annotated[bool, typer.Option("--daily", help="Sums by day and kind instead of each movement.")]


def fetch(
    key: Key,
    network: Network,
    first: From = "",
    last: To = "",
    *,
    payee: Annotated[
        bool, typer.Option("--payee", help="What the key's wallet earned as payee, not what its account spent.")
    ] = False,
    receipts: Annotated[
        Path | None, typer.Option(help="Client: compare with your own receipts, receipts.sqlite in the `state` folder.")
    ] = None,
    receipt_key: Annotated[
        list[str] | None, typer.Option(help="Owner: receipt key of an enclave of yours, 64 hex digits; repeat it.")
    ] = None,
    gateway: Annotated[str, typer.Option(help="The operator's gateway (default: as the registry says).")] = "",
    operator: OperatorName = "",
    password_file: PasswordFile = None,
    daily: Daily = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the operator's statement over its gateway, check every receipt in it, and compare it with one's own."""
    if payee and receipts is not None:
        raise typer.BadParameter("--receipts are a client's; an owner gives --receipt-key")
    start, end = parse_period(first, last)
    candidates = [_key(text) for text in receipt_key or ()]
    with exit_codes():
        session = Session.load(network, key, password_file, yes=True, as_json=as_json)
        terms = session.run(lambda chain: _operator(chain, session, operator))
        keys, own = _own_receipts(receipts, session.public_key) if receipts else ({}, None)
        checked = _fetch(
            session, terms, gateway or terms.endpoints[0], (start, end), payee=payee, keys=keys, candidates=candidates
        )
        findings = checked.compare(own) if own is not None else ()
    _show(checked, findings, compared=own is not None, daily=daily, as_json=as_json)
    if findings:
        raise typer.Exit(DIFFERENT)


async def _operator(chain: "ChainClient", session: Session, wanted: str) -> "OperatorTerms":
    from billing.ton.registry import choose_operator, read_registry

    registry = await read_registry(chain, session.network.registry_address())
    return choose_operator(registry.operators, wanted, also_closed=True).terms


def _fetch(
    session: Session,
    terms: "OperatorTerms",
    gateway: str,
    period: tuple[int, int],
    *,
    payee: bool,
    keys: "Mapping[bytes, bytes]",
    candidates: list[bytes],
) -> "CheckedStatement":
    from billing.statement import Role
    from billing.statement_check import check_statement
    from billing.statement_lines import parse_statement
    from billing.ton.statement_request import StatementRequest, sign_statement_request

    request = StatementRequest(
        operator=terms.public_key,
        role=Role.PAYEE if payee else Role.CLIENT,
        key=session.public_key,
        start=period[0],
        end=period[1],
        issued_at=int(datetime.now(UTC).timestamp()),
    )
    order = sign_statement_request(request, session.signing_key())
    with progress(f"waiting for the statement of {gateway}"):
        data = asyncio.run(_post(gateway, order))
    party = request.party(session.network.chain.network_id)
    statement = parse_statement(data)
    return check_statement(statement, party, start=period[0], end=period[1], keys=keys, candidates=candidates)


async def _post(gateway: str, order: "dict[str, str | int]") -> bytes:
    import json

    import aiohttp

    from billing.errors import ChainUnreachableError, StatementRefusedError
    from billing.statement_lines import LINES_SIZE_MAX
    from client.transport import read_error

    parts, size = [], 0
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)) as http,
            http.post(f"{gateway.rstrip('/')}/v1/statements", json=order, allow_redirects=False) as answer,
        ):
            async for part in answer.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > LINES_SIZE_MAX:
                    raise StatementRefusedError(gateway, f"it sends more than {LINES_SIZE_MAX} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ChainUnreachableError(f"asking {gateway}", f"{type(error).__name__}: {error}") from error
    data = b"".join(parts)
    if answer.status == 200:
        return data
    try:
        said = read_error(json.loads(data))[1]
    except (ValueError, RecursionError):
        said = "without a reason"
    if answer.status in {429, 502, 503, 504}:
        raise ChainUnreachableError(f"asking {gateway}", f"status {answer.status}: {said}")
    raise StatementRefusedError(gateway, f"status {answer.status}: {said}")


def _own_receipts(path: Path, account: bytes) -> "tuple[dict[bytes, bytes], Bill]":
    """The keys of the hosts that a client verified, by host id, and its own bill."""
    import sqlite3

    from billing.bill import Bill
    from client.receipts import read_receipts
    from cluster.errors import ConfigError

    try:
        kept = [(row.receipt, row.receipt_key) for row in read_receipts(path)]
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{path} cannot be read as a client's receipts: {error}") from error
    bill = Bill(account=account, receipts={r.request_hash: r for r, _ in kept if r.account == account})
    return {receipt.host_id: key for receipt, key in kept}, bill


def _show(
    checked: "CheckedStatement", findings: "tuple[Finding, ...]", *, compared: bool, daily: bool, as_json: bool
) -> None:
    rows: list[dict[str, Any]] = [
        {"request": each.request_hash.hex(), "difference": each.difference.value, "amount": each.amount}
        for each in findings
    ]
    known: dict[str, Any] = {"receipts": len(checked.receipts), "verified": checked.verified}
    known["unknown_hosts"] = [host.hex() for host in checked.unknown_hosts]
    if as_json:
        more = {"differences": rows} if compared else {}
        say(describe_statement(checked.statement, daily=daily) | {"checked": known} | more, as_json)
        return
    print_statement(checked.statement, daily=daily)
    typer.echo(f"receipts {known['receipts']}, signed by hosts whose key you know {known['verified']}")
    for host in known["unknown_hosts"]:
        typer.echo(f"unknown host {host}: its receipts are the operator's word until its key is known")
    for row in rows:
        typer.echo(f"differs: request {row['request']} {row['difference']}, {in_ton(row['amount'])} TON")
    if compared:
        typer.echo(f"{len(rows)} differences from your own receipts")


def _key(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise typer.BadParameter("--receipt-key is a public key of 64 hex digits")
    return bytes.fromhex(text)
