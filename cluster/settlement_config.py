"""The settlement part of the operator's settings: who is paid when, from which kind of treasury, with how much float.

settlement:
  sender: vault                 # or highload (default): batches of at most 249 and 128 payouts
  vault: {owner: "0:<hex>", address: "0:<hex>", first_key: <hex>}   # with sender: vault; see below
  threshold: 500000000          # nanotons; whoever is owed that much is paid at the next settlement
  max_age_s: 86400              # and whoever waits that long, if it is owed more than dust
  dust: 10000000
  batch_max: 249                # payouts in a batch
  period_s: 3600                # between automatic settlements
  treasury_timeout_s: 600       # life of a signed message; vault: 120, at most 600
  float_cap: 50000000000        # nanotons above which money is to be moved to the owner; none by default
  refill_below: 5000000000      # nanotons below which an alarm is raised
  acknowledged: []              # hashes (hex) of messages these books never signed, to be booked as the operator's own

The treasury's hot key is `treasury_key`. A vault's owner is an address: its key stays cold and stands in no settings.
`first_key` is the hot key the vault was deployed with, needed after the hot key was replaced; `address` is a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pytoniq_core import Address

from billing.claim_proof import parse_address
from billing.hot_float import FloatLimits
from billing.money import Nanotons
from billing.settlement import SettlementPolicy
from billing.ton.cells import address_of, payee_of
from billing.ton.highload import TIMEOUT_S as HIGHLOAD_TIMEOUT_S
from billing.ton.highload import treasury_wallet
from billing.ton.sender import Sender
from billing.ton.vault import vault_init
from billing.ton.vault_order import TIMEOUT_S as VAULT_TIMEOUT_S
from billing.ton.vault_sender import EntitlementFiles, VaultSender
from cluster.errors import ConfigError

__all__ = ["SenderKind", "SettlementSettings", "VaultSettings", "make_treasury", "parse_settlement"]

PERIOD_S = 3600
VAULT_TIMEOUT_MAX_S = 600  # the contract refuses orders that live longer
_VAULT = {"owner", "address", "first_key"}
_POLICY = {"threshold", "max_age_s", "dust", "batch_max"}
_OWN = {"sender", "vault", "period_s", "treasury_timeout_s", "float_cap", "refill_below", "acknowledged"}


class SenderKind(StrEnum):
    """The kind of treasury."""

    HIGHLOAD = "highload"
    VAULT = "vault"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    """Which vault. Addresses are 33 bytes, keys 32."""

    owner: bytes
    address: bytes | None = None
    first_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementSettings:
    """Everything about settlement in the operator's settings."""

    policy: SettlementPolicy = field(default_factory=SettlementPolicy)
    limits: FloatLimits = field(default_factory=FloatLimits)
    period_s: int = PERIOD_S
    sender: SenderKind = SenderKind.HIGHLOAD
    vault: VaultSettings | None = None
    timeout_s: int = HIGHLOAD_TIMEOUT_S
    acknowledged: frozenset[bytes] = frozenset()


def parse_settlement(values: Mapping[str, Any]) -> SettlementSettings:
    """The settings in a mapping.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong form.
        ValueError: an amount or a size is out of its range.
    """
    if unknown := values.keys() - _POLICY - _OWN:
        raise ConfigError(f"settlement has keys this version does not know: {', '.join(sorted(map(str, unknown)))}")
    sender = _sender(values.get("sender", SenderKind.HIGHLOAD))
    if (sender is SenderKind.VAULT) != ("vault" in values):
        raise ConfigError("settlement.vault is needed with `sender: vault`, and has no meaning without it")
    default = VAULT_TIMEOUT_S if sender is SenderKind.VAULT else HIGHLOAD_TIMEOUT_S
    timeout_s = _seconds(values, "treasury_timeout_s", default)
    if sender is SenderKind.VAULT and timeout_s > VAULT_TIMEOUT_MAX_S:
        raise ConfigError(f"settlement.treasury_timeout_s is at most {VAULT_TIMEOUT_MAX_S} for a vault")
    cap = values.get("float_cap")
    policy = {name: values[name] for name in _POLICY & values.keys()}
    return SettlementSettings(
        policy=SettlementPolicy(**policy),
        limits=FloatLimits(cap=cap, refill_below=values.get("refill_below", Nanotons(0))),
        period_s=_seconds(values, "period_s", PERIOD_S),
        sender=sender,
        vault=_vault(values["vault"]) if sender is SenderKind.VAULT else None,
        timeout_s=timeout_s,
        acknowledged=_hashes(values.get("acknowledged", [])),
    )


def make_treasury(settings: SettlementSettings, *, public_key: bytes, network_id: int, state: Path) -> Sender:
    """The treasury that these settings and the hot key's public half (32 bytes) name.

    Args:
        settings: which kind.
        public_key: of the hot key.
        network_id: the network's global id.
        state: the operator's folder; a vault's entitlements are kept in it.

    Raises:
        ConfigError: the vault of this owner and key has another address than the settings say.
    """
    if settings.vault is None:
        return treasury_wallet(public_key, network_id, timeout_s=settings.timeout_s)
    owner: Address = address_of(settings.vault.owner)
    init = vault_init(network_id=network_id, owner=owner, public_key=settings.vault.first_key or public_key)
    vault = VaultSender(init=init, files=EntitlementFiles(folder=state / "entitlements"), timeout_s=settings.timeout_s)
    if settings.vault.address not in {None, payee_of(vault.address)}:
        found = vault.address.to_str(is_user_friendly=False)
        raise ConfigError(
            f"settlement.vault: this owner and key have their vault at {found}, not at the address given; after the "
            "hot key was replaced, give the one it was deployed with as first_key"
        )
    return vault


def _sender(value: object) -> SenderKind:
    try:
        return SenderKind(value)  # type: ignore[arg-type]  # refused below
    except ValueError:
        raise ConfigError(f"settlement.sender is highload or vault, not {value!r}") from None


def _seconds(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if type(value) is not int or value <= 0:
        raise ConfigError(f"settlement.{name} must be a whole number of seconds above 0, got {value!r}")
    return value


def _vault(value: object) -> VaultSettings:
    if not isinstance(value, dict) or not {"owner"} <= value.keys() <= _VAULT:
        raise ConfigError('settlement.vault must be {owner: "0:<hex>"}, with address and first_key if you like')
    try:
        key = value.get("first_key")
        return VaultSettings(
            owner=parse_address(value["owner"]),
            address=parse_address(value["address"]) if "address" in value else None,
            first_key=_bytes32(key) if key is not None else None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"settlement.vault: {error} (put hexadecimal numbers in quotes)") from error


def _hashes(value: object) -> frozenset[bytes]:
    if not isinstance(value, list):
        raise ConfigError("settlement.acknowledged must be a list of message hashes")
    try:
        return frozenset(_bytes32(text) for text in value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"settlement.acknowledged: {error} (put hexadecimal numbers in quotes)") from error


def _bytes32(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 32:
        raise ValueError(f"{text} is not 32 bytes in hexadecimal")
    return value
