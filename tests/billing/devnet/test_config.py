import pytest

from billing.errors import MalformedRecordError
from billing.ton.config import MAINNET_SEQNO, ForwardPrices, GasPrices, read_prices, slim_config
from billing.ton.config.prices import _gas_prices
from billing.ton.config.slim import parameter


def test_the_committed_configuration_holds_the_prices_of_mainnet_block_52956904() -> None:
    assert MAINNET_SEQNO == 52956904
    base, master = read_prices(slim_config()), read_prices(slim_config(), masterchain=True)
    assert base.gas == GasPrices(price=400, flat_units=100, flat_price=40_000, limit=1_000_000, credit=10_000)
    assert base.forward == ForwardPrices(lump=400_000, bit=400, cell=40_000)
    assert (master.gas.price, master.gas.flat_price) == (10_000, 1_000_000)
    assert master.forward == ForwardPrices(lump=10_000_000, bit=10_000, cell=1_000_000)


def test_the_network_id_replaces_parameter_19_and_nothing_else() -> None:
    assert parameter(slim_config(), 19).load_int(32) == -239
    changed = slim_config(-777)
    assert parameter(changed, 19).load_int(32) == -777
    assert read_prices(changed) == read_prices(slim_config())


def test_a_parameter_of_another_layout_is_refused() -> None:
    with pytest.raises(MalformedRecordError, match="0xea where 0xd1"):
        _gas_prices(slim_config(), 25)
