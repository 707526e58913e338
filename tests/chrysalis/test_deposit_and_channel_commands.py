"""`chrysalis deposit`, `channel` and `owner` against a devnet process."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.ton.channel import RENT_RESERVE
from billing.ton.deposits import deposit_body
from billing.ton.vault import NO_KEY, read_vault
from tests.billing.ton.world import CLIENT_KEY, OWNER_KEY, TON, treasury
from tests.chrysalis.conftest import OPERATOR_KEY, Desk, public

NONCES = itertools.count(100)


@pytest.fixture
def channel(desk: Desk, payer: Path) -> str:
    """The address of a new channel with 2 TON for vouchers."""
    done = desk.done("channel", "open", "2", "--key", payer, "--nonce", next(NONCES), "--delay-s", 3600, "--yes")
    return done["channel"]


@pytest.fixture
def operator(desk: Desk) -> Path:
    return desk.key_file("operator.key", OPERATOR_KEY)


def test_a_deposit_goes_to_the_treasury_that_the_registry_names_and_names_the_account(desk: Desk, payer: Path) -> None:
    before = desk.net.balance(treasury().address)
    desk.done("deposit", "0.25", "--key", payer, "--yes")
    desk.done("deposit", "250000000nano", "--key", payer, "--account", "ab" * 32, "--yes")
    assert desk.net.balance(treasury().address) == pytest.approx(before + TON // 2, abs=1000)  # less rent

    async def bodies(chain) -> list[bytes]:
        transactions = await chain.transactions(await chain.account(treasury().address))
        return [t.incoming.body.hash for t in transactions[-2:]]

    assert desk.net.ask(bodies) == [deposit_body(account).hash for account in (public(CLIENT_KEY), b"\xab" * 32)]


def test_a_deposit_needs_a_registry(desk: Desk, payer: Path) -> None:
    lines = desk.path("network.yaml").read_text().splitlines()
    desk.path("network.yaml").write_text("\n".join(line for line in lines if not line.startswith("registry")))
    result = desk.run("deposit", "1", "--key", payer, "--yes")
    assert (result.exit_code, "names no registry" in result.stderr) == (2, True)


def test_a_channel_is_opened_once_topped_up_and_shown(desk: Desk, payer: Path, channel: str) -> None:
    fields = desk.done("channel", "show", channel, password=False)
    assert (fields["status"], fields["redeemed"]) == ("open", 0)
    assert 2 * TON <= fields["payable"] < 2 * TON + RENT_RESERVE
    desk.done("channel", "top-up", channel, "1", "--key", payer, "--yes")
    desk.done("deposit", "1", "--channel", channel, "--key", payer, "--yes")
    assert desk.done("channel", "show", channel, password=False)["payable"] > 4 * TON - 10_000_000


def test_the_same_channel_is_not_opened_twice(desk: Desk, payer: Path) -> None:
    nonce = next(NONCES)
    first = desk.run("channel", "open", "1", "--key", payer, "--nonce", nonce, "--yes")
    again = desk.run("channel", "open", "1", "--key", payer, "--nonce", nonce, "--yes")
    assert (first.exit_code, again.exit_code, "--nonce" in again.stderr) == (0, 1, True)


def test_vouchers_are_redeemed_each_for_what_it_adds(desk: Desk, payer: Path, channel: str, operator: Path) -> None:
    for total, file in (("0.5", "first"), ("1.25", "second")):
        signed = desk.done("channel", "voucher", channel, total, "--key", payer, "--to", desk.path(file), "--yes")
        assert signed["signed"] == str(desk.path(file))
        after = desk.done("channel", "redeem", channel, desk.path(file), "--key", operator, "--yes")
    assert after["redeemed"] == 5 * TON // 4
    old = desk.run("channel", "redeem", channel, desk.path("first"), "--key", operator, "--yes")
    assert old.exit_code == 1


@pytest.mark.parametrize("total", ["0.5", "100"])
def test_a_voucher_that_nothing_covers_is_not_signed(
    desk: Desk, payer: Path, channel: str, operator: Path, total
) -> None:
    for amount in ("0.5",) if total == "0.5" else ():
        desk.run("channel", "voucher", channel, amount, "--key", payer, "--to", desk.path("v"), "--yes")
        desk.done("channel", "redeem", channel, desk.path("v"), "--key", operator, "--yes")
    result = desk.run("channel", "voucher", channel, total, "--key", payer, "--to", desk.path("w"), "--yes")
    assert (result.exit_code, "ChannelRefusesError" in result.stderr) == (1, True)
    assert not desk.path("w").exists()


def test_a_strangers_key_signs_nothing_of_a_channel(desk: Desk, channel: str, operator: Path) -> None:
    stranger = desk.key_file("stranger.key", OWNER_KEY)
    for words in (("voucher", channel, "1"), ("offer-close", channel, "1")):
        result = desk.run("channel", *words, "--key", stranger, "--to", desk.path("x"), "--yes")
        assert (result.exit_code, "ChannelRefusesError" in result.stderr) == (1, True)
    order = desk.run("channel", "close-unilateral", channel, "--key", stranger, "--yes")
    assert (order.exit_code, "its client's wallet is" in order.stderr) == (1, True)


def test_a_client_takes_its_money_out_alone_after_the_delay(desk: Desk, payer: Path, channel: str) -> None:
    announced = desk.done("channel", "withdraw", channel, "0.5", "--key", payer, "--yes")
    assert (announced["status"], announced["withdrawing"]) == ("withdrawing", TON // 2)
    assert desk.done("channel", "cancel", channel, "--key", payer, "--yes")["status"] == "open"
    assert desk.done("channel", "close-unilateral", channel, "--key", payer, "--yes")["status"] == "closing"
    early = desk.run("channel", "finish", channel, "--key", payer, "--yes")
    assert (early.exit_code, "the delay is over at" in early.stderr) == (1, True)
    nothing = desk.run("channel", "top-up", channel, "0", "--key", payer, "--yes")
    assert nothing.exit_code == 1


def test_both_close_at_once(desk: Desk, payer: Path, channel: str, operator: Path) -> None:
    offer = desk.path("offer.json")
    made = desk.done("channel", "offer-close", channel, "0.75", "--key", operator, "--to", offer, "--yes")
    assert (made["signed"], made["total"]) == (str(offer), 3 * TON // 4)
    own = desk.run("channel", "close", channel, offer, "--key", operator, "--yes")
    assert (own.exit_code, "BadSignatureError" in own.stderr) == (1, True)  # the other side has to accept
    changed = desk.path("changed.json")
    changed.write_text(json.dumps(json.loads(offer.read_text()) | {"total": TON // 2}))
    assert desk.run("channel", "close", channel, changed, "--key", payer, "--yes").exit_code == 1
    after = desk.done("channel", "close", channel, offer, "--key", payer, "--yes")
    assert (after["status"], after["redeemed"]) == ("closed", 3 * TON // 4)
    late = desk.run("deposit", "1", "--channel", channel, "--key", payer, "--yes")
    assert (late.exit_code, "it is closed" in late.stderr) == (1, True)


def test_the_vaults_hot_key_is_revoked_and_replaced_by_an_owner_whose_key_stays_offline(desk: Desk) -> None:
    owner, vault = desk.key_file("owner.key", OWNER_KEY), desk.net.vault.to_str(is_user_friendly=False)
    fresh = Ed25519PrivateKey.from_private_bytes(b"\x7c" * 32)
    hot = desk.key_file("hot.key", fresh)
    request, signed = desk.path("request.json"), desk.path("signed.json")
    command = ("owner", "propose-key", vault, "--key", owner, "--new-key", hot)
    assert desk.run(*command, "--offline", request, password=False).exit_code == 0
    words = desk.run("wallet", "sign", request, "--key", owner, "--to", signed, "--yes", network=False)
    assert f"propose hot key {public(fresh).hex()}" in words.stderr
    assert desk.run("wallet", "send", signed, "--yes", password=False).exit_code == 0

    def state():
        return desk.net.ask(lambda chain: read_vault(chain, desk.net.vault))

    assert state().next_key == public(fresh)
    assert desk.run("owner", "revoke-key", vault, "--key", owner, "--yes").exit_code == 0
    assert (state().public_key, state().next_key) == (NO_KEY, NO_KEY)
    again = desk.run("owner", "revoke-key", vault, "--key", owner, "--yes")
    assert (again.exit_code, "nothing for revoke-key" in again.stderr) == (1, True)


def test_what_a_contract_would_refuse_is_not_sent(desk: Desk, payer: Path) -> None:
    vault = desk.net.vault.to_str(is_user_friendly=False)
    for step in ("revoke-key", "accept-owner", "cancel-owner"):
        result = desk.run("owner", step, vault, "--key", payer, "--yes")
        assert (result.exit_code, f"{step} is up to" in result.stderr) == (1, True), result.stderr
    registry = desk.net.registry.to_str(is_user_friendly=False)
    owner = desk.key_file("owner.key", OWNER_KEY)
    assert desk.run("owner", "revoke-key", registry, "--key", owner, "--yes").exit_code == 1
    assert desk.run("owner", "cancel-owner", registry, "--key", owner, "--yes").exit_code == 1


def test_a_contract_is_handed_over(desk: Desk, payer: Path) -> None:
    registry, owner = desk.net.registry.to_str(is_user_friendly=False), desk.key_file("owner.key", OWNER_KEY)
    heir = desk.net.wallet(CLIENT_KEY).address.to_str(is_user_friendly=False)
    proposed = desk.run("owner", "propose-owner", registry, "--key", owner, "--new-owner", heir, "--yes")
    assert (proposed.exit_code, f"propose owner {heir}" in proposed.stderr) == (0, True), proposed.stderr
    early = desk.run("owner", "accept-owner", registry, "--key", payer, "--yes")
    assert (early.exit_code, "is possible from unix time" in early.stderr) == (1, True)
    assert desk.run("owner", "cancel-owner", registry, "--key", owner, "--yes").exit_code == 0
