"""`chrysalis wallet`: key files and their passwords; what moves money is in `chrysalis.transfer_cli`.

Exit codes: chrysalis/money.py. Formats: docs/KEYS.md.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from chrysalis import transfer_cli
from chrysalis.key_access import PasswordFile, Unencrypted, new_password, open_sealed, store_new_key
from chrysalis.money import (
    AsJson,
    Yes,
    confirm,
    exit_codes,
    say,
)
from chrysalis.network_file import NetworkFile

app = typer.Typer(help="Key files and TON wallets.", no_args_is_help=True)
transfer_cli.register(app)

KeyFile = Annotated[Path, typer.Argument(help="The key file.")]
NewPasswordFile = Annotated[Path | None, typer.Option(help="File with the new password (else it is asked).")]
SomeNetwork = Annotated[
    Path | None, typer.Option("--network", help="YAML file; then the wallet's address is shown too.")
]


@app.command()
def new(
    file: KeyFile,
    *,
    password_file: PasswordFile = None,
    unencrypted: Unencrypted = False,
    secret: Annotated[bool, typer.Option("--secret", help="A shared secret (ticket key) instead of a signing key.")] = (
        False
    ),
    network: SomeNetwork = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and store it in a new file."""
    from billing.keys import KeyKind

    with exit_codes():
        kind = KeyKind.SECRET if secret else KeyKind.ED25519
        store_new_key(file, os.urandom(32), kind, password_file, unencrypted=unencrypted)
        say(_key_fields(file, network), as_json)


@app.command("import")
def import_(
    file: KeyFile,
    source: Annotated[Path, typer.Option("--from", help="64 hex digits or 24 words; mode 0600, or /dev/stdin.")],
    *,
    password_file: PasswordFile = None,
    unencrypted: Unencrypted = False,
    network: SomeNetwork = None,
    as_json: AsJson = False,
) -> None:
    """Store a key made elsewhere in a new file: an Ed25519 seed, or the 24 words of a TON wallet."""
    from billing.key_files import read_seed
    from billing.keys import KeyKind

    with exit_codes():
        store_new_key(file, read_seed(source), KeyKind.ED25519, password_file, unencrypted=unencrypted)
        say(_key_fields(file, network), as_json)


@app.command()
def export(
    file: KeyFile,
    to: Annotated[Path, typer.Option(help="New file, mode 0600, for the unencrypted key.")],
    password_file: PasswordFile = None,
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write the key without encryption: 64 hex digits, the Ed25519 seed. It is never printed."""
    from billing.key_files import create_key_file, read_key_file
    from billing.keys import SealedKey

    with exit_codes():
        found = read_key_file(file)
        confirm(yes, f"{to} will hold the key for everybody who gets to read it. Write it?")
        seed = open_sealed(found, file, password_file) if isinstance(found, SealedKey) else found
        create_key_file(to, seed.hex().encode() + b"\n")
        typer.echo(f"warning: {to} is not encrypted; remove it as soon as it is used", err=True)
        say({"file": str(file), "written": str(to), "encrypted": False}, as_json)


@app.command()
def show(file: KeyFile, network: SomeNetwork = None, as_json: AsJson = False) -> None:
    """What is known of a key without its password: public key, protection, address of its wallet."""
    with exit_codes():
        say(_key_fields(file, network), as_json)


@app.command()
def rotate_password(
    file: KeyFile,
    password_file: PasswordFile = None,
    new_password_file: NewPasswordFile = None,
    secret: Annotated[bool, typer.Option("--secret", help="An unencrypted file is a shared secret.")] = False,
    *,
    as_json: AsJson = False,
) -> None:
    """Seal a key with another password; an unencrypted file becomes an encrypted one."""
    from billing.key_files import read_key_file, replace_key_file
    from billing.keys import KeyKind, SealedKey, open_key, parse_key, seal_key

    with exit_codes():
        found = read_key_file(file)
        if isinstance(found, SealedKey):
            value, kind = open_sealed(found, file, password_file), found.kind
        else:
            value, kind = found, KeyKind.SECRET if secret else KeyKind.ED25519
        password = new_password(file, new_password_file)

        def opens(data: bytes) -> None:
            sealed = parse_key(data)
            if sealed is None or open_key(sealed, password) != value:
                raise RuntimeError(f"what was written for {file} does not open; the old file stands")

        replace_key_file(file, seal_key(value, password, kind=kind).encode(), check=opens)
        typer.echo(f"{file}: sealed anew; copies made before open with the old password still", err=True)
        say(_key_fields(file, None), as_json)


def _key_fields(file: Path, network: Path | None) -> dict[str, object]:
    from billing.key_files import read_key_file
    from billing.keys import SealedKey, public_key_of

    found = read_key_file(file)
    if isinstance(found, SealedKey):
        fields: dict[str, object] = {"file": str(file), "kind": found.kind.value, "encrypted": True}
        cost = found.cost
        fields["protection"] = (
            f"argon2id, {cost.memory_kib >> 10} MiB, {cost.iterations} passes, {cost.lanes} lanes; chacha20-poly1305"
        )
        public_key = found.public_key
    else:
        fields, public_key = {"file": str(file), "kind": "unencrypted", "encrypted": False}, public_key_of(found)
    if public_key:
        fields["public_key"] = public_key.hex()
        if network is not None:
            fields |= _address_fields(public_key, NetworkFile.load(network).chain.network_id)
    return fields


def _address_fields(public_key: bytes, network_id: int) -> dict[str, object]:
    from billing.ton.address import format_address
    from billing.ton.wallet import Wallet

    address = Wallet(public_key=public_key, network_id=network_id).address
    return {
        "network_id": network_id,
        "address": format_address(address, network_id=network_id, bounceable=False),
        "raw_address": address.to_str(is_user_friendly=False),
    }
