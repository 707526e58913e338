"""`chrysalis log`: from an empty folder to a proof somebody else verifies."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from attestation.errors import PolicyError
from attestation.snp_policy import SnpTcb
from attestation.transparency.entries import AmdFloor
from attestation.transparency.entries_file import parse_entries_file
from attestation.transparency.store import CHECKPOINT, ENTRIES
from billing.key_files import read_key_file
from billing.keys import SealedKey
from chrysalis.cli import app
from tests.attestation.transparency.logs import NOW

IMAGE, RIM, MODEL = ("11" * 32, "22" * 32, "33" * 32)
ENTRIES_FILE = f"""\
- {{allow: measurement, value: "{IMAGE}", label: enclave 0.1.0}}
- {{allow: rim, value: "{RIM}", label: driver 550.90.07}}
- {{allow: model, value: "{MODEL}", label: translator}}
- {{deny: platform, value: "{IMAGE}", reason: leaked key}}
- {{floor: intel, evaluation: 17}}
- {{floor: turin, bootloader: 1, tee: 0, snp: 2, microcode: 3, fmc: 4}}
- {{release: enclave 0.1.0, digest: "{IMAGE}", source: "https://example.org/v0.1.0"}}
- {{revoke: 2, reason: too small}}
"""
POLICY = 'reference: {{measurements: ["{}"], rims: ["{}"], models: [{}]}}\nroots: production\n'


class Shell:
    """A folder with a log made by the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        begun = self.run("init", "log", "--key", "log.key", "--origin", "example.org/log", "--unencrypted", "--json")
        self.key = json.loads(begun.stdout)["log_key"]
        self.write("entries.yaml", ENTRIES_FILE)
        self.appended = self.run("append", "log", "--key", "log.key", "--entries", "entries.yaml", "--json")

    def run(self, *arguments: str) -> Result:
        names = {"log", "log.key", "entries.yaml", "policy.yaml", "proof.json", "old"}
        return CliRunner().invoke(app, ["log", *(str(self.folder / a) if a in names else a for a in arguments)])

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def verify(self, *arguments: str) -> Result:
        return self.run("verify", "--log-key", self.key, *arguments)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_log_is_written_with_a_sealed_key_and_its_password_only(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse battery\n")
    password.chmod(0o600)
    key, log, entries = tmp_path / "log.key", tmp_path / "log", tmp_path / "entries.yaml"
    entries.write_text(ENTRIES_FILE)

    def run(*words: object) -> Result:
        return CliRunner().invoke(app, ["log", *map(str, words)])

    nobody = run("init", log, "--key", key, "--origin", "example.org/log")
    assert (nobody.exit_code, "PasswordNeededError" in nobody.stderr, key.exists()) == (2, True, False)
    begun = run("init", log, "--key", key, "--origin", "example.org/log", "--password-file", password, "--json")
    assert begun.exit_code == 0, begun.output
    assert isinstance(read_key_file(key), SealedKey)
    assert run("append", log, "--key", key, "--entries", entries).exit_code == 2
    assert run("append", log, "--key", key, "--entries", entries, "--password-file", password).exit_code == 0
    assert json.loads(run("checkpoint", log, "--key", key, "--password-file", password, "--json").stdout)["size"] == 8
    assert run("verify", "--log-key", json.loads(begun.stdout)["log_key"], "--log", log).exit_code == 0


def test_a_log_is_begun_appended_to_and_verified(shell: Shell) -> None:
    assert stat.S_IMODE((shell.folder / "log.key").stat().st_mode) == 0o600
    assert json.loads(shell.appended.stdout)["size"] == 8
    held = shell.verify("--log", "log", "--json")
    document = json.loads(held.stdout)
    assert (held.exit_code, document["outcome"], document["size"]) == (0, "held", 8)
    assert document["entries"][0] == f"allow measurement {IMAGE} (enclave 0.1.0)"
    assert "entries: revoke entry 2 (too small)" in shell.verify("--log", "log").stdout


@pytest.mark.parametrize(("models", "code"), [("", 0), (f'"{MODEL}"', 1)])
def test_a_policy_is_in_the_log_or_refused(shell: Shell, models: str, code: int) -> None:
    shell.write("policy.yaml", POLICY.format(IMAGE, RIM, models))
    result = shell.verify("--log", "log", "--policy", "policy.yaml")
    assert result.exit_code == code
    assert ("NotInLogError" in result.stderr) == bool(code)


def test_a_proof_of_an_entry_is_verified_without_the_log(shell: Shell) -> None:
    proof = shell.run("prove", "log", "--index", "5").stdout
    shell.write("proof.json", proof)
    held = shell.verify("--proof", "proof.json")
    assert held.exit_code == 0
    assert "AMD turin firmware at least bootloader 1 tee 0 snp 2 microcode 3 fmc 4" in held.stdout
    document = json.loads(proof)
    for change in ({"index": 4}, {"path": document["path"][::-1]}, {"entry": document["entry"].replace("04", "05")}):
        shell.write("proof.json", json.dumps(document | change))
        refused = shell.verify("--proof", "proof.json")
        assert (refused.exit_code, "refused" in refused.stderr) == (1, True)


def test_a_proof_of_growth_is_verified(shell: Shell) -> None:
    (shell.folder / "old").write_bytes((shell.folder / "log" / CHECKPOINT).read_bytes())
    shell.write("entries.yaml", "[{floor: intel, evaluation: 18}]")
    shell.run("append", "log", "--key", "log.key", "--entries", "entries.yaml")
    shell.write("proof.json", shell.run("prove", "log", "--since", "old").stdout)
    held = shell.verify("--proof", "proof.json")
    assert (held.exit_code, "only grew" in held.stdout) == (0, True)
    document = json.loads((shell.folder / "proof.json").read_text())
    shell.write("proof.json", json.dumps(document | {"path": document["path"][1:]}))
    assert shell.verify("--proof", "proof.json").exit_code == 1


def test_a_log_that_was_rewritten_is_refused_by_those_who_saw_it(shell: Shell) -> None:
    state = str(shell.folder / "state")
    assert shell.verify("--log", "log", "--state", state).exit_code == 0
    for name in (CHECKPOINT, ENTRIES, "lock"):
        (shell.folder / "log" / name).unlink()
    (shell.folder / "log").rmdir()
    shell.run("init", "log", "--key", "log.key", "--origin", "example.org/log", "--unencrypted")
    shell.write("entries.yaml", ENTRIES_FILE.replace(IMAGE, RIM))
    shell.run("append", "log", "--key", "log.key", "--entries", "entries.yaml")
    result = shell.verify("--log", "log", "--state", state)
    assert (result.exit_code, "LogSplitViewError" in result.stderr) == (1, True)


def test_a_checkpoint_is_renewed(shell: Shell) -> None:
    before = (shell.folder / "log" / CHECKPOINT).read_bytes().splitlines()[:3]
    assert shell.run("checkpoint", "log", "--key", "log.key").exit_code == 0
    assert (shell.folder / "log" / CHECKPOINT).read_bytes().splitlines()[:3] == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("init", "log", "--key", "log.key", "--origin", "example.org/log"), "cannot begin"),
        (("append", "log", "--key", "log.key", "--entries", "policy.yaml"), "No such file"),
        (("checkpoint", "old", "--key", "log.key"), "no log can be opened"),
        (("prove", "log", "--index", "8"), "leaf 8 of 8"),
        (("verify", "--log-key", "name+id+key", "--log", "log"), "no key"),
    ],
)
def test_what_cannot_be_done_is_told_with_exit_code_2(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    result = shell.run(*arguments)
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_a_key_that_others_can_read_is_not_used(shell: Shell) -> None:
    (shell.folder / "log.key").chmod(0o644)
    result = shell.run("checkpoint", "log", "--key", "log.key")
    assert (result.exit_code, "chmod 600" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "allow: measurement",
        "[]",
        "[1]",
        "[{allow: measurement, value: abc, label: x}]",
        f'[{{allow: platform, value: "{IMAGE}", label: x}}]',
        f'[{{allow: wish, value: "{IMAGE}", label: x}}]',
        f'[{{allow: rim, value: "{IMAGE}", label: x, more: 1}}]',
        "[{floor: milan, bootloader: 1, tee: 0, snp: 2}]",
        "[{floor: milan, bootloader: 1, tee: 0, snp: yes, microcode: 1}]",
        "[{floor: milan, bootloader: 1, tee: 0, snp: 2, microcode: 3, colour: 4}]",
        "[{floor: intel, evaluation: true}]",
        "[{revoke: -1, reason: x}]",
        "[{revoke: 1, revoke: 2, reason: x}]",
    ],
)
def test_a_file_of_entries_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_entries_file(text, now=NOW)


def test_a_floor_without_fmc_is_for_products_that_have_none() -> None:
    (entry,) = parse_entries_file("[{floor: milan, bootloader: 1, tee: 0, snp: 2, microcode: 3}]", now=NOW)
    tcb = SnpTcb(bootloader=1, tee=0, snp=2, microcode=3)
    assert entry == AmdFloor(at=int(NOW.timestamp()), product="milan", tcb=tcb)
