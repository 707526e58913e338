"""Settings of the sidecar: one YAML file, every key known, safe defaults.

    wallet: {file: wallet.key, password_file: wallet.password}   # made on first start, mode 0600; docs/KEYS.md.
                                           # `wallet: wallet.key` is unencrypted, and the mainnet refuses it
    state: state                           # folder for receipts
    policy: policy.yaml                    # vendor roots and tier; reference values come from the registry
    registry:
      address: "0:<hex>"
      lite_server: {host: 127.0.0.1, port: 4443, public_key: <base64>, network_id: -777}
                                           # and init_block or trust_level, see docs/DEVNET.md
    operator: "7"                          # optional: id or public key of one of several operators
    transparency: {log: https://log.example.org, key: <log key>}   # optional, see attestation/transparency/settings.py
    payment: channel                       # or treasury, the default: deposits lie in the operator's wallet
    channel: {deposit: 2000000000, top_up_below: 300, top_up_daily_max: 2000000000}   # with `payment: channel`: what
                                           # it is opened with, and how far it is filled up; see ChannelSettings

Relative paths are relative to the file. All amounts are nanotons.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attestation.transparency.settings import LogSettings, parse_log_settings
from billing.key_files import KeySource
from billing.lease_request import LEASE_HOSTS_MAX
from billing.money import Nanotons, check_nanotons
from billing.tariff import COEFFICIENT_ONE, check_coefficient
from billing.ton.channel import DELAY_MAX_S, DELAY_MIN_S
from billing.ton.client import DEVNET, TESTNET
from billing.wire import check_uint
from client.errors import ConfigError

BODY_LIMIT = (1 << 20) - (16 << 10)  # sealed to three hosts it still fits into the 1 MiB that an enclave reads
DEFAULT_BUDGET = Nanotons(100_000_000)
DEFAULT_PRICE_CAP = Nanotons(10_000_000)
PAYMENTS = ("treasury", "channel")
TOP_UP_MIN = 50_000_000  # nanotons; a top-up costs 0.00347 TON (docs/COSTS.md): of less, that is too large a share
SHARE_MAX = 900  # thousandths: closer to the whole deposit, each lease would be a top-up
_ZERO = Nanotons(0)
_LITE_SERVER = {"host": str, "port": int, "public_key": str, "network_id": int}
_LITE_SERVER_TRUST = {"init_block": str, "trust_level": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteServer:
    """Where the chain is read, and the server's key."""

    host: str
    port: int
    public_key: str  # base64
    network_id: int
    init_block: str | None = (
        None  # a key block, number:root hash:file hash: validators' signatures are followed from it
    )
    trust_level: int | None = None  # 1 says that the server is one's own, and its word for the newest block is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """Which payment channel pays for leases, and how far the operator is trusted ahead of receipts."""

    deposit: Nanotons = _ZERO  # put in when the channel is opened; 0: it is opened by other means
    delay_s: int = 86_400  # from an announcement until the client may take its money out
    nonce: int = 0  # another one for another channel with the same operator
    advance: Nanotons = DEFAULT_BUDGET  # signed at most beyond receipts and leases under way
    leases_max: int = 8  # leases under way; each is paid ahead with its budget
    top_up_below: int = 0  # thousandths of `deposit`; when less is left, it is filled up again. 0: never
    top_up_daily_max: Nanotons = _ZERO  # put in at most within 24 hours, besides the deposit

    def __post_init__(self) -> None:
        check_nanotons(self.deposit, "channel.deposit")
        check_nanotons(self.advance, "channel.advance")
        check_nanotons(self.top_up_daily_max, "channel.top_up_daily_max")
        check_uint("channel.nonce", self.nonce, 64)
        if type(self.top_up_below) is not int or not 0 <= self.top_up_below <= SHARE_MAX:
            raise ValueError(f"channel.top_up_below must be 0 to {SHARE_MAX} thousandths, got {self.top_up_below!r}")
        if bool(self.top_up_below) != bool(self.top_up_daily_max):
            raise ValueError("channel.top_up_below and channel.top_up_daily_max need each other")
        least = min(self.deposit * (1000 - self.top_up_below) // 1000, self.top_up_daily_max)
        if self.top_up_below and least < TOP_UP_MIN:
            raise ValueError(
                f"a top-up would be of {least} nanoton, and {TOP_UP_MIN} is the least: raise channel.deposit and "
                "channel.top_up_daily_max, or lower channel.top_up_below"
            )
        if type(self.leases_max) is not int or self.leases_max < 1:
            raise ValueError(f"channel.leases_max must be a whole number above 0, got {self.leases_max!r}")
        if type(self.delay_s) is not int or not DELAY_MIN_S <= self.delay_s <= DELAY_MAX_S:
            raise ValueError(f"channel.delay_s must be {DELAY_MIN_S} to {DELAY_MAX_S} seconds, got {self.delay_s!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Settings of one client."""

    wallet: KeySource
    state: Path
    policy: Path
    registry: str  # address of the registry contract
    lite_server: LiteServer
    listen: tuple[str, int] = ("127.0.0.1", 0)
    api_key: str = ""  # when set, callers must send it as bearer token
    operator: str = ""  # id or public key (hex) of an operator in the registry; empty takes the only active one
    gateway: str = ""  # URL; empty takes the operator's endpoint from the registry
    direct: bool = False  # send to the host's own address instead of the relay, the same bytes
    tls: bool = False  # with `direct`: through the host's attested TLS, or not at all
    hosts: int = LEASE_HOSTS_MAX  # candidates of a lease
    budget: Nanotons = DEFAULT_BUDGET  # held for one lease
    price_cap: Nanotons = DEFAULT_PRICE_CAP  # the most one request may cost
    coefficient_max: int = 4 * COEFFICIENT_ONE  # dearer hosts are not used; parts per thousand
    body_max: int = BODY_LIMIT  # bytes of one request
    registry_refresh_s: int = 60
    registry_age_max_s: int = 3600  # an older reading is not acted on
    read_timeout_s: int = 120  # silence of a host that ends a request
    transparency: LogSettings | None = None  # what is used must also be in this log
    avoid_s: int = 300  # how long a host that cheated or failed verification is left out
    payment: str = "treasury"  # or channel
    channel: ChannelSettings | None = None  # with `payment: channel`, and only then

    def __post_init__(self) -> None:
        check_nanotons(self.budget, "budget")
        check_nanotons(self.price_cap, "price_cap")
        check_coefficient(self.coefficient_max)
        if self.payment not in PAYMENTS:
            raise ValueError(f"payment must be one of {', '.join(PAYMENTS)}, got {self.payment!r}")
        if (self.payment == "channel") != (self.channel is not None):
            raise ValueError("`payment: channel` and the settings under `channel` need each other")
        if self.tls and not self.direct:
            raise ValueError("tls needs direct: the relay ends TLS itself, and is not attested")
        if not 1 <= self.hosts <= LEASE_HOSTS_MAX:
            raise ValueError(f"hosts must be 1 to {LEASE_HOSTS_MAX}")
        if min(self.body_max, self.registry_refresh_s, self.read_timeout_s, self.avoid_s) <= 0:
            raise ValueError("body_max, registry_refresh_s, read_timeout_s and avoid_s must be positive")
        if self.body_max > BODY_LIMIT:
            raise ValueError(f"body_max must be at most {BODY_LIMIT}: hosts read no more")
        if self.registry_age_max_s < self.registry_refresh_s:
            raise ValueError("registry_age_max_s must not be below registry_refresh_s")
        if not _is_loopback(self.listen[0]):
            raise ValueError(
                f"listen {self.listen[0]!r}: only a loopback address; prompts would cross the network open"
            )


def load_config(path: Path) -> ClientConfig:
    """Read the settings in `path`.

    Raises:
        ConfigError: not readable, not YAML, a key that is missing or unknown, or a value out of range.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: a mapping of settings is expected")
        return _read(values, path.parent)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(values: dict[str, Any], folder: Path) -> ClientConfig:
    fields = dict(values)
    registry = _check_keys(fields.pop("registry", None), "registry", {"address": str, "lite_server": dict})
    fields["registry"] = registry["address"]
    fields["lite_server"] = LiteServer(
        **_check_keys(registry["lite_server"], "registry.lite_server", _LITE_SERVER, _LITE_SERVER_TRUST)
    )
    plain_allowed = fields["lite_server"].network_id in {DEVNET, TESTNET}
    try:
        fields["wallet"] = KeySource.parse(fields.get("wallet"), folder, plain_allowed=plain_allowed)
    except ValueError as error:
        raise ConfigError(f"wallet: {error}") from error
    for name in ("state", "policy"):
        if not isinstance(fields.get(name), str):
            raise ConfigError(f"{name}: a path is expected")
        fields[name] = folder / fields[name]
    if "transparency" in fields:
        fields["transparency"] = parse_log_settings(fields["transparency"], folder)
    if "channel" in fields:
        fields["channel"] = _read_channel(fields["channel"])
    if "listen" in fields:
        fields["listen"] = _parse_address(fields["listen"])
    unknown = sorted(set(fields) - set(ClientConfig.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(map(str, unknown))}")
    for name, value in fields.items():
        kind = type(ClientConfig.__dataclass_fields__[name].default)
        if kind in {bool, int, str} and type(value) is not kind and name != "registry":
            raise ValueError(f"{name} must be {kind.__name__}")
    return ClientConfig(**fields)


def _read_channel(value: object) -> ChannelSettings:
    known = set(ChannelSettings.__dataclass_fields__)
    if not isinstance(value, dict) or set(value) - known:
        raise ValueError(f"channel may hold {', '.join(sorted(known))}")
    return ChannelSettings(**value)


def _check_keys(
    value: object, name: str, kinds: dict[str, type], optional: dict[str, type] | None = None
) -> dict[str, Any]:
    allowed = kinds | (optional or {})
    if not isinstance(value, dict) or not set(kinds) <= set(value) <= set(allowed):
        may = f" (and may have {', '.join(optional)})" if optional else ""
        raise ValueError(f"{name} needs exactly {', '.join(kinds)}{may}")
    for key, kind in allowed.items():
        if key in value and type(value[key]) is not kind:
            raise ValueError(f"{name}.{key} must be {kind.__name__}")
    return value


def _parse_address(text: object) -> tuple[str, int]:
    host, _, port = str(text).rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"listen {text!r}: write host:port, for example 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
