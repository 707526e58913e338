"""Which network a command speaks to: a small YAML file, or the operator's or client's settings, which say the same.

chain: {host: 127.0.0.1, port: 4443, public_key: <base64>, network_id: -777}   # the lite-server and its key
registry: "0:<hex>"                                                            # optional
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.errors import ConfigError

if TYPE_CHECKING:
    from pytoniq_core import Address

    from billing.ton.client import ChainConfig

_SERVER = {"host": str, "port": int, "public_key": str}
_CHAIN = {**_SERVER, "network_id": int}
_CHAIN_TRUST = {"init_block": str, "trust_level": int, "second": dict}
_NAMES = {-239: "mainnet", -3: "testnet", -777: "devnet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """A network: how to reach it, and the registry contract's address where the file names one."""

    path: Path
    chain: "ChainConfig"
    registry: "Address | None"

    @classmethod
    def load(cls, path: Path) -> "NetworkFile":
        """Read the chain and the registry in a file.

        Raises:
            ConfigError: unreadable, or a key missing, unknown or of the wrong form.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            return _parse(path, values)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {error}") from error

    @property
    def name(self) -> str:
        """The network in words."""
        return network_name(self.chain.network_id)

    def registry_address(self) -> "Address":
        """The registry contract.

        Raises:
            ConfigError: the file names none.
        """
        if self.registry is None:
            raise ConfigError(f"{self.path} names no registry: add `registry: <address>`")
        return self.registry


def network_name(network_id: int) -> str:
    """A network in words, with its global id."""
    return f"{_NAMES.get(network_id, 'unknown network')} ({network_id})"


def _parse(path: Path, values: object) -> NetworkFile:
    from billing.errors import BadAddressError
    from billing.ton.address import parse_address
    from billing.ton.client import ChainConfig

    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as `key: value`")
    chain, registry = values.get("chain"), values.get("registry")
    if isinstance(registry, dict):  # the client's settings
        chain, registry = registry.get("lite_server"), registry.get("address")
    unknown = set(values) - {"chain", "registry"}
    if unknown and "policy" not in values:  # with a policy it is a program's settings, which that program checks
        raise ConfigError(f"{path} has keys this version does not know: {', '.join(sorted(map(str, unknown)))}")
    fields = _check_chain(path, chain)
    if registry is not None and not isinstance(registry, str):
        raise ConfigError(f"{path}: registry must be an address in quotes")
    try:
        address = parse_address(registry, network_id=fields["network_id"]).address if registry else None
    except BadAddressError as error:
        raise ConfigError(f"{path}: registry: {error}") from error
    return NetworkFile(path=path, chain=ChainConfig(**fields), registry=address)


def _check_chain(path: Path, chain: object) -> dict[str, Any]:
    fields = _check_fields(path, "chain", chain, _CHAIN, _CHAIN_TRUST)
    if "second" in fields:
        from billing.ton.client import LiteServerConfig

        fields["second"] = LiteServerConfig(**_check_fields(path, "chain.second", fields["second"], _SERVER, {}))
    return fields


def _check_fields(
    path: Path, where: str, value: object, required: Mapping[str, type], optional: Mapping[str, type]
) -> dict[str, Any]:
    kinds = {**required, **optional}
    if not isinstance(value, dict) or not set(required) <= set(value) <= set(kinds):
        also = f"; and may have {', '.join(optional)}" if optional else ""
        raise ConfigError(f"{path}: {where} has the keys {', '.join(required)}{also}")
    for name, item in value.items():
        if type(item) is not kinds[name]:
            raise ConfigError(f"{path}: {where}.{name} must be {kinds[name].__name__}")
    return dict(value)
