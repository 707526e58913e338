"""`chrysalis wallet` against a devnet process: keys, transfers, bad input, trouble on the way."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from billing.key_files import read_key_file
from billing.keys import SealedKey, open_key
from billing.ton.devnet import FaultKind
from tests.billing.ton.world import CLIENT_KEY, OWNER_KEY, TON
from tests.chrysalis.conftest import PASSWORD, Desk, public

RECEIVER = Address((0, b"\x51" * 32))
TO = RECEIVER.to_str(is_bounceable=False, is_test_only=True)


def send(desk: Desk, key: Path, *more: object, to: str = TO, amount: str = "1.5", **options) -> object:
    return desk.run("wallet", "send", "--key", key, "--to", to, "--amount", amount, *more, **options)


def check_received(desk: Desk, before: int, amount: int) -> None:
    """The receiver got the amount, less some nanotons of rent."""
    assert 0 <= before + amount - desk.net.balance(RECEIVER) < 1000


def test_a_transfer_is_made_to_the_nanoton_and_shown_in_the_history(desk: Desk, payer: Path) -> None:
    before, had = desk.net.balance(RECEIVER), desk.net.balance(desk.net.wallet(CLIENT_KEY).address)
    done = desk.done(
        "wallet", "send", "--key", payer, "--to", TO, "--amount", "1.000000001", "--comment", "hi", "--yes"
    )
    check_received(desk, before, TON + 1)
    assert done["sent"] == TON + 1
    left = desk.done("wallet", "balance", "--key", payer, password=False)["balance"]
    assert left == had - TON - 1 - done["fee"]
    rows = desk.done("wallet", "history", "--key", payer, "--limit", "1", password=False)["transactions"]
    assert [row["hash"] for row in rows] == [done["transaction"]]
    assert rows[0]["sent"][0]["what"] == "comment: hi"
    assert not (payer.parent / "payer.key.pending").exists()


def test_what_is_confirmed_is_shown_and_no_is_no(desk: Desk, payer: Path) -> None:
    before = desk.net.balance(RECEIVER)
    result = send(desk, payer, answer="n\n")
    assert result.exit_code == 1
    for words in ("devnet (-777)", TO, "1.500000000 TON, a plain transfer", "fees:     up to 0.00"):
        assert words in result.stderr
    assert desk.net.balance(RECEIVER) == before


def test_without_an_answer_nothing_is_sent(desk: Desk, payer: Path) -> None:
    before = desk.net.balance(RECEIVER)
    assert send(desk, payer).exit_code == 1
    assert desk.net.balance(RECEIVER) == before


MAINNET_FORM = RECEIVER.to_str(is_bounceable=True)
MISTYPED = MAINNET_FORM[:-1] + ("A" if MAINNET_FORM[-1] != "A" else "B")


@pytest.mark.parametrize(
    ("to", "amount", "error"),
    [
        pytest.param(MISTYPED, "1", "BadAddressError", id="wrong-checksum"),
        pytest.param("0:12", "1", "BadAddressError", id="short"),
        pytest.param("-1:" + "00" * 32, "1", "BadAddressError", id="masterchain"),
        pytest.param(TO, "0", "BadAmountError", id="zero"),
        pytest.param(TO, "0nano", "BadAmountError", id="zero-nano"),
        pytest.param(TO, "1e3", "BadAmountError", id="float"),
        pytest.param(TO, "0.0000000001", "BadAmountError", id="tenth-of-a-nanoton"),
        pytest.param(TO, "9223372036854775808nano", "BadAmountError", id="two-to-the-63"),
        pytest.param(TO, "99999999999999999999", "BadAmountError", id="more-than-exists"),
        pytest.param(TO, "1000000", "BalanceTooLowError", id="more-than-the-balance"),
        pytest.param(TO, "9223372036854775807nano", "BalanceTooLowError", id="the-most-that-is-an-amount"),
    ],
)
def test_bad_input_is_refused_by_name_and_nothing_is_sent(desk: Desk, payer: Path, to, amount, error) -> None:
    before = desk.net.balance(desk.net.wallet(CLIENT_KEY).address)
    result = send(desk, payer, "--yes", to=to, amount=amount)
    assert (result.exit_code, error in result.stderr) == (1, True), result.stderr
    assert desk.net.balance(desk.net.wallet(CLIENT_KEY).address) == before


def test_a_negative_amount_is_refused(desk: Desk, payer: Path) -> None:
    result = desk.run("wallet", "send", "--key", payer, "--to", TO, "--amount=-1", "--yes")
    assert (result.exit_code, "BadAmountError" in result.stderr) == (1, True)


def test_a_wallet_may_not_be_emptied_of_its_fees(desk: Desk, payer: Path) -> None:
    everything = desk.net.balance(desk.net.wallet(CLIENT_KEY).address)
    result = send(desk, payer, "--yes", amount=f"{everything}nano")
    assert (result.exit_code, "BalanceTooLowError" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        pytest.param({"network_id": -3, "trust_level": 1}, 1, "WrongNetworkError", id="another-network"),
        pytest.param({"second": {"host": "127.0.0.1"}}, 2, "chain.second has the keys host", id="second-server"),
        pytest.param({"port": 1}, 2, "ChainUnreachableError", id="server-gone"),
        pytest.param({"public_key": "AAAA"}, 2, "ConfigError", id="no-key"),
        pytest.param({"port": "80"}, 2, "chain.port must be int", id="text-for-a-number"),
    ],
)
def test_trouble_with_the_network_is_named(desk: Desk, payer: Path, changes, code, words) -> None:
    desk.path("network.yaml").write_text(yaml.safe_dump(desk.net.settings(**changes)))
    result = desk.run("wallet", "balance", "--key", payer, password=False)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr


def test_the_settings_of_operator_and_client_name_the_network_too(desk: Desk, payer: Path) -> None:
    chain = desk.net.settings()["chain"]
    operator = desk.net.settings() | {"policy": "policy.yaml", "relay": "127.0.0.1:1"}
    client = {"policy": "policy.yaml", "registry": {"address": operator["registry"], "lite_server": chain}}
    for settings in (operator, client):
        desk.path("network.yaml").write_text(yaml.safe_dump(settings))
        assert desk.done("wallet", "balance", "--key", payer, password=False)["balance"] > 0
    desk.path("network.yaml").write_text(yaml.safe_dump(desk.net.settings() | {"chian": 1}))
    assert desk.run("wallet", "balance", "--key", payer, password=False).exit_code == 2


def test_a_lost_message_is_sent_again_as_the_same_bytes_and_paid_once(desk: Desk, payer: Path, monkeypatch) -> None:
    monkeypatch.setattr("billing.ton.transfer_desk.SEND_TIMEOUT_S", 1.0)
    before = desk.net.balance(RECEIVER)
    asyncio.run(desk.net.admin.inject(FaultKind.DROP))
    lost = send(desk, payer, "--yes")
    assert (lost.exit_code, "SendOutcomeUnknownError" in lost.stderr) == (3, True), lost.stderr
    pending = payer.parent / "payer.key.pending"
    again = send(desk, payer, "--yes")
    assert (again.exit_code, "PendingTransferError" in again.stderr) == (1, True)
    copy = desk.path("copy.json")
    copy.write_bytes(pending.read_bytes())
    for _ in range(2):  # the second time it is found in the history
        assert desk.run("wallet", "send", copy, "--yes", password=False).exit_code == 0
    check_received(desk, before, 3 * TON // 2)
    assert desk.run("wallet", "send", pending, "--yes", password=False).exit_code == 0
    assert not pending.exists()
    assert send(desk, payer, "--yes").exit_code == 0


def test_a_request_is_signed_without_a_network_and_sent_by_somebody_else(desk: Desk, payer: Path) -> None:
    request, signed = desk.path("request.json"), desk.path("signed.json")
    before = desk.net.balance(RECEIVER)
    assert send(desk, payer, "--offline", request, password=False).exit_code == 0
    assert desk.run("wallet", "send", request, "--yes", password=False).exit_code == 1  # nobody signed
    words = desk.run("wallet", "sign", request, "--key", payer, "--to", signed, "--yes", network=False)
    assert (words.exit_code, "1.500000000 TON" in words.stderr) == (0, True), words.stderr
    done = desk.done("wallet", "send", signed, "--yes", password=False)
    check_received(desk, before, 3 * TON // 2)
    assert desk.done("wallet", "send", signed, "--yes", password=False) == done  # found, not sent again
    check_received(desk, before, 3 * TON // 2)


@pytest.mark.parametrize("field", ["amount", "to", "valid_until", "seqno"])
def test_a_signed_request_that_was_changed_is_refused(desk: Desk, payer: Path, field: str) -> None:
    request, signed = desk.path("request.json"), desk.path("signed.json")
    assert send(desk, payer, "--offline", request, password=False).exit_code == 0
    assert desk.run("wallet", "sign", request, "--key", payer, "--to", signed, "--yes", network=False).exit_code == 0
    document = json.loads(signed.read_bytes())
    place = document["transfers"][0] if field in {"amount", "to"} else document
    place[field] = "0:" + "52" * 32 if field == "to" else place[field] + 1
    signed.write_text(json.dumps(document))
    result = desk.run("wallet", "send", signed, "--yes", password=False)
    assert (result.exit_code, "BadRequestFileError" in result.stderr) == (1, True), result.stderr


def test_a_request_is_signed_by_its_own_wallet_only(desk: Desk, payer: Path) -> None:
    request = desk.path("request.json")
    assert send(desk, payer, "--offline", request, password=False).exit_code == 0
    other = desk.key_file("other.key", OWNER_KEY)
    result = desk.run("wallet", "sign", request, "--key", other, "--to", desk.path("signed"), "--yes", network=False)
    assert (result.exit_code, "it is for the wallet of" in result.stderr) == (1, True)
    assert not desk.path("signed").exists()


def test_an_unencrypted_key_is_used_on_a_test_network_with_a_warning_and_on_no_other(desk: Desk, payer: Path) -> None:
    plain = desk.path("plain.key")
    plain.write_text(CLIENT_KEY.private_bytes_raw().hex())
    plain.chmod(0o600)
    used = send(desk, plain, "--yes", password=False)
    assert (used.exit_code, "warning" in used.stderr) == (0, True), used.stderr
    request = desk.path("request.json")
    assert send(desk, plain, "--offline", request, to=RECEIVER.to_str(is_user_friendly=False)).exit_code == 0
    request.write_text(request.read_text().replace('"network_id": -777', '"network_id": -239'))
    result = desk.run("wallet", "sign", request, "--key", plain, "--to", desk.path("signed"), "--yes", network=False)
    assert (result.exit_code, "PlainKeyRefusedError" in result.stderr) == (1, True), result.stderr


def test_a_new_key_is_sealed_and_never_written_over(desk: Desk) -> None:
    file = desk.path("new.key")
    fields = desk.done("wallet", "new", file)
    found = read_key_file(file)
    assert isinstance(found, SealedKey) and fields["public_key"] == found.public_key.hex()
    assert fields["raw_address"].startswith("0:")
    content = file.read_bytes()
    again = desk.run("wallet", "new", file)
    assert (again.exit_code, "never overwritten" in again.stderr) == (1, True)
    assert file.read_bytes() == content


def test_a_key_comes_in_and_goes_out_the_same(desk: Desk) -> None:
    seed = desk.path("seed")
    seed.write_text("ab" * 32)
    seed.chmod(0o600)
    file, out = desk.path("in.key"), desk.path("out.hex")
    assert desk.run("wallet", "import", file, "--from", seed).exit_code == 0
    exported = desk.run("wallet", "export", file, "--to", out, "--yes", network=False)
    assert exported.exit_code == 0
    assert out.read_text().strip() == "ab" * 32
    assert out.stat().st_mode & 0o777 == 0o600
    assert "ab" * 32 not in exported.output


def test_a_password_is_changed_and_the_old_one_opens_nothing(desk: Desk) -> None:
    file = desk.key_file("payer.key", CLIENT_KEY)
    desk.path("next").write_text("another long password")
    desk.path("next").chmod(0o600)
    command = ("wallet", "rotate-password", file, "--new-password-file", desk.path("next"))
    assert desk.run(*command, network=False).exit_code == 0
    found = read_key_file(file)
    assert isinstance(found, SealedKey)
    assert open_key(found, b"another long password") == CLIENT_KEY.private_bytes_raw()
    content = file.read_bytes()
    refused = desk.run(*command, network=False)
    assert (refused.exit_code, "WrongPasswordError" in refused.stderr) == (1, True)
    assert file.read_bytes() == content


def test_without_a_terminal_and_a_password_file_the_command_says_so(desk: Desk, payer: Path) -> None:
    result = send(desk, payer, "--yes", password=False)
    assert (result.exit_code, "--password-file" in result.stderr) == (1, True)


def test_a_file_of_another_purpose_is_no_wallet(desk: Desk, payer: Path) -> None:
    ticket = desk.path("ticket.key")
    assert desk.done("wallet", "new", ticket, "--secret", network=False)["kind"] == "secret"
    result = send(desk, ticket, "--yes")
    assert (result.exit_code, "shared secret" in result.stderr) == (1, True)


def test_show_needs_no_password(desk: Desk, payer: Path) -> None:
    fields = desk.done("wallet", "show", payer, password=False)
    assert fields["public_key"] == public(CLIENT_KEY).hex()
    assert fields["raw_address"] == desk.net.wallet(CLIENT_KEY).address.to_str(is_user_friendly=False)
    assert PASSWORD not in json.dumps(fields)


def test_a_wallet_that_is_someone_elses_contract_is_refused(desk: Desk) -> None:
    stranger = desk.key_file("stranger.key", Ed25519PrivateKey.from_private_bytes(b"\x7a" * 32))
    result = send(desk, stranger, "--yes")  # never funded
    assert (result.exit_code, "BalanceTooLowError" in result.stderr) == (1, True)
