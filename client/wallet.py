"""The client's account: one Ed25519 key in a file that only its owner can read, sealed by a password or plain."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.errors import KeyFileError
from billing.key_files import KeySource, create_key_file, read_password_file
from billing.keys import seal_key
from client.errors import WalletError


class Wallet:
    """Signs for the account; the account is the public key, 32 bytes."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self.key = key
        self.account = key.public_key().public_bytes_raw()

    @classmethod
    def create(cls, source: KeySource | Path) -> Wallet:
        """Make a new key and store it with mode 0600; sealed if a password file is named.

        Raises:
            WalletError: something is there already; it would be unencrypted on a network with real money.
        """
        key, where = Ed25519PrivateKey.generate(), _source(source)
        seed = key.private_bytes_raw()
        try:
            if where.password_file is None and not where.plain_allowed:
                raise WalletError(
                    f"there is no wallet {where.file}, and this network takes encrypted ones only: "
                    f"run chrysalis wallet new {where.file}, and name its password_file in the settings"
                )
            if where.password_file is not None:
                data = seal_key(seed, read_password_file(where.password_file)).encode()
            else:
                data = seed.hex().encode() + b"\n"
            create_key_file(where.file, data)
        except KeyFileError as error:
            raise WalletError(f"cannot create the wallet {where.file}: {error}") from None
        return cls(key)

    @classmethod
    def open(cls, source: KeySource | Path) -> Wallet:
        """Read the key.

        Raises:
            WalletError: it is missing, readable by others, not a key, sealed by another password, or not sealed where
                it has to be.
        """
        try:
            return cls(_source(source).signing_key())
        except KeyFileError as error:
            raise WalletError(f"cannot use the wallet: {error}") from None

    @classmethod
    def open_or_create(cls, source: KeySource | Path) -> Wallet:
        """Read the key, made now if there is none."""
        return cls.open(source) if _source(source).file.exists() else cls.create(source)


def _source(source: KeySource | Path) -> KeySource:
    return source if isinstance(source, KeySource) else KeySource(file=source)
