"""Which network, and which lite-servers to reach it through."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace

from billing.ton.proofs import Block

__all__ = ["DEVNET", "MAINNET", "TESTNET", "ChainConfig", "LiteServerConfig"]

DEVNET, TESTNET, MAINNET = -777, -3, -239  # global ids of the networks


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteServerConfig:
    """Another lite-server of the same network."""

    host: str
    port: int
    public_key: str  # Ed25519, base64

    def __post_init__(self) -> None:
        _check_server(self.port, self.public_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """Which network, and the lite-server to reach it through."""

    host: str
    port: int
    public_key: str  # the server's Ed25519 key, base64 as in the network's global config
    network_id: int  # the network's global id: -239 mainnet, -3 testnet, -777 devnet
    timeout_s: float = 10.0
    block_age_max_s: int = 60  # an older (or later) newest block is refused; blocks come every few seconds
    history_max: int = 100_000  # transactions read in one go
    init_block: str | None = None  # a key block known to be genuine, number:root hash:file hash; for trust level 0
    trust_level: int | None = None  # 0: validators' signatures; 1: the server's word for the newest block
    second: LiteServerConfig | None = None  # must show the same blocks

    def __post_init__(self) -> None:
        _check_server(self.port, self.public_key)
        if self.timeout_s <= 0 or self.block_age_max_s <= 0:
            raise ValueError("port, timeout_s and block_age_max_s must be positive")
        if self.trust_level not in (None, 0, 1):
            raise ValueError(f"trust_level is 0 (signatures) or 1 (the server's word), not {self.trust_level!r}")
        if self.init_block is None and (
            self.trust_level == 0 or (self.trust_level is None and self.network_id != DEVNET)
        ):
            raise ValueError(
                f"network {self.network_id} needs init_block, a key block from its global config "
                "(number:root hash:file hash); or write trust_level: 1 when the lite-server is your own"
            )
        if self.init_block is not None:
            Block.parse(self.init_block)

    @property
    def trusted_block(self) -> Block | None:
        """The key block to follow signatures from, or None at trust level 1."""
        return None if self.init_block is None or self.trust_level == 1 else Block.parse(self.init_block)

    def of_second(self, second: LiteServerConfig) -> ChainConfig:
        """The same network through the other server alone."""
        return replace(self, host=second.host, port=second.port, public_key=second.public_key, second=None)


def _check_server(port: int, public_key: str) -> None:
    try:
        key = base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("public_key must be base64, as in the network's global config") from error
    if len(key) != 32:
        raise ValueError(f"public_key must be 32 bytes in base64, got {len(key)}")
    if not 0 < port < 65536:
        raise ValueError("port, timeout_s and block_age_max_s must be positive")
