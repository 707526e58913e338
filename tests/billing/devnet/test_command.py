"""`chrysalis devnet`: one network in a process of its own, driven by the command's other parts."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import FaultKind
from chrysalis.cli import app
from tests.billing.devnet.support import PAYEE

ROOT = Path(__file__).parents[3]


class Shell:
    """A running devnet, what it said when it was ready, and the command to drive it with."""

    def __init__(self, state: Path, ready: dict[str, Any]) -> None:
        self.state = state
        self.ready = ready

    def run(self, *arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["devnet", *arguments, "--state", str(self.state)], env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result.output

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    state = tmp_path_factory.mktemp("command") / "net"
    command = [sys.executable, "-m", "chrysalis", "devnet", "run", "--state", str(state), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Shell(state, json.loads(process.stdout.readline()))
        process.terminate()
        assert process.wait(20) == 0


def test_what_it_prints_is_all_a_client_needs(shell: Shell) -> None:
    fields = ("host", "port", "public_key", "network_id", "init_block")
    config = ChainConfig(**{name: shell.ready[name] for name in fields})
    assert config.trusted_block is not None
    assert ChainClient(config).config.network_id == -777


def test_only_the_owner_may_read_the_folder_or_open_the_socket(shell: Shell) -> None:
    assert stat.S_IMODE(shell.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(shell.ready["admin"]).stat().st_mode) == 0o600


def test_the_faucet_mints_exact_amounts(shell: Shell) -> None:
    minted = shell.json("faucet", PAYEE, "1.000000001")
    assert minted["nanotons"] == 1_000_000_001
    assert shell.json("status")["seqno"] >= minted["block"]
    assert f"0.500000000 TON to {PAYEE}" in shell.run("faucet", PAYEE, "0.5")


def test_the_clock_moves_stands_still_and_runs_on(shell: Shell) -> None:
    started = shell.json("clock")["now"]
    assert shell.json("clock", "advance", "3600")["now"] >= started + 3600
    frozen = shell.json("clock", "freeze")["now"]
    assert shell.json("clock")["now"] == frozen
    assert shell.json("status")["frozen"] is True
    assert shell.json("clock", "set", str(frozen + 100))["now"] == frozen + 100
    tomorrow = datetime.fromtimestamp(frozen + 86_400, UTC).isoformat()
    assert shell.json("clock", "set", tomorrow) == {"now": frozen + 86_400, "time": tomorrow}
    assert 0 <= shell.json("clock", "thaw")["now"] - frozen - 86_400 <= 10
    assert shell.json("status")["frozen"] is False


def test_faults_are_listed_injected_counted_and_cleared(shell: Shell) -> None:
    assert set(shell.json("fault", "list")) == set(FaultKind)
    assert shell.json("fault", "delay", "--count", "3", "--delay", "1.5") == {"delay": 3}
    assert shell.json("fault", "old-block") == {"delay": 3, "old-block": 1}
    assert "3 delay, 1 old-block" in shell.run("status")
    assert "none" in shell.run("fault", "clear")


def test_a_new_validator_begins_with_a_key_block(shell: Shell) -> None:
    before = shell.json("status")["key_blocks"]
    made = shell.json("rotate")["key_block"]
    assert shell.json("status")["key_blocks"] == [*before, made]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(["faucet", "nobody", "1"], "is not a TON address", id="no-address"),
        pytest.param(["faucet", PAYEE, "1.0000000001"], "not an amount of TON", id="less-than-a-nanoton"),
        pytest.param(["faucet", PAYEE, "0"], "amount above 0", id="nothing"),
        pytest.param(["clock", "set", "1"], "a chain's time never goes back", id="back-in-time"),
        pytest.param(["clock", "advance"], "write `clock advance SECONDS`", id="advance-by-nothing"),
        pytest.param(["clock", "freeze", "5"], "take no value", id="freeze-with-value"),
        pytest.param(["clock", "set", "2050-01-01T00:00:00"], "has no time zone", id="time-without-zone"),
        pytest.param(["fault", "melt"], "give clear, list, or one of drop, delay", id="no-such-fault"),
        pytest.param(["fault", "drop", "--delay", "1"], "drop takes no delay", id="drop-with-delay"),
        pytest.param(["fault", "drop", "--count", "20000"], "20000 faults", id="too-many-faults"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(shell: Shell, arguments: list[str], why: str) -> None:
    refusal = shell.run(*arguments, code=1)
    assert why in refusal
    assert refusal.count("\n") == 1
    answer = json.loads(shell.run(*arguments, "--json", code=1).splitlines()[0])
    assert why in answer["message"]


def test_a_devnet_that_does_not_run_is_named(tmp_path: Path) -> None:
    nowhere = Shell(tmp_path, {})
    for command in (["status"], ["clock"], ["rotate"], ["faucet", PAYEE, "1"], ["fault", "drop"]):
        assert "start it (chrysalis devnet run), or give its --state folder" in nowhere.run(*command, code=2)


def test_a_second_devnet_on_the_folder_is_refused(shell: Shell) -> None:
    assert "is used by another devnet" in shell.run("run", code=2)
