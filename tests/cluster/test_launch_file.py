"""`chrysalis cluster check`: our own cluster.yaml passes once it is filled in; each mistake has its line."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from chrysalis.cli import app
from cluster.certificates import write_certificates
from cluster.errors import ConfigError
from cluster.launch_file import LaunchFile, parse_settings

ROOT = Path(__file__).parents[2]
ADDRESSES = {"HEAD_ADDRESS": "10.0.0.1", "HOST_1_ADDRESS": "10.0.0.2", "HOST_2_ADDRESS": "10.0.0.3"}


def filled_in(folder: Path) -> Path:
    """A folder from which `ray up` may run."""
    text = (ROOT / "cluster.yaml").read_text()
    for placeholder, value in (*ADDRESSES.items(), ("~/.ssh/chrysalis", str(folder / "ssh_key"))):
        text = text.replace(placeholder, value)
    (folder / "cluster.yaml").write_text(text)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    (folder / "secret").mkdir(mode=0o700)
    for path, content in ((folder / "ssh_key", "key"), (folder / "secret" / "token", "ab" * 32)):
        path.write_text(content)
        path.chmod(0o600)
    write_certificates(folder / "tls", "chrysalis", list(ADDRESSES.values()), now=datetime.now(UTC))
    return folder / "cluster.yaml"


def problems(path: Path, *, now: datetime | None = None) -> list[str]:
    try:
        return list(LaunchFile.load(path).problems(now=now or datetime.now(UTC)))
    except ConfigError as error:
        return str(error).splitlines()


def change(path: Path, edit: Callable[[dict], object]) -> None:
    values = yaml.safe_load(path.read_text())
    edit(values)
    path.write_text(yaml.safe_dump(values))


def test_the_filled_in_file_passes(tmp_path: Path) -> None:
    path = filled_in(tmp_path)
    assert problems(path) == []
    done = CliRunner().invoke(app, ["cluster", "check", str(path)])
    assert (done.exit_code, "ray up -y" in done.stdout) == (0, True)


EXAMPLES = [ROOT / "cluster.yaml", *sorted((ROOT / "examples" / "cluster").glob("*.yaml"))]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in EXAMPLES])
def test_the_files_of_the_repository_are_refused_for_their_placeholders_and_nothing_else(path: Path) -> None:
    found = problems(path)
    assert len(found) >= 3
    assert [line for line in found if "write the real value in place of" not in line] == []
    done = CliRunner().invoke(app, ["cluster", "check", str(path)])
    assert done.exit_code == 1 and "in place of HEAD_ADDRESS" in done.stderr


FORM = [
    pytest.param(lambda v: v.update(docker={}), "the file has keys that are not known here: docker", id="unknown-key"),
    pytest.param(lambda v: v.pop("auth"), "the file lacks: auth", id="missing-key"),
    pytest.param(lambda v: v["provider"].update(type="aws"), "provider.type must be local", id="other-provider"),
    pytest.param(lambda v: v["provider"].update(region="x"), "provider has keys", id="unknown-provider-key"),
    pytest.param(lambda v: v["provider"].update(worker_ips=[]), "must list at least one host", id="no-hosts"),
    pytest.param(lambda v: v["provider"].pop("worker_ips"), "provider lacks: worker_ips", id="hosts-left-out"),
    pytest.param(lambda v: v["provider"].pop("head_ip"), "provider lacks: head_ip", id="head-left-out"),
    pytest.param(lambda v: v["provider"].update(head_ip="head.example"), "is not an IPv4 address", id="name-of-head"),
    pytest.param(lambda v: v["provider"].update(head_ip="127.0.0.1"), "is not an IPv4 address", id="loopback-head"),
    pytest.param(lambda v: v["provider"].update(head_ip="10.0.0.2"), "stands there twice", id="head-is-a-host"),
    pytest.param(lambda v: v.update(max_workers=1), "max_workers must be 2", id="fewer-workers"),
    pytest.param(lambda v: v.update(max_workers=True), "max_workers must be 2", id="boolean-workers"),
    pytest.param(lambda v: v.update(min_workers=1), "min_workers must be 2", id="min-workers"),
    pytest.param(lambda v: v.update(cluster_name="A b"), "cluster_name must be", id="name"),
    pytest.param(lambda v: v["auth"].update(ssh_user="<user>"), "auth.ssh_user: write the real", id="placeholder"),
    pytest.param(lambda v: v["auth"].update(ssh_user=7), "user and key must be text", id="user-not-text"),
    pytest.param(
        lambda v: v["file_mounts"].pop("/etc/chrysalis/secret"), "lacks /etc/chrysalis/secret", id="no-token-mount"
    ),
    pytest.param(
        lambda v: v["file_mounts"].update({"/etc/chrysalis/tls": "tls"}), "keys of all", id="everybody-gets-all-keys"
    ),
    pytest.param(lambda v: v.update(setup_commands=["ray stop -f"]), "setup_commands: `ray stop`", id="ray-stop"),
    pytest.param(
        lambda v: v["worker_start_ray_commands"].insert(0, "ray  stop"), "ends every Ray process", id="ray-stop-first"
    ),
    pytest.param(lambda v: v.update(setup_commands="ls"), "must be a list of shell commands", id="command-not-list"),
    pytest.param(
        lambda v: v.update(setup_commands=["RAY_AUTH_TOKEN=x ls"]), "must not stand in a command", id="token-in-argv"
    ),
    pytest.param(
        lambda v: v.update(worker_start_ray_commands=[v["worker_start_ray_commands"][0] + "; RAY_USE_TLS=0 ls"]),
        "token and TLS are set in",
        id="tls-switched-off",
    ),
    pytest.param(
        lambda v: v.update(worker_start_ray_commands=["ray start --node-ip-address=1 --address=1"]),
        "begin with `set -a",
        id="settings-not-read",
    ),
    pytest.param(
        lambda v: v.update(head_start_ray_commands=[v["head_start_ray_commands"][0].replace(" &&", ";")]),
        "turns on token and TLS, or ends",
        id="a-head-that-starts-without-settings",
    ),
    pytest.param(lambda v: v.update(head_start_ray_commands=[]), "`ray start` exactly once", id="head-not-started"),
    pytest.param(
        lambda v: v.update(worker_start_ray_commands=v["head_start_ray_commands"]), "--head belongs", id="two-heads"
    ),
    pytest.param(
        lambda v: v.update(
            head_start_ray_commands=[v["head_start_ray_commands"][0].replace("--node-ip-address", "--address")]
        ),
        "give --node-ip-address",
        id="address-left-to-ray",
    ),
]


@pytest.mark.parametrize(("edit", "said"), FORM)
def test_each_mistake_in_the_file_has_its_line(tmp_path: Path, edit: Callable[[dict], object], said: str) -> None:
    path = filled_in(tmp_path)
    change(path, edit)
    found = problems(path)
    assert len(found) == 1 and said in found[0], found


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


AROUND = [
    pytest.param(lambda f: (f / "ssh_key").unlink(), "ssh_key cannot be read", id="no-ssh-key"),
    pytest.param(lambda f: (f / "ssh_key").chmod(0o644), "chmod 600", id="open-ssh-key"),
    pytest.param(lambda f: (f / "secret/token").unlink(), "token cannot be read", id="no-token"),
    pytest.param(lambda f: (f / "secret/token").chmod(0o640), "chmod 600", id="open-token"),
    pytest.param(lambda f: (f / "secret/token").write_text("short"), "less than 32 characters", id="short-token"),
    pytest.param(lambda f: (f / "secret/ca.key").write_text("x"), "holds ca.key too", id="more-than-the-token"),
    pytest.param(lambda f: (f / "deploy/ray.env").unlink(), "every start command reads it", id="no-settings"),
    pytest.param(
        lambda f: rewrite(f / "deploy/ray.env", "RAY_USE_TLS=1", "RAY_USE_TLS=0"), "must say RAY_USE_TLS=1", id="no-tls"
    ),
    pytest.param(
        lambda f: rewrite(f / "deploy/ray.env", "RAY_AUTH_MODE=token", ""), "say RAY_AUTH_MODE=token", id="no-auth"
    ),
    pytest.param(
        lambda f: rewrite(f / "deploy/ray.env", "RAY_TMPDIR=/var/lib/chrysalis", "RAY_TMPDIR=/tmp/ray"),
        "a folder for RAY_TMPDIR that outlives a reboot",
        id="temporary-folder",
    ),
    pytest.param(
        lambda f: rewrite(f / "deploy/ray.env", "RAY_USE_TLS=1", 'RAY_USE_TLS="1"'), "without quotes", id="quotes"
    ),
    pytest.param(
        lambda f: rewrite(f / "deploy/ray.env", "RAY_USE_TLS=1", "RAY_USE_TLS=1\nRAY_AUTH_TOKEN=abc"),
        "holds the token itself",
        id="token-in-settings",
    ),
    pytest.param(lambda f: shutil.rmtree(f / "tls/10.0.0.3"), "10.0.0.3 has no certificate", id="no-certificate"),
]


@pytest.mark.parametrize(("edit", "said"), AROUND)
def test_each_mistake_beside_the_file_has_its_line(tmp_path: Path, edit: Callable[[Path], object], said: str) -> None:
    path = filled_in(tmp_path)
    edit(tmp_path)
    found = problems(path)
    assert len(found) == 1 and said in found[0], found


def test_certificates_that_ran_out_are_named_one_by_one(tmp_path: Path) -> None:
    found = problems(filled_in(tmp_path), now=datetime.now(UTC) + timedelta(days=31))
    assert len(found) == 3 and all("ended on" in line and "chrysalis cluster certs" in line for line in found)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "\x00", "a: 1\n", "provider: 7\nauth: []\nfile_mounts: x\n"])
def test_a_file_that_is_none_is_refused_in_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    assert problems(path)
    done = CliRunner().invoke(app, ["cluster", "check", str(path)])
    assert done.exit_code == 1 and "Traceback" not in done.output


def test_the_checker_believes_what_a_shell_would_read() -> None:
    settings = parse_settings((ROOT / "deploy" / "ray.env").read_text())
    assert settings["RAY_USE_TLS"] == "1" and settings["RAY_TLS_CA_CERT"] == "/etc/chrysalis/tls/ca.crt"


@given(st.text(max_size=60))
def test_settings_are_read_or_refused(text: str) -> None:
    try:
        settings = parse_settings(text)
    except ConfigError as error:
        assert "is not NAME=VALUE" in str(error)
    else:
        assert all(f"{name}={value}" in text for name, value in settings.items())


def test_certs_makes_what_check_wants(tmp_path: Path) -> None:
    path = filled_in(tmp_path)
    shutil.rmtree(tmp_path / "tls")
    (tmp_path / "secret" / "token").unlink()
    assert len(problems(path)) == 4
    done = CliRunner().invoke(app, ["cluster", "certs", str(path), "--no-install"])
    assert done.exit_code == 0, done.output
    assert problems(path) == []


@pytest.mark.parametrize("command", [["start", "x.yaml"], ["admit", "10.0.0.2:1", "--name", "x"], ["place", "00" * 32]])
def test_commands_of_the_head_ask_for_the_clusters_settings(command: list[str], monkeypatch) -> None:
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    done = CliRunner().invoke(app, ["cluster", *command])
    assert done.exit_code == 1 and "ray.env" in done.stderr
