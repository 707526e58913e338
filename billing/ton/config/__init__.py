"""The chain configuration the devnet runs with: real mainnet prices, cut to what execution needs."""

from billing.ton.config.prices import ForwardPrices, GasPrices, Prices, read_prices
from billing.ton.config.slim import MAINNET_SEQNO, slim_config

__all__ = ["MAINNET_SEQNO", "ForwardPrices", "GasPrices", "Prices", "read_prices", "slim_config"]
