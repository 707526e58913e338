"""Keys and passwords for commands: from files, or typed at the terminal; never from arguments or the environment."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from billing.keys import SealedKey

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


def open_signing_key(path: Path, password_file: Path | None, *, network_id: int) -> "Ed25519PrivateKey":
    """The signing key in a file; asks for its password if no file names it.

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
    if network_id not in {DEVNET, TESTNET}:
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
