"""A devnet in a process of its own with a registry, and the commands run against it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address
from typer.testing import CliRunner, Result

from billing.keys import KdfCost, KeyKind, seal_key
from billing.ton.client import ChainClient, ChainConfig
from billing.ton.devnet import DevnetAdmin
from billing.ton.registry import OperatorTerms, registry_address, registry_init
from billing.ton.vault import vault_address, vault_init
from billing.ton.wallet import Transfer, Wallet, pay
from chrysalis.cli import app
from tests.billing.ton.world import CLIENT_KEY, OWNER_KEY, TON, TREASURY_KEY, treasury

OPERATOR_KEY = Ed25519PrivateKey.from_private_bytes(b"\x74" * 32)
PASSWORD = "correct horse battery staple"
CHEAP = KdfCost(memory_kib=19_456, iterations=2, lanes=1)  # the least that is allowed


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass(frozen=True, kw_only=True)
class Net:
    """The running devnet, its registry and its vault."""

    config: ChainConfig
    admin: DevnetAdmin
    registry: Address
    vault: Address
    pid: int

    def wallet(self, key: Ed25519PrivateKey) -> Wallet:
        return Wallet(public_key=public(key), network_id=self.config.network_id)

    def ask(self, work: Callable[[ChainClient], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            async with await ChainClient.connect(self.config) as chain:
                return await work(chain)

        return asyncio.run(connected())

    def balance(self, address: Address) -> int:
        return self.ask(lambda chain: chain.account(address)).balance

    def fund(self, address: Address, amount: int) -> None:
        asyncio.run(self.admin.faucet(address.to_str(is_user_friendly=False), amount))

    def settings(self, **changes: Any) -> dict[str, Any]:
        chain = {name: getattr(self.config, name) for name in ("host", "port", "public_key", "network_id")}
        return {"chain": chain | changes, "registry": self.registry.to_str(is_user_friendly=False)}


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("net")
    argv = [sys.executable, "-m", "billing.ton.devnet", "--state", str(folder), "--parent-death"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            admin = DevnetAdmin(ready.pop("admin"))
            config = ChainConfig(**ready)
            yield asyncio.run(_furnish(config, admin, process.pid))
        finally:
            process.terminate()
            process.wait(20)


async def _furnish(config: ChainConfig, admin: DevnetAdmin, pid: int) -> Net:
    owner = Wallet(public_key=public(OWNER_KEY), network_id=config.network_id)
    operator = OperatorTerms(
        public_key=public(OPERATOR_KEY),
        endpoints=("http://127.0.0.1:1",),
        name="operator",
        wallet=treasury().address,
        fee_permille=50,
    )
    registry = registry_init(network_id=config.network_id, owner=owner.address, operators={1: operator})
    vault = vault_init(network_id=config.network_id, owner=owner.address, public_key=public(TREASURY_KEY))
    await admin.faucet(owner.address.to_str(is_user_friendly=False), 100 * TON)
    first = [
        Transfer(destination=registry_address(registry), amount=TON, state_init=registry, bounce=False),
        Transfer(destination=vault_address(vault), amount=TON, state_init=vault, bounce=False),
    ]
    async with await ChainClient.connect(config) as chain:
        await pay(chain, owner, OWNER_KEY, first, now=datetime.now(UTC))
    return Net(config=config, admin=admin, registry=registry_address(registry), vault=vault_address(vault), pid=pid)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A person with a folder of key files, at the commands."""

    net: Net
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def key_file(self, name: str, key: Ed25519PrivateKey, *, kind: KeyKind = KeyKind.ED25519) -> Path:
        path = self.path(name)
        path.write_bytes(seal_key(key.private_bytes_raw(), PASSWORD.encode(), kind=kind, cost=CHEAP).encode())
        path.chmod(0o600)
        return path

    def run(self, *words: object, network: bool = True, password: bool = True, answer: str = "") -> Result:
        argv = [str(word) for word in words]
        argv += ["--network", str(self.path("network.yaml"))] if network else []
        argv += ["--password-file", str(self.path("password"))] if password else []
        return CliRunner().invoke(app, argv, input=answer)

    def done(self, *words: object, **options: Any) -> dict[str, Any]:
        """The JSON that a command printed; it must have succeeded."""
        result = self.run(*words, "--json", **options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def desk(net: Net, tmp_path: Path) -> Desk:
    (tmp_path / "network.yaml").write_text(yaml.safe_dump(net.settings()))
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "password").chmod(0o600)
    return Desk(net=net, folder=tmp_path)


@pytest.fixture
def payer(desk: Desk) -> Path:
    """The key file of a wallet with at least 20 TON."""
    desk.net.fund(desk.net.wallet(CLIENT_KEY).address, 20 * TON)
    return desk.key_file("payer.key", CLIENT_KEY)
