"""Keys and settings files of a local network, as the programs read them."""

import os
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.ton.client import ChainConfig


def raw_address(address: Address) -> str:
    """The form settings files use: workchain:hex."""
    text: str = address.to_str(is_user_friendly=False)
    return text


def make_key(path: Path) -> Ed25519PrivateKey:
    """A new Ed25519 key whose seed is stored as hex, mode 0600."""
    key = Ed25519PrivateKey.generate()
    write_secret(path, key.private_bytes_raw())
    return key


def write_secret(path: Path, secret: bytes) -> None:
    """Store a secret as hex in a new file with mode 0600."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secret.hex() + "\n")


def write_operator_settings(
    folder: Path,
    *,
    chain: ChainConfig,
    registry: Address,
    relay: str,
    settlement: dict[str, Any],
    channels: dict[str, int],
    models: dict[str, dict[str, int]],
    transparency: dict[str, Any],
) -> Path:
    """The operator's settings file; key files and policy.yaml lie beside it."""
    return _write(
        folder / "operator.yaml",
        {
            "chain": _chain(chain),
            "registry": raw_address(registry),
            "policy": "policy.yaml",
            "state": "state",
            "operator_key": "operator.key",
            "treasury_key": "treasury.key",
            "ticket_key": "ticket.key",
            "relay": relay,
            "settlement": settlement,
            "channels": channels,
            "models": models,
            "transparency": transparency,
        },
    )


def write_client_settings(
    folder: Path,
    *,
    chain: ChainConfig,
    registry: Address,
    listen: str,
    budget: int,
    price_cap: int,
    channel: dict[str, int] | None,
    transparency: dict[str, Any],
) -> Path:
    """The client's settings file; wallet.key and policy.yaml lie beside it. It pays from `channel`, if there is one."""
    payment = {"payment": "treasury"} if channel is None else {"payment": "channel", "channel": channel}
    return _write(
        folder / "client.yaml",
        {
            "wallet": "wallet.key",
            "state": "state",
            "policy": "policy.yaml",
            "registry": {"address": raw_address(registry), "lite_server": _chain(chain)},
            "listen": listen,
            "budget": budget,
            "price_cap": price_cap,
            **payment,
            "transparency": transparency,
        },
    )


def _chain(chain: ChainConfig) -> dict[str, Any]:
    return {
        "host": chain.host,
        "port": chain.port,
        "public_key": chain.public_key,
        "network_id": chain.network_id,
    } | ({"init_block": chain.init_block} if chain.init_block else {})


def _write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
