"""The client's account: one Ed25519 key in a file that only its owner can read."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.errors import WalletError


class Wallet:
    """Signs for the account; the account is the public key, 32 bytes."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self.key = key
        self.account = key.public_key().public_bytes_raw()

    @classmethod
    def create(cls, path: Path) -> Wallet:
        """Make a new key and store it at `path` with mode 0600.

        Raises:
            WalletError: something is there already; a key is never overwritten.
        """
        key = Ed25519PrivateKey.generate()
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise WalletError(f"cannot create the wallet {path}: {error.strerror}") from error
        with os.fdopen(file, "w") as out:
            out.write(key.private_bytes_raw().hex() + "\n")
        return cls(key)

    @classmethod
    def open(cls, path: Path) -> Wallet:
        """Read the key at `path`.

        Raises:
            WalletError: it is missing, readable by others, or not a key.
        """
        try:
            mode, text = path.stat().st_mode, path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise WalletError(f"cannot read the wallet {path}: {type(error).__name__}") from error
        if mode & 0o077:
            raise WalletError(f"the wallet {path} can be read by others: run chmod 600 {path}")
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise WalletError(f"the wallet {path} does not hold a key: 64 hex digits are expected")
        return cls(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text)))

    @classmethod
    def open_or_create(cls, path: Path) -> Wallet:
        """Read the key at `path`, made now if there is none."""
        return cls.open(path) if path.exists() else cls.create(path)
