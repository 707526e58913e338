"""The committed configuration cell and where it comes from.

`slim.boc` is the configuration of TON mainnet at masterchain block 52956904, kept to parameters 0-2, 4, 5, 7-25, 28,
29 and 31. Source: `dist/config/slimConfig.js` of the npm package `@ton/sandbox` 0.41.0 (MIT licence), base64 decoded,
otherwise unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytoniq_core import Builder, Cell, HashMap, Slice

MAINNET_SEQNO = 52956904
_GLOBAL_ID_PARAM = 19


def slim_config(global_id: int | None = None, changes: Mapping[int, bytes] | None = None) -> bytes:
    """Return the configuration dictionary (Hashmap 32 ^Cell) as a bag of cells.

    Args:
        global_id: the network id contracts see (parameter 19); mainnet's own when None.
        changes: parameters to set besides, by number, each as a bag of cells; only together with `global_id`.
    """
    boc = Path(__file__).with_name("slim.boc").read_bytes()
    if global_id is None:
        return boc
    parameters = HashMap.from_cell(Cell.one_from_boc(boc), 32)
    parameters.value_serializer = _store_parameter
    parameters.map = {key: value.load_ref() for key, value in parameters.map.items()}
    parameters.map[_GLOBAL_ID_PARAM] = Builder().store_int(global_id, 32).end_cell()
    parameters.map |= {number: Cell.one_from_boc(boc) for number, boc in (changes or {}).items()}
    serialized = parameters.serialize()
    if serialized is None:
        raise ValueError("slim.boc holds no parameter")
    return bytes(serialized.to_boc())


def _store_parameter(value: Cell, target: Builder) -> Builder:
    return target.store_ref(value)


def parameter(config: bytes, number: int) -> Slice:
    """Open one parameter of a configuration dictionary for reading.

    Raises:
        KeyError: the configuration has no such parameter.
    """
    parameters = HashMap.parse(Cell.one_from_boc(config).begin_parse(), 32)
    return parameters[number].load_ref().begin_parse()
