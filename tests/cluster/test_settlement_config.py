from pathlib import Path

import pytest

from billing.claim_proof import format_address, parse_address
from billing.ton.cells import payee_of
from billing.ton.highload import HighloadWallet
from billing.ton.vault_sender import VaultSender
from cluster.errors import ConfigError
from cluster.settlement_config import SenderKind, make_treasury, parse_settlement

OWNER = "0:" + "0e" * 32
KEY, OTHER_KEY = b"\x01" * 32, b"\x02" * 32
VAULT = {"sender": "vault", "vault": {"owner": OWNER}}


def treasury(values: dict, public_key: bytes = KEY):
    return make_treasury(parse_settlement(values), public_key=public_key, network_id=-777, state=Path("state"))


def test_without_a_word_the_treasury_is_a_highload_wallet() -> None:
    settings = parse_settlement({})
    assert (settings.sender, settings.timeout_s, settings.limits.cap) == (SenderKind.HIGHLOAD, 600, None)
    wallet = treasury({})
    assert isinstance(wallet, HighloadWallet)
    assert wallet.payouts_max == 128


def test_a_vault_is_named_by_its_owner_and_the_hot_key() -> None:
    vault = treasury(VAULT)
    assert isinstance(vault, VaultSender)
    assert (vault.payouts_max, vault.timeout_s) == (249, 120)
    address = format_address(payee_of(vault.address))
    assert treasury({"sender": "vault", "vault": {"owner": OWNER, "address": address}}).address == vault.address


def test_after_the_hot_key_was_replaced_the_first_one_names_the_vault() -> None:
    address = format_address(payee_of(treasury(VAULT).address))
    given = {"owner": OWNER, "address": address}
    with pytest.raises(ConfigError, match="first_key"):
        treasury({"sender": "vault", "vault": given}, OTHER_KEY)
    vault = treasury({"sender": "vault", "vault": given | {"first_key": KEY.hex()}}, OTHER_KEY)
    assert payee_of(vault.address) == parse_address(address)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"sender": "wallet"}, "highload or vault", id="unknown-kind"),
        pytest.param({"sender": ["vault"]}, "highload or vault", id="wrong-type"),
        pytest.param({"sender": "vault"}, "settlement.vault is needed", id="which-vault"),
        pytest.param({"vault": {"owner": OWNER}}, "no meaning", id="vault-unused"),
        pytest.param(
            VAULT | {"vault": {"owner": OWNER, "owner_key": "x"}}, "must be", id="owner-key-is-not-for-settings"
        ),
        pytest.param(VAULT | {"vault": {"owner": "0:ab"}}, "64 hexadecimal", id="short-owner"),
        pytest.param(VAULT | {"vault": {"owner": 7}}, "settlement.vault", id="number-for-owner"),
        pytest.param(VAULT | {"vault": {"owner": OWNER, "first_key": "ab"}}, "32 bytes", id="short-key"),
        pytest.param(VAULT | {"treasury_timeout_s": 601}, "at most 600", id="order-lives-too-long"),
        pytest.param({"treasury_timeout_s": 0}, "treasury_timeout_s", id="no-life"),
        pytest.param({"period_s": True}, "period_s", id="truth-for-seconds"),
        pytest.param({"acknowledged": ["ab"]}, "32 bytes", id="short-hash"),
        pytest.param({"acknowledged": "ab" * 32}, "list", id="hash-without-list"),
        pytest.param({"treshold": 1}, "treshold", id="misspelt"),
    ],
)
def test_a_wrong_setting_is_named(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_settlement(values)


@pytest.mark.parametrize(
    "values",
    [
        {"float_cap": -1},
        {"float_cap": 1.5},
        {"float_cap": 1 << 63},
        {"float_cap": 5, "refill_below": 5},
        {"refill_below": -1},
        {"threshold": -1},
        {"threshold": 1 << 63},
        {"batch_max": 251},
        {"batch_max": 0},
    ],
    ids=str,
)
def test_an_amount_or_size_that_cannot_be_is_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        parse_settlement(values)
