"""The operator's settings: one YAML file, read strictly. Secrets are named by file, never written in it.

chain: {host: 127.0.0.1, port: 8080, public_key: <base64>, network_id: -777, init_block: "1:<hex>:<hex>"}  # DEVNET.md
registry: "0:<hex>"           # address of the registry contract
policy: policy.yaml           # attestation policy without reference values, which come from the registry
state: state                  # folder for journal and address book
operator_key: operator.key    # Ed25519 seeds in hex, mode 0600
treasury_key: treasury.key
ticket_key: ticket.key        # 32 bytes in hex, mode 0600
relay: 127.0.0.1:8443         # where the relay listens, and clients send to
transparency: {log: https://log.example.org, key: <log key>}   # optional, see attestation/transparency/settings.py
books: postgresql://ledger@db.example/books   # optional; without it an SQLite file in `state`, see docs/LEDGER.md
books_password: books.password   # optional, mode 0600; without it PGPASSFILE counts
channels: {accept: true, delay_min_s: 3600, threshold: 500000000, max_age_s: 86400}   # see ChannelPolicy
settlement: {threshold: 500000000, max_age_s: 86400, dust: 10000000, period_s: 3600, treasury_timeout_s: 600}
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.transparency.settings import LogSettings, parse_log_settings
from billing.errors import JournalPlaceError
from billing.journal_place import JournalPlace, PostgresPlace
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.channel_office import ChannelPolicy
from billing.ton.client import DEVNET, ChainConfig
from billing.ton.highload import TIMEOUT_S as TREASURY_TIMEOUT_S
from cluster.errors import ConfigError

SECRET_SIZE = 32
SETTLEMENT_PERIOD_S = 3600  # between automatic settlements
_KEYS = {"chain", "registry", "policy", "state", "operator_key", "treasury_key", "ticket_key", "relay"}
_OPTIONAL = {"settlement", "transparency", "books", "books_password", "channels"}
_CHANNELS = {"accept", "delay_min_s", "threshold", "max_age_s"}
_CHAIN = {"host", "port", "public_key", "network_id"}
_CHAIN_TRUST = {"init_block", "trust_level"}
_NO_REFERENCE = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())
_SETTLEMENT = {"threshold", "max_age_s", "dust", "batch_max", "period_s", "treasury_timeout_s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Where everything is. Paths are absolute; secrets are read by `secret` where they are used."""

    chain: ChainConfig
    registry: str
    policy: AppraisalPolicy
    state: Path
    operator_key: Path
    treasury_key: Path
    ticket_key: Path
    relay: str  # IP:PORT
    settlement: SettlementPolicy
    books: JournalPlace  # by default an SQLite file in `state`
    settlement_period_s: int = SETTLEMENT_PERIOD_S
    treasury_timeout_s: int = TREASURY_TIMEOUT_S
    transparency: LogSettings | None = None  # what admits hosts must also be in this log
    channels: ChannelPolicy = field(default_factory=ChannelPolicy)  # from which payment channels clients may pay

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


def read_secret(path: Path) -> bytes:
    """The 32 bytes in hex that a secret file holds.

    Raises:
        ConfigError: missing, readable by others, or not 32 bytes of hex.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(f"{path} has mode {mode:04o}, others could read it: chmod 600 {path}")
        secret = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise ConfigError(f"cannot read the secret {path}: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"{path} must hold {SECRET_SIZE} bytes in hexadecimal") from None
    if len(secret) != SECRET_SIZE:
        raise ConfigError(f"{path} must hold {SECRET_SIZE} bytes in hexadecimal")
    return secret


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key whose seed a secret file holds. Raises ConfigError as `read_secret`."""
    return Ed25519PrivateKey.from_private_bytes(read_secret(path))


def _parse(values: Mapping[str, Any], base: Path) -> NetworkConfig:
    chain = _mapping(values["chain"], "chain", _CHAIN, _CHAIN_TRUST)
    settlement = dict(_mapping(values.get("settlement", {}), "settlement", set(), _SETTLEMENT))
    timeout_s = settlement.pop("treasury_timeout_s", TREASURY_TIMEOUT_S)
    period_s = settlement.pop("period_s", SETTLEMENT_PERIOD_S)
    if type(period_s) is not int or period_s <= 0:
        raise ConfigError(f"settlement.period_s must be a whole number of seconds above 0, got {period_s!r}")
    for name in ("threshold", "dust"):
        if name in settlement:
            settlement[name] = Nanotons(settlement[name])
    for name in _KEYS - {"chain"}:
        if not isinstance(values[name], str) or not values[name]:
            raise ConfigError(f"{name} must be text (put hexadecimal numbers in quotes)")
    policy = AppraisalPolicy.from_yaml((base / values["policy"]).read_text(), reference=_NO_REFERENCE)
    if policy.unsafe_simulated_roots is not None and chain["network_id"] != DEVNET:
        raise ConfigError(
            f"{values['policy']} trusts simulated vendors, whose keys anybody can have: on network "
            f"{chain['network_id']} they would earn real money; write 'roots: production' (only the devnet, {DEVNET}, "
            "takes simulated ones)"
        )
    return NetworkConfig(
        chain=ChainConfig(**chain),
        registry=values["registry"],
        policy=policy,
        relay=values["relay"],
        settlement=SettlementPolicy(**settlement),
        books=_books(values, base),
        settlement_period_s=period_s,
        treasury_timeout_s=timeout_s,
        transparency=parse_log_settings(values["transparency"], base) if "transparency" in values else None,
        channels=ChannelPolicy(**_mapping(values.get("channels", {}), "channels", set(), _CHANNELS)),
        **{name: base / values[name] for name in ("state", "operator_key", "treasury_key", "ticket_key")},
    )


def _books(values: Mapping[str, Any], base: Path) -> JournalPlace:
    url, password = values.get("books"), values.get("books_password")
    if url is None:
        if password is not None:
            raise ConfigError("books_password is for books: name the database there too")
        return base / str(values["state"]) / "books.sqlite"
    if not isinstance(url, str) or not isinstance(password, str | None):
        raise ConfigError("books must be a postgresql:// address, and books_password the path of a file")
    return PostgresPlace(url=url, password_file=base / password if password else None)


def _mapping(value: object, where: str, required: set[str], optional: set[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must hold settings as `key: value`")
    if missing := required - value.keys():
        raise ConfigError(f"{where} lacks: {', '.join(sorted(missing))}")
    if unknown := value.keys() - required - (optional or set()):
        raise ConfigError(f"{where} has keys this version does not know: {', '.join(sorted(map(str, unknown)))}")
    return value
