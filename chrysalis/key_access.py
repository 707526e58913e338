"""Keys and passwords for commands: from files, or typed at the terminal; never from arguments or the environment."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from billing.keys import KeyKind, SealedKey

Unencrypted = Annotated[bool, typer.Option("--unencrypted", help="No password; test networks only will take it.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the password (else it is asked); /dev/fd/N will do.")
]


def read_public_key(path: Path) -> bytes:
    """The Ed25519 public key, 32 bytes, of a key file; needs no password.

    Raises:
        KeyFileError: it cannot be read, or is no signing key.
    """
    from billing.errors import MalformedKeyFileError
    from billing.key_files import read_key_file
    from billing.keys import SealedKey, public_key_of

    found = read_key_file(path)
    if not isinstance(found, SealedKey):
        return public_key_of(found)
    if not found.public_key:
        raise MalformedKeyFileError(f"{path} holds a shared secret, not a signing key")
    return found.public_key


def open_signing_key(path: Path, password_file: Path | None, *, network_id: int | None) -> "Ed25519PrivateKey":
    """The signing key in a file; asks for its password if no file names it.

    Args:
        path: the key file.
        password_file: where its password stands, if it is not typed.
        network_id: of the network that the key moves money on; None if it moves none, then a plain one is warned of.

    Raises:
        KeyFileError: it cannot be had; or it is not encrypted, and the network is not one for tests.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from billing.errors import PlainKeyRefusedError
    from billing.key_files import read_key_file
    from billing.keys import SealedKey
    from billing.ton.client import DEVNET, TESTNET

    read_public_key(path)
    found = read_key_file(path)
    if isinstance(found, SealedKey):
        return Ed25519PrivateKey.from_private_bytes(open_sealed(found, path, password_file))
    if network_id not in {None, DEVNET, TESTNET}:
        raise PlainKeyRefusedError(str(path))
    typer.echo(f"warning: {path} is not encrypted", err=True)
    return Ed25519PrivateKey.from_private_bytes(found)


def open_sealed(key: "SealedKey", path: Path, password_file: Path | None) -> bytes:
    """The 32 secret bytes of a sealed key; asks for the password if no file names it."""
    from billing.errors import PasswordNeededError
    from billing.key_files import read_password_file
    from billing.keys import normalise_password, open_key

    if password_file is not None:
        return open_key(key, read_password_file(password_file))
    if not sys.stdin.isatty():
        raise PasswordNeededError(str(path))
    return open_key(key, normalise_password(getpass.getpass(f"Password of {path}: ").encode()))


def store_new_key(file: Path, value: bytes, kind: "KeyKind", password_file: Path | None, *, unencrypted: bool) -> None:
    """Store 32 secret bytes in a new key file, sealed by a password unless `unencrypted`.

    Raises:
        KeyFileError: something is there already, it cannot be written, or there is no password.
    """
    from billing.key_files import create_key_file
    from billing.keys import seal_key

    if unencrypted and password_file is not None:
        raise typer.BadParameter("--unencrypted and --password-file exclude each other")
    if unencrypted:
        typer.echo(f"warning: {file} is not encrypted; it is for tests, and refused on other networks", err=True)
        create_key_file(file, value.hex().encode() + b"\n")
    else:
        create_key_file(file, seal_key(value, new_password(file, password_file), kind=kind).encode())


def new_password(path: Path, password_file: Path | None) -> bytes:
    """The password for a new key file: from a file, or typed twice.

    Raises:
        PasswordNeededError: there is nobody to ask.
        WeakPasswordError: it is empty.
    """
    from billing.errors import PasswordNeededError
    from billing.key_files import read_password_file
    from billing.keys import normalise_password

    if password_file is not None:
        return read_password_file(password_file)
    if not sys.stdin.isatty():
        raise PasswordNeededError(str(path))
    first = getpass.getpass(f"New password for {path}: ")
    if getpass.getpass("The same again: ") != first:
        raise typer.BadParameter("the two passwords are not the same")
    return normalise_password(first.encode())
