"""Prices read out of a chain configuration, all in nanotons (source: block.tlb, ConfigParam 18, 20, 21, 24, 25)."""

from __future__ import annotations

from dataclasses import dataclass

from billing.errors import MalformedRecordError
from billing.ton.config.slim import parameter

_FLAT_TAG, _GAS_TAG, _FORWARD_TAG = 0xD1, 0xDE, 0xEA
_FIXED_POINT = 1 << 16  # gas, bit and cell prices are stored times 2^16
_BASECHAIN_GAS, _MASTERCHAIN_GAS, _BASECHAIN_FORWARD, _MASTERCHAIN_FORWARD = 21, 20, 25, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class GasPrices:
    """Price of computation: nanotons per unit of gas, and the flat part that the first units cost."""

    price: int
    flat_units: int
    flat_price: int
    limit: int
    credit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPrices:
    """Price of sending one message: lump sum, and nanotons for each bit and cell below its root."""

    lump: int
    bit: int
    cell: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Gas and forward prices of one workchain."""

    gas: GasPrices
    forward: ForwardPrices


def read_prices(config: bytes, *, masterchain: bool = False) -> Prices:
    """Decode the prices of the basechain, or of the masterchain."""
    return Prices(
        gas=_gas_prices(config, _MASTERCHAIN_GAS if masterchain else _BASECHAIN_GAS),
        forward=_forward_prices(config, _MASTERCHAIN_FORWARD if masterchain else _BASECHAIN_FORWARD),
    )


def _gas_prices(config: bytes, number: int) -> GasPrices:
    cell = parameter(config, number)
    _expect_tag(cell.load_uint(8), _FLAT_TAG)
    flat_units, flat_price = cell.load_uint(64), cell.load_uint(64)
    _expect_tag(cell.load_uint(8), _GAS_TAG)
    price, limit = cell.load_uint(64), cell.load_uint(64)
    cell.load_uint(64)  # limit of special contracts
    return GasPrices(
        price=price // _FIXED_POINT,
        flat_units=flat_units,
        flat_price=flat_price,
        limit=limit,
        credit=cell.load_uint(64),
    )


def _forward_prices(config: bytes, number: int) -> ForwardPrices:
    cell = parameter(config, number)
    _expect_tag(cell.load_uint(8), _FORWARD_TAG)
    return ForwardPrices(
        lump=cell.load_uint(64), bit=cell.load_uint(64) // _FIXED_POINT, cell=cell.load_uint(64) // _FIXED_POINT
    )


def _expect_tag(tag: int, expected: int) -> None:
    if tag != expected:
        raise MalformedRecordError("chain configuration", f"tag {tag:#x} where {expected:#x} belongs")
