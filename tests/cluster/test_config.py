import base64
import socket
import stat
import tempfile
from pathlib import Path

import pytest
import yaml

from billing.journal_place import PostgresPlace
from billing.keys import KdfCost, seal_key
from cluster.config import NetworkConfig, read_secret
from cluster.errors import ConfigError
from cluster.ray_cluster import FOLDER_LENGTH_MAX, Ports, RayCluster

POLICY = {"roots": "production"}
SETTINGS = {
    "chain": {
        "host": "127.0.0.1",
        "port": 1234,
        "public_key": base64.b64encode(b"\x01" * 32).decode(),
        "network_id": -777,
    },
    "registry": "0:" + "ab" * 32,
    "policy": "policy.yaml",
    "state": "state",
    "operator_key": "operator.key",
    "treasury_key": "treasury.key",
    "ticket_key": "ticket.key",
    "relay": "127.0.0.1:8443",
}

SECOND = {"host": "192.0.2.7", "port": 1234, "public_key": base64.b64encode(b"\x02" * 32).decode()}


@pytest.fixture
def write(tmp_path):
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY))

    def write(values):
        path = tmp_path / "operator.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def test_settings_are_read_with_paths_relative_to_the_file(write, tmp_path) -> None:
    config = NetworkConfig.load(write(SETTINGS | {"settlement": {"threshold": 5}}))
    assert config.state == tmp_path / "state"
    assert config.chain.network_id == -777
    assert config.settlement.policy.threshold == 5
    assert (config.channels.accept, config.channels.threshold) == (True, 500_000_000)
    assert config.books == tmp_path / "state" / "books.sqlite"


def test_books_may_be_kept_in_postgresql(write, tmp_path) -> None:
    url = "postgresql://ledger@db.example/books"
    assert NetworkConfig.load(write(SETTINGS | {"books": url})).books == PostgresPlace(url=url)
    config = NetworkConfig.load(write(SETTINGS | {"books": url, "books_password": "books.password"}))
    assert config.books == PostgresPlace(url=url, password_file=tmp_path / "books.password")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"relay": None}, "relay", id="missing"),
        pytest.param({"operator_kye": "x"}, "operator_kye", id="misspelt"),
        pytest.param({"chain": {"host": "x"}}, "chain lacks", id="half-a-chain"),
        pytest.param({"relay": 7}, "relay must be text", id="wrong-kind"),
        pytest.param({"settlement": {"treshold": 1}}, "treshold", id="misspelt-settlement"),
        pytest.param({"settlement": {"threshold": -1}}, "threshold", id="negative-threshold"),
        pytest.param({"settlement": {"period_s": 0}}, "period_s", id="settled-all-the-time"),
        pytest.param({"books": "postgresql://ledger:hunter2@db/books"}, "holds a password", id="password-in-it"),
        pytest.param({"books": "sqlite:///books"}, "postgresql://", id="books-nowhere"),
        pytest.param({"books": 7}, "books must be", id="books-of-another-kind"),
        pytest.param({"books_password": "x"}, "name the database", id="password-for-nothing"),
        pytest.param({"channels": {"treshold": 1}}, "treshold", id="misspelt-channels"),
        pytest.param({"channels": {"threshold": 9_999_999}}, "threshold must be at least", id="redeemed-at-a-loss"),
        pytest.param({"channels": {"accept": "yes"}}, "accept must be true or false", id="perhaps-accepted"),
        pytest.param({"channels": {"delay_min_s": -1}}, "delay_min_s", id="negative-delay"),
        pytest.param({"channels": {"max_age_s": 1.5}}, "max_age_s", id="fraction-of-a-second"),
        pytest.param({"policy": "nowhere.yaml"}, "cannot read", id="no-policy"),
    ],
)
def test_a_wrong_setting_is_named(write, values, said) -> None:
    settings = {name: value for name, value in (SETTINGS | values).items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        NetworkConfig.load(write(settings))


@pytest.mark.parametrize("network_id", [-239, -3, 0])
def test_simulated_hosts_cannot_earn_on_a_real_network(write, tmp_path, network_id) -> None:
    simulated = {"roots": "none", "unsafe_simulated_roots": {"intel": ["ab" * 32]}}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(simulated))
    assert NetworkConfig.load(write(SETTINGS)).policy.unsafe_simulated_roots is not None
    with pytest.raises(ConfigError, match="simulated"):
        NetworkConfig.load(
            write(SETTINGS | {"chain": SETTINGS["chain"] | {"network_id": network_id, "second": SECOND}})
        )


@pytest.mark.parametrize("network_id", [-239, -3])
def test_a_public_network_needs_a_second_lite_server(write, network_id) -> None:
    chain = SETTINGS["chain"] | {"network_id": network_id, "trust_level": 1}
    with pytest.raises(ConfigError, match=f"chain.second is needed on network {network_id}"):
        NetworkConfig.load(write(SETTINGS | {"chain": chain}))
    config = NetworkConfig.load(write(SETTINGS | {"chain": chain | {"second": SECOND}}))
    assert config.chain.second is not None and config.chain.second.host == "192.0.2.7"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        pytest.param({"host": "192.0.2.7"}, "chain.second lacks", id="half"),
        pytest.param(SECOND | {"network_id": -777}, "chain.second has keys", id="its-own-network"),
        pytest.param(SECOND | {"public_key": SETTINGS["chain"]["public_key"]}, "same lite-server", id="itself"),
        pytest.param(SECOND | {"public_key": "AA=="}, "32 bytes", id="no-key"),
        pytest.param(SECOND | {"port": 0}, "port", id="no-port"),
        pytest.param("192.0.2.7", "chain.second must hold", id="text"),
    ],
)
def test_a_second_lite_server_that_cannot_be_is_refused(write, second, said) -> None:
    with pytest.raises(ConfigError, match=said):
        NetworkConfig.load(write(SETTINGS | {"chain": SETTINGS["chain"] | {"second": second}}))


def test_a_secret_that_others_may_read_is_refused_with_the_cure(tmp_path) -> None:
    path = tmp_path / "key"
    path.write_text("ab" * 32)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == b"\xab" * 32


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 33])
def test_a_damaged_secret_is_refused_without_showing_it(tmp_path, text) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as refusal:
        read_secret(path)
    assert not text or text not in str(refusal.value)


def test_every_optional_setting_is_read(write) -> None:
    config = NetworkConfig.load(
        write(
            SETTINGS
            | {"expose_relay": True, "models": {"demo": {"gpus": 2}}, "channels": {"accept": False}}
            | {"relay_limits": {"requests_per_account": 7}}
        )
    )
    assert (config.expose_relay, config.models["demo"].gpus, config.channels.accept) == (True, 2, False)
    assert (config.relay_limits.requests_per_account, config.relay_limits.connections) == (7, 2000)


@pytest.mark.parametrize("limits", [{"requests_per_account": 0}, {"connections": "many"}, {"threads": 4}, [6000]])
def test_limits_of_the_relay_that_cannot_be_are_refused(write, limits) -> None:
    with pytest.raises(ConfigError, match="relay_limits"):
        NetworkConfig.load(write(SETTINGS | {"relay_limits": limits}))


@pytest.mark.parametrize(("network_id", "allowed"), [(-777, True), (-3, True), (-239, False), (0, False)])
def test_an_unencrypted_key_is_for_test_networks_only(write, tmp_path, network_id, allowed) -> None:
    (tmp_path / "policy.yaml").write_text("roots: production\n")
    (tmp_path / "operator.key").write_text("ab" * 32)
    (tmp_path / "operator.key").chmod(0o600)
    chain = SETTINGS["chain"] | {"network_id": network_id, "trust_level": 1, "second": SECOND}
    config = NetworkConfig.load(write(SETTINGS | {"chain": chain}))
    if allowed:
        assert read_secret(config.operator_key) == b"\xab" * 32
    else:
        with pytest.raises(ConfigError, match="rotate-password"):
            read_secret(config.operator_key)


def test_a_sealed_key_is_opened_by_the_password_file_beside_it(write, tmp_path) -> None:
    cost = KdfCost(memory_kib=19_456, iterations=2, lanes=1)
    for name, data in (
        ("operator.key", seal_key(b"\xab" * 32, b"long enough", cost=cost).encode()),
        ("pw", b"long enough"),
    ):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    config = NetworkConfig.load(write(SETTINGS | {"operator_key": {"file": "operator.key", "password_file": "pw"}}))
    assert read_secret(config.operator_key) == b"\xab" * 32
    (tmp_path / "pw").write_bytes(b"another one")
    with pytest.raises(ConfigError, match="does not open"):
        read_secret(config.operator_key)


@pytest.mark.parametrize("base", [80, 10002, 16379, 19999, 32000, 65000])
def test_a_base_port_that_ray_or_the_kernel_would_use_is_refused(base) -> None:
    with pytest.raises(ConfigError, match="base port"):
        Ports(base=base)


def test_no_two_nodes_share_a_port() -> None:
    ports = Ports(base=21000)
    blocks = [set(ports.node(index)) for index in range(20)]
    assert len(set().union(*blocks)) == sum(map(len, blocks))
    assert not set(range(21000, 21100)) & set().union(*blocks)


def test_a_cluster_has_its_own_private_token() -> None:
    with tempfile.TemporaryDirectory(prefix="chr-", dir="/tmp") as name:
        cluster = RayCluster.create(Path(name), base_port=21000)
        assert stat.S_IMODE(cluster.token_file.stat().st_mode) == 0o600
        assert cluster.driver_env()["RAY_AUTH_MODE"] == "token"
        assert cluster.node_env()["RAY_AUTH_TOKEN_PATH"] == str(cluster.token_file)


def test_a_folder_too_deep_for_sockets_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        RayCluster.create(tmp_path / ("x" * FOLDER_LENGTH_MAX), base_port=21000)


def test_a_taken_port_is_named_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ports = Ports(base=21000)
        object.__setattr__(ports, "base", port)  # a free port is above the range that a base may have
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            ports.check_free()


def test_joining_is_off_unless_it_is_asked_for(write, tmp_path) -> None:
    assert NetworkConfig.load(write(SETTINGS)).joining is None
    joining = NetworkConfig.load(write(SETTINGS | {"joining": {"listen": "10.0.0.1:8444"}})).joining
    assert (str(joining.listen), joining.authority, joining.life.total_seconds()) == (
        "10.0.0.1:8444",
        Path("/etc/chrysalis/joining"),
        12 * 3600,
    )


@pytest.mark.parametrize(
    "joining",
    [
        {},
        [],
        {"listen": "head:8444"},
        {"listen": "0.0.0.0:8444"},
        {"listen": "10.0.0.1:8444", "hours": 0},
        {"listen": "10.0.0.1:8444", "hours": 720},
        {"listen": "10.0.0.1:8444", "hour": 1},
        {"listen": 8444},
    ],
)
def test_a_wrong_setting_for_joining_is_refused_by_name(write, joining) -> None:
    with pytest.raises(ConfigError, match=r"joining|is not an address"):
        NetworkConfig.load(write(SETTINGS | {"joining": joining}))
