"""Every money command prints one JSON document with --json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
import typer
from pytoniq_core import Address
from typer.testing import CliRunner

from billing.books import Books
from billing.money import Nanotons
from billing.receipt import sign_receipt
from billing.ton.transfer_request import TransferRequest
from billing.ton.wallet import Transfer
from chrysalis.cli import app
from client.receipts import ReceiptStore
from tests.billing.support import ACCOUNT, HOST_KEY, NOW, make_grant, make_receipt, public
from tests.chrysalis.operator_files import write_operator

MONEY = ("devnet", "wallet", "deposit", "channel", "settle", "statement", "claim", "registry", "owner")
SEED = "11" * 32


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that has none below it, with its words."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield path, command
    for name, below in (commands or {}).items():
        if path or name in MONEY:
            yield from leaves(below, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_every_money_command_takes_json(path: tuple[str, ...]) -> None:
    assert any("--json" in option.opts for option in COMMANDS[path].params), " ".join(path)


def test_the_walk_finds_every_branch() -> None:
    assert {path[0] for path in COMMANDS} == set(MONEY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A key, its password, a request to sign, an operator's settings and books, a client's receipts."""
    for name, text in {"key": SEED, "password": "correct horse battery"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    transfer = Transfer(destination=Address((0, b"\x51" * 32)), amount=Nanotons(1))
    key = CliRunner().invoke(app, ["wallet", "show", str(tmp_path / "key"), "--json"])
    request = TransferRequest(
        network_id=-777,
        public_key=bytes.fromhex(json.loads(key.stdout)["public_key"]),
        seqno=0,
        deploy=True,
        valid_until=2**32 - 1,
        purpose="send",
        transfers=(transfer,),
    )
    (tmp_path / "request").write_bytes(request.encode())
    write_operator(tmp_path)
    with Books.open(tmp_path / "books") as books:
        books.post(books.ledger.plan_deposit("1", ACCOUNT, 200_000, now=1))
    store = ReceiptStore(tmp_path / "receipts")
    signed = sign_receipt(make_receipt(make_grant(1), 1), HOST_KEY)
    store.keep(signed, request_id="r", model="m", receipt_key=public(2), now=datetime.fromtimestamp(NOW, UTC))
    store.close()
    return tmp_path


Words = Callable[[Path], list[str]]
WITHOUT_CHAIN: dict[str, Words] = {
    "wallet new": lambda at: [f"{at}/new", "--unencrypted"],
    "wallet import": lambda at: [f"{at}/new", "--from", f"{at}/key", "--password-file", f"{at}/password"],
    "wallet export": lambda at: [f"{at}/key", "--to", f"{at}/new", "--yes"],
    "wallet show": lambda at: [f"{at}/key"],
    "wallet rotate-password": lambda at: [f"{at}/key", "--new-password-file", f"{at}/password"],
    "wallet sign": lambda at: [f"{at}/request", "--key", f"{at}/key", "--to", f"{at}/new", "--yes"],
    "statement show": lambda at: ["operator", "--books", f"{at}/books"],
    "statement mine": lambda at: [f"{at}/receipts"],
    "statement balances": lambda at: ["--books", f"{at}/books"],
    "settle address": lambda at: ["--config", f"{at}/operator.yaml"],
    "devnet fault": lambda _: ["list"],
}


@pytest.mark.parametrize("name", WITHOUT_CHAIN)
def test_what_needs_no_chain_prints_one_json_document(folder: Path, name: str) -> None:
    result = CliRunner().invoke(app, [*name.split(), *WITHOUT_CHAIN[name](folder), "--json"])
    assert result.exit_code == 0, result.stderr
    assert isinstance(json.loads(result.stdout), dict)
    assert SEED not in result.output
