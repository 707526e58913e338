"""`chrysalis registry` against a devnet in a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytoniq_core import Address
from typer.testing import CliRunner, Result

from billing.money import Nanotons
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import DevnetAdmin
from billing.ton.registry import registry_address, registry_init
from billing.ton.wallet import Transfer, pay
from chrysalis.cli import app
from tests.billing.ton.world import CLIENT_KEY, OWNER_KEY, TON, wallet_of
from tests.contracts.harness import OPERATOR, OPERATOR_ID

RIM = "ab" * 32


@dataclass(frozen=True, kw_only=True)
class Governance:
    """A deployed registry, its network file, and the keys of its owner and of somebody else."""

    registry: Address
    network: Path
    owner: Path
    stranger: Path

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(app, ["registry", *map(str, arguments), "--network", str(self.network)])

    def order(self, *arguments: object, key: Path | None = None) -> Result:
        return self.run(*arguments, "--key", key or self.owner, "--yes")

    def show(self) -> dict[str, Any]:
        shown = self.run("show", "--json")
        assert shown.exit_code == 0, shown.output
        document: dict[str, Any] = json.loads(shown.stdout)
        return document


def write_key(path: Path, seed: bytes) -> Path:
    path.write_text(seed.hex() + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def governance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governance]:
    folder = tmp_path_factory.mktemp("governance")
    argv = [sys.executable, "-m", "billing.ton.devnet", "--state", str(folder / "net"), "--parent-death"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            admin = DevnetAdmin(ready.pop("admin"))
            config = ChainConfig(**ready)
            address = asyncio.run(deploy(config, admin))
            chain = {name: getattr(config, name) for name in ("host", "port", "public_key", "network_id")}
            network = folder / "network.yaml"
            network.write_text(yaml.safe_dump({"chain": chain, "registry": address.to_str(is_user_friendly=False)}))
            yield Governance(
                registry=address,
                network=network,
                owner=write_key(folder / "owner.key", OWNER_KEY.private_bytes_raw()),
                stranger=write_key(folder / "stranger.key", CLIENT_KEY.private_bytes_raw()),
            )
        finally:
            process.terminate()


async def deploy(config: ChainConfig, admin: DevnetAdmin) -> Address:
    owner = wallet_of(OWNER_KEY)
    for key in (OWNER_KEY, CLIENT_KEY):
        await admin.faucet(wallet_of(key).address.to_str(is_user_friendly=False), 100 * TON)
    init = registry_init(network_id=config.network_id, owner=owner.address, operators={OPERATOR_ID: OPERATOR})
    address = registry_address(init)
    async with await ChainClient.connect(config) as chain:
        opening = Transfer(destination=address, amount=Nanotons(TON // 5), state_init=init, bounce=False)
        await pay(chain, owner, OWNER_KEY, [opening], now=datetime.now(UTC))
        await chain.wait_for(address, lambda state: state.data is not None)
    return address


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    path = tmp_path / "changes.yaml"
    path.write_text(yaml.safe_dump({"rims": {RIM: True}, "operators": {OPERATOR_ID: {"fee_permille": 40}}}))
    return path


def test_a_file_is_proposed_then_set_and_then_changes_nothing(governance: Governance, changes: Path) -> None:
    seqno = governance.show()["changes"]
    proposed = governance.run("propose", changes)
    assert proposed.exit_code == 0
    assert f"+ rim {RIM}: allowed" in proposed.stdout
    assert f"~ operator {OPERATOR_ID}: fee_permille 50 -> fee_permille 40" in proposed.stdout
    assert governance.show()["changes"] == seqno  # nothing was sent

    done = governance.order("set", changes, "--json")
    assert done.exit_code == 0, done.output
    assert f"rim {RIM}" in done.stderr  # shown before it is sent
    state = governance.show()
    assert (state["changes"], state["rims"]) == (seqno + 2, [RIM])
    assert state["operators"][str(OPERATOR_ID)]["fee_permille"] == 40
    assert governance.run("propose", changes).stdout.strip() == "nothing changes"
    assert governance.order("set", changes).exit_code == 1


def test_a_policy_file_and_a_status_are_set(governance: Governance, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("roots: production\n")
    assert governance.order("set-policy", policy).exit_code == 0
    assert governance.show()["policy"] == sha256(policy.read_bytes()).hexdigest()
    for status in ("suspended", "active"):
        assert governance.order("set-status", OPERATOR_ID, status).exit_code == 0
        shown = governance.run("show", "--operator", OPERATOR_ID, "--json")
        assert json.loads(shown.stdout)["status"] == status


def test_a_hand_over_is_proposed_shown_and_taken_back(governance: Governance) -> None:
    heir = wallet_of(CLIENT_KEY).address.to_str(is_user_friendly=False)
    assert governance.order("hand-over", "propose", "--new-owner", heir).exit_code == 0
    assert governance.show()["next_owner"] == heir
    assert governance.order("hand-over", "cancel").exit_code == 0
    assert governance.show()["next_owner"] is None


def test_nothing_is_sent_with_a_key_that_is_not_the_owners(governance: Governance, changes: Path) -> None:
    seqno = governance.show()["changes"]
    for arguments in (["set", changes], ["set-status", OPERATOR_ID, "closing"]):
        refused = governance.order(*arguments, key=governance.stranger)
        assert refused.exit_code == 1
        assert "its owner is" in refused.stderr
    assert governance.show()["changes"] == seqno


def test_a_no_at_the_question_sends_nothing(governance: Governance, tmp_path: Path) -> None:
    path = tmp_path / "changes.yaml"
    path.write_text(yaml.safe_dump({"rims": {"cd" * 32: True}}))
    seqno = governance.show()["changes"]
    arguments = ["registry", "set", path, "--key", governance.owner, "--network", governance.network]
    assert CliRunner().invoke(app, list(map(str, arguments)), input="n\n").exit_code != 0
    assert governance.show()["changes"] == seqno


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [
        pytest.param("rims: {12: true}", 1, id="bad-key"),
        pytest.param("rims: [", 2, id="no-yaml"),
        pytest.param(None, 2, id="no-file"),
        pytest.param("x" * (1 << 20) + "y", 2, id="too-large"),
    ],
)
def test_a_file_that_is_none_is_refused_in_words(
    governance: Governance, tmp_path: Path, text: str | None, exit_code: int
) -> None:
    path = tmp_path / "changes.yaml"
    if text is not None:
        path.write_text(text)
    for refused in (governance.run("propose", path), governance.order("set", path)):
        assert refused.exit_code == exit_code
        assert refused.stderr.startswith(("refused: ", "could not ask: "))


def test_an_unknown_operator_and_another_contract_are_refused(governance: Governance, tmp_path: Path) -> None:
    assert governance.run("show", "--operator", 99).exit_code == 1
    wrong = tmp_path / "network.yaml"
    settings = yaml.safe_load(governance.network.read_text())
    wrong.write_text(yaml.safe_dump(settings | {"registry": "0:" + "11" * 32}))
    refused = CliRunner().invoke(app, ["registry", "show", "--network", str(wrong)])
    assert refused.exit_code == 1
    assert "is not the expected contract" in refused.stderr
