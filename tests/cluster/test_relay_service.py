"""The relay is started without Ray, where the settings say, and knows its hosts of before."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.config import NetworkConfig
from cluster.errors import ConfigError
from cluster.relay import RelayError
from cluster.relay_routes import ROUTES_FILE, read_routes, write_routes
from cluster.relay_service import open_relay
from tests.chrysalis.operator_files import write_operator

HOSTS = {bytes.fromhex("a1b2c3d4e5f60718"): "127.0.0.1:9000", bytes(8): "[::1]:9001"}


@pytest.mark.parametrize("hosts", [{}, HOSTS])
def test_a_list_of_hosts_is_read_as_it_was_written(tmp_path: Path, hosts: dict[bytes, str]) -> None:
    path = tmp_path / ROUTES_FILE
    write_routes(path, {bytes(8): "127.0.0.1:1"})
    write_routes(path, hosts)
    assert read_routes(path) == hosts
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in tmp_path.iterdir()] == [ROUTES_FILE]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="no-object"),
        pytest.param('{"a1b2c3d4e5f60718": "127.0', id="cut"),
        pytest.param('{"a1b2c3d4e5f60718": 1}', id="no-text"),
        pytest.param('{"a1": "127.0.0.1:1"}', id="short-id"),
        pytest.param('{"not hex": "127.0.0.1:1"}', id="no-id"),
        pytest.param('{"a1b2c3d4e5f60718": "127.0.0.1:0"}', id="no-port"),
        pytest.param('{"a1b2c3d4e5f60718": "127.0.0.1:1\\n0000000000000001 127.0.0.1|22"}', id="another-line"),
    ],
)
def test_a_list_that_cannot_be_read_is_none_and_a_warning(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ROUTES_FILE).write_text(text)
    assert read_routes(tmp_path / ROUTES_FILE) == {}
    assert "waits for the registry" in caplog.text


def test_without_a_list_there_is_no_host(tmp_path: Path) -> None:
    assert read_routes(tmp_path / ROUTES_FILE) == {}


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Path]:
    """An operator's settings; the relay of these is ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = write_operator(tmp_path, relay=f"127.0.0.1:{port}")
    yield path
    (tmp_path / "ticket.key").chmod(0o600)
    open_relay(NetworkConfig.load(path), patience_s=5).stop()


def start(settings: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "chrysalis", "cluster", "relay", str(settings)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_a_relay_that_lost_power_is_started_without_ray_and_knows_its_hosts(settings: Path) -> None:
    routes = settings.parent / "state" / ROUTES_FILE
    first = json.loads(start(settings).stdout)
    assert first["hosts"] == {}
    write_routes(routes, HOSTS)
    again = json.loads(start(settings).stdout)
    assert again == first, "the one that runs is taken over as it is"
    os.kill(first["pid"], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first["pid"])] if psutil.pid_exists(first["pid"]) else [], timeout=5)
    second = json.loads(start(settings).stdout)
    assert second["pid"] != first["pid"]
    assert (second["relay"], second["hosts"]) == (first["relay"], {id_.hex(): at for id_, at in HOSTS.items()})


def test_a_relay_whose_port_is_taken_or_whose_key_lies_open_says_so(settings: Path) -> None:
    config = NetworkConfig.load(settings)
    with socket.create_server(("127.0.0.1", int(config.relay.rpartition(":")[2]))):
        done = start(settings)
        assert (done.returncode, done.stdout) == (2, "")
        assert "choose another port" in done.stderr
        with pytest.raises(RelayError):
            open_relay(config, patience_s=0.1)
    (settings.parent / "ticket.key").chmod(0o644)
    with pytest.raises(ConfigError):
        open_relay(config)
