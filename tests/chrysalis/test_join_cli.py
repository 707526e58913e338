"""`chrysalis join`: its exit codes, and that nothing is left when it cannot even begin."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chrysalis.cli import app
from enclave.control import bind_control

PIN = "ab" * 32


def join(folder: Path, *arguments: str):
    files = ["--folder", str(folder / "join"), "--labels", str(folder / "labels")]
    files += ["--resources", str(folder / "resources.json"), "--enclave-control", str(folder / "c.sock")]
    return CliRunner().invoke(app, ["join", *arguments, *files, "--json"])


@pytest.mark.parametrize(
    ("head", "pin", "words"),
    [
        ("head.example.org", PIN, "is not an address"),
        ("10.0.0.1", "ab", "ask the operator"),
        ("10.0.0.1:99999", PIN, "ports end at 65535"),
    ],
)
def test_a_head_or_pin_that_cannot_be_is_refused_before_anything_starts(tmp_path, head, pin, words) -> None:
    done = join(tmp_path, head, "--pin", pin)
    assert done.exit_code == 1 and words in done.stderr
    assert not (tmp_path / "join").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("labels", "tee=a b", "not a label"),
        ("labels", "tee", "not a label"),
        ("resources.json", "[1]", "object of numbers"),
        ("resources.json", '{"gpu": "1"}', "object of numbers"),
        ("resources.json", "{", "not JSON"),
    ],
)
def test_hints_that_ray_would_choke_on_are_refused_by_name(tmp_path, name, text, words) -> None:
    (tmp_path / name).write_text(text)
    done = join(tmp_path, "10.0.0.1", "--pin", PIN)
    assert done.exit_code == 1 and words in done.stderr


def test_without_an_enclave_there_is_no_answer_and_nothing_is_left(tmp_path) -> None:
    done = join(tmp_path, "127.0.0.1", "--pin", PIN)
    assert done.exit_code == 2
    assert json.loads(done.stdout.splitlines()[-1])["code"] == "EnclaveUnreachableError"
    assert sorted(path.name for path in (tmp_path / "join").iterdir()) == ["lock", "logs"]


def test_an_enclave_that_does_not_start_says_why(tmp_path) -> None:
    (tmp_path / "enclave.yaml").write_text("listen: nowhere\n")
    done = join(tmp_path, "127.0.0.1", "--pin", PIN, "--enclave", str(tmp_path / "enclave.yaml"))
    assert done.exit_code == 2 and "enclave.yaml lacks" in done.stderr


def test_a_socket_where_no_enclave_listens_is_no_answer(tmp_path) -> None:
    listening = bind_control(tmp_path / "c.sock")
    assert isinstance(listening, socket.socket)
    listening.close()
    assert join(tmp_path, "127.0.0.1", "--pin", PIN).exit_code == 2
