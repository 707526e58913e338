"""The operator's settings: one YAML file, read strictly. Secrets are named by file, never written in it.

chain: {host: 127.0.0.1, port: 8080, public_key: <base64>, network_id: -777, init_block: "1:<hex>:<hex>"}  # DEVNET.md
registry: "0:<hex>"           # address of the registry contract
policy: policy.yaml           # attestation policy without reference values, which come from the registry
state: state                  # folder for journal and address book
operator_key: {file: operator.key, password_file: operator.password}   # docs/KEYS.md; modes 0600
treasury_key: treasury.key    # an unencrypted key, for development: the mainnet refuses it
ticket_key: ticket.key
relay: 127.0.0.1:8443         # where the relay listens, and clients send to
relay_limits: {requests_per_account: 6000, connections: 2000}   # optional: requests in 10 s, and at the same time
expose_relay: false           # optional; true allows an address that other machines reach
transparency: {log: https://log.example.org, key: <log key>}   # optional, see attestation/transparency/settings.py
books: postgresql://ledger@db.example/books   # optional; without it an SQLite file in `state`, see docs/LEDGER.md
books_password: books.password   # optional, mode 0600; without it PGPASSFILE counts
channels: {accept: true, delay_min_s: 3600, threshold: 500000000, max_age_s: 86400}   # see ChannelPolicy
settlement: {sender: highload, threshold: 500000000, period_s: 3600}   # optional, see cluster/settlement_config.py
models: {translator: {min: 1, max: 8}}   # optional, see cluster/model_settings.py
joining: {listen: "10.0.0.1:8444"}   # optional, see cluster/join_settings.py

`chain.second: {host, port, public_key}` is another lite-server, run by somebody else: both must show the same blocks. A
public network needs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.transparency.settings import LogSettings, parse_log_settings
from billing.errors import JournalPlaceError, KeyFileError
from billing.journal_place import JournalPlace, PostgresPlace
from billing.key_files import KeySource
from billing.ton.channel_office import ChannelPolicy
from billing.ton.client import DEVNET, MAINNET, TESTNET, ChainConfig, LiteServerConfig
from cluster.errors import ConfigError
from cluster.join_settings import JoinSettings, parse_joining
from cluster.model_settings import ModelSettings, parse_models
from cluster.relay_config import RelayLimits
from cluster.settlement_config import SettlementSettings, parse_settlement

BOOKS_FILE = "books.sqlite"  # in `state`, where the settings name no database
_KEYS = {"chain", "registry", "policy", "state", "operator_key", "treasury_key", "ticket_key", "relay"}
_SECRETS = ("operator_key", "treasury_key", "ticket_key")
_OPTIONAL = {
    *("expose_relay", "relay_limits", "settlement", "transparency", "books", "books_password", "channels"),
    *("models", "joining"),
}
_RELAY_LIMITS = {"requests_per_account", "connections"}
_CHANNELS = {"accept", "delay_min_s", "threshold", "max_age_s"}
_CHAIN = {"host", "port", "public_key", "network_id"}
_CHAIN_TRUST = {"init_block", "trust_level"}
_NO_REFERENCE = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())
_SECOND = {"host", "port", "public_key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Where everything is. Paths are absolute; secrets are read by `read_secret` where they are used."""

    chain: ChainConfig
    registry: str
    policy: AppraisalPolicy
    state: Path
    operator_key: KeySource
    treasury_key: KeySource
    ticket_key: KeySource
    relay: str  # IP:PORT
    settlement: SettlementSettings
    books: JournalPlace  # by default an SQLite file in `state`
    expose_relay: bool = False  # the relay may listen where other machines reach it
    relay_limits: RelayLimits = field(default_factory=RelayLimits)  # what the relay lets through
    transparency: LogSettings | None = None  # what admits hosts must also be in this log
    channels: ChannelPolicy = field(default_factory=ChannelPolicy)  # from which payment channels clients may pay
    models: Mapping[str, ModelSettings] = field(default_factory=dict)  # by name; others have the defaults
    joining: JoinSettings | None = None  # where hosts join by their evidence

    @classmethod
    def load(cls, path: Path) -> "NetworkConfig":
        """Read and check a settings file; relative paths are relative to it.

        Raises:
            ConfigError: unreadable, a key missing, unknown or of the wrong form.
        """
        try:
            return _parse(
                _mapping(yaml.safe_load(path.read_text()), str(path), _KEYS, _OPTIONAL), path.resolve().parent
            )
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the settings in {path}: {error}") from error
        except (ValueError, TypeError, JournalPlaceError) as error:
            raise ConfigError(f"{path}: {error}") from error


def read_secret(source: KeySource | Path) -> bytes:
    """The 32 bytes that a secret's file holds, opened with the password that stands beside it in the settings.

    Raises:
        ConfigError: missing, readable by others, not 32 bytes, another password, or unencrypted on the mainnet.
    """
    try:
        return (source if isinstance(source, KeySource) else KeySource(file=source)).secret()
    except KeyFileError as error:
        raise ConfigError(str(error)) from None


def read_signing_key(source: KeySource | Path) -> Ed25519PrivateKey:
    """The Ed25519 key whose seed a secret file holds. Raises ConfigError as `read_secret`."""
    return Ed25519PrivateKey.from_private_bytes(read_secret(source))


def _parse(values: Mapping[str, Any], base: Path) -> NetworkConfig:
    chain = parse_chain(values["chain"])
    settlement = values.get("settlement", {})
    if not isinstance(settlement, dict):
        raise ConfigError("settlement must hold settings as `key: value`")
    if type(values.get("expose_relay", False)) is not bool:
        raise ConfigError(f"expose_relay must be true or false, got {values['expose_relay']!r}")
    for name in _KEYS - {"chain", *_SECRETS}:
        if not isinstance(values[name], str) or not values[name]:
            raise ConfigError(f"{name} must be text (put hexadecimal numbers in quotes)")
    policy = AppraisalPolicy.from_yaml((base / values["policy"]).read_text(), reference=_NO_REFERENCE)
    if policy.unsafe_simulated_roots is not None and chain.network_id != DEVNET:
        raise ConfigError(
            f"{values['policy']} trusts simulated vendors, whose keys anybody can have: on network "
            f"{chain.network_id} they would earn real money; write 'roots: production' (only the devnet, {DEVNET}, "
            "takes simulated ones)"
        )
    secrets = {name: _key_source(values[name], name, base, chain.network_id) for name in _SECRETS}
    return NetworkConfig(
        chain=chain,
        registry=values["registry"],
        policy=policy,
        relay=values["relay"],
        settlement=parse_settlement(settlement),
        books=_books(values, base),
        expose_relay=values.get("expose_relay", False),
        relay_limits=RelayLimits(**_mapping(values.get("relay_limits", {}), "relay_limits", set(), _RELAY_LIMITS)),
        transparency=parse_log_settings(values["transparency"], base) if "transparency" in values else None,
        channels=ChannelPolicy(**_mapping(values.get("channels", {}), "channels", set(), _CHANNELS)),
        models=parse_models(values.get("models", {})),
        joining=parse_joining(values["joining"], base) if "joining" in values else None,
        state=base / values["state"],
        **secrets,
    )


def _books(values: Mapping[str, Any], base: Path) -> JournalPlace:
    url, password = values.get("books"), values.get("books_password")
    if url is None:
        if password is not None:
            raise ConfigError("books_password is for books: name the database there too")
        return base / str(values["state"]) / BOOKS_FILE
    if not isinstance(url, str) or not isinstance(password, str | None):
        raise ConfigError("books must be a postgresql:// address, and books_password the path of a file")
    return PostgresPlace(url=url, password_file=base / password if password else None)


def parse_chain(value: object) -> ChainConfig:
    """How to reach the chain, from a mapping of host, port, public_key, network_id and, on a public network, second.

    Raises:
        ConfigError: a key is missing or unknown, or a public network has one lite-server only.
    """
    chain = dict(_mapping(value, "chain", _CHAIN, _CHAIN_TRUST | {"second"}))
    second = chain.pop("second", None)
    if second is None and chain["network_id"] in {MAINNET, TESTNET}:
        raise ConfigError(
            f"chain.second is needed on network {chain['network_id']}: one lite-server alone may show another chain, "
            "so give one of somebody else as {host, port, public_key}; both must show the same blocks"
        )
    if second is not None:
        chain["second"] = LiteServerConfig(**_mapping(second, "chain.second", _SECOND))
        if chain["second"].public_key == chain["public_key"]:
            raise ConfigError("chain.second is the same lite-server: give another one, run by somebody else")
    return ChainConfig(**chain)


def _key_source(value: object, name: str, base: Path, network_id: object) -> KeySource:
    try:
        return KeySource.parse(value, base, plain_allowed=network_id in {DEVNET, TESTNET})
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def _mapping(value: object, where: str, required: set[str], optional: set[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must hold settings as `key: value`")
    if missing := required - value.keys():
        raise ConfigError(f"{where} lacks: {', '.join(sorted(missing))}")
    if unknown := value.keys() - required - (optional or set()):
        raise ConfigError(f"{where} has keys this version does not know: {', '.join(sorted(map(str, unknown)))}")
    return value
