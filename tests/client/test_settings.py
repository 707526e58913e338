"""Settings, wallet and errors of the client."""

import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from attestation.verdict import Tier
from billing.key_files import KeySource
from billing.money import Nanotons
from client import errors
from client.config import ChannelSettings, load_config
from client.errors import ClientError, ConfigError, WalletError
from client.running import bind
from client.verify import load_policy
from client.wallet import Wallet

GOOD: dict[str, Any] = {
    "wallet": "wallet.key",
    "state": "state",
    "policy": "policy.yaml",
    "registry": {
        "address": "0:" + "00" * 32,
        "lite_server": {"host": "127.0.0.1", "port": 4443, "public_key": "a" * 43 + "=", "network_id": -777},
    },
}


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "client.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (GOOD | changes).items() if v is not None}))
    return path


def test_settings_are_read_with_safe_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, price_cap=5, listen="127.0.0.1:8080"))
    assert config.wallet.file == tmp_path / "wallet.key"
    assert (config.price_cap, config.listen, config.hosts, config.direct) == (5, ("127.0.0.1", 8080), 3, False)
    assert load_config(write(tmp_path, listen="[::1]:0")).listen == ("::1", 0)


def test_a_client_pays_from_its_channel_when_the_settings_say_so(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, payment="channel", channel={"deposit": 5, "nonce": 7}))
    assert config.channel == ChannelSettings(deposit=Nanotons(5), nonce=7)
    assert load_config(write(tmp_path)).channel is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wallet": None}, "wallet"),
        ({"registry": None}, "registry"),
        ({"registry": {"address": "x"}}, "registry"),
        ({"colour": "red"}, "unknown settings: colour"),
        ({"listen": "0.0.0.0:80"}, "loopback"),
        ({"listen": "here"}, "host:port"),
        ({"listen": "127.0.0.1:99999"}, "host:port"),
        ({"budget": -1}, "budget"),
        ({"price_cap": 1.5}, "price_cap"),
        ({"hosts": 4}, "hosts"),
        ({"body_max": 1 << 20}, "body_max"),
        ({"direct": "yes"}, "direct"),
        ({"tls": True}, "tls needs direct"),
        ({"payment": "cash"}, "payment must be one of treasury, channel"),
        ({"payment": "channel"}, "need each other"),
        ({"channel": {"deposit": 5}}, "need each other"),
        ({"payment": "channel", "channel": {"deposit": -1}}, r"channel\.deposit"),
        ({"payment": "channel", "channel": {"deposit": 1.5}}, r"channel\.deposit"),
        ({"payment": "channel", "channel": {"advance": 1 << 63}}, r"channel\.advance"),
        ({"payment": "channel", "channel": {"delay_s": 60}}, r"channel\.delay_s"),
        ({"payment": "channel", "channel": {"nonce": 1 << 64}}, r"channel\.nonce"),
        ({"payment": "channel", "channel": {"colour": "red"}}, "channel may hold"),
        ({"payment": "channel", "channel": {"leases_max": 0}}, r"channel\.leases_max"),
        ({"payment": "channel", "channel": 7}, "channel may hold"),
        ({"gateway": 7}, "gateway"),
        ({"read_timeout_s": 0}, "read_timeout_s"),
        ({"registry_age_max_s": 1}, "registry_age_max_s"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[", "- 1", "\x00"])
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "client.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "client.yaml")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "missing.yaml")


def test_a_policy_needs_no_reference_values_and_may_name_none() -> None:
    assert load_policy("required_tier: confidential\n", network_id=-777).required_tier is Tier.CONFIDENTIAL
    for text in ("reference: {measurements: [], models: []}", "colour: red", "required_tier: open", "{"):
        with pytest.raises(ConfigError):
            load_policy(text, network_id=-777)


def test_simulated_vendors_are_believed_on_the_devnet_only() -> None:
    text = f"roots: none\nunsafe_simulated_roots: {{intel: ['{'11' * 32}']}}\n"
    assert load_policy(text, network_id=-777).unsafe_simulated_roots is not None
    for network_id in (-239, -3):
        with pytest.raises(ConfigError, match="simulated vendors"):
            load_policy(text, network_id=network_id)


def test_a_wallet_is_made_once_and_read_again(tmp_path: Path) -> None:
    wallet = Wallet.open_or_create(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert Wallet.open_or_create(tmp_path / "key").account == wallet.account
    with pytest.raises(WalletError, match="never overwritten"):
        Wallet.create(tmp_path / "key")


def test_a_wallet_is_sealed_from_the_start_where_a_password_is_named_and_never_plain_on_the_mainnet(
    tmp_path: Path,
) -> None:
    password = tmp_path / "password"
    password.write_text("long enough\n")
    password.chmod(0o600)
    source = KeySource(file=tmp_path / "key", password_file=password, plain_allowed=False)
    wallet = Wallet.open_or_create(source)
    assert wallet.key.private_bytes_raw().hex() not in source.file.read_text()
    assert Wallet.open_or_create(source).account == wallet.account
    with pytest.raises(WalletError, match="chrysalis wallet new"):
        Wallet.open_or_create(KeySource(file=tmp_path / "plain", plain_allowed=False))
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize(("text", "mode", "words"), [("00" * 32, 0o644, "chmod 600"), ("short", 0o600, "64 hex")])
def test_a_wallet_that_others_can_read_or_that_is_none_is_refused(
    tmp_path: Path, text: str, mode: int, words: str
) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(WalletError, match=words):
        Wallet.open(tmp_path / "key")


def test_a_port_that_is_taken_is_said_in_a_sentence() -> None:
    with bind(("127.0.0.1", 0)) as first:
        first.listen()
        with pytest.raises(ConfigError, match="choose another port"):
            bind(("127.0.0.1", first.getsockname()[1]))


def test_the_command_says_what_to_change_and_exits_with_2(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "client", "--config", str(write(tmp_path, listen="0.0.0.0:1"))],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert "loopback" in run.stderr
    assert "Traceback" not in run.stderr


CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClientError)]


def make(kind: type[ClientError]) -> ClientError:
    values = {"status": 404, "known": ("a",), "reasons": {"host": "why"}, "param": None}
    return kind(*(values.get(name, f"<{name}>") for name in list(inspect.signature(kind.__init__).parameters)[1:]))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_crosses_a_process_boundary(kind: type[ClientError]) -> None:
    error = make(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.status, copy.code, copy.should_retry) == (
        str(error),
        error.status,
        error.code,
        error.should_retry,
    )
    assert kind.__name__ in (errors.__doc__ or "")
