"""A local network of three open hosts of different owners, one of which lies, in a process of its own."""

import asyncio
import sys
import time
from pathlib import Path

from attestation.verdict import Tier
from billing.entries import client_account
from billing.tariff import Tariff
from chrysalis.local.hosts import READY_TIMEOUT_S, HostSpec, RunningEnclave, write_enclave_settings
from chrysalis.local.network import LocalNetwork, NetworkPlan
from tests.cluster import network_process
from tests.cluster.network_process import MODEL, Steps

OPEN = tuple(HostSpec(name=name, title=f"open host of {name}", tee=None) for name in ("anna", "boris", "liar"))


class OpenNetwork(LocalNetwork):
    """Starts the host named "liar" with a program of the test's."""

    def start_enclave(self, spec: HostSpec) -> RunningEnclave:
        if spec.name != "liar":
            return super().start_enclave(spec)
        from chrysalis.local.settings import make_key, raw_address  # noqa: PLC0415

        folder = self.folder / "hosts" / spec.name
        payee = raw_address(self.chain_wallet(make_key(self.folder / "hosts" / "liar-owner.key")).address)
        listen = f"127.0.0.1:{self.port(10 + len(self.enclaves))}"
        config = write_enclave_settings(folder, spec, self.vendors, self.enclave_settings(), payee=payee, listen=listen)
        argv = [sys.executable, "-m", "tests.cluster.lying_enclave", "--config", str(config), "--parent-death"]
        program, ready = self.supervisor.start_reporting("liar", argv, timeout_s=READY_TIMEOUT_S, group=spec.name)
        self.enclaves[spec.name] = RunningEnclave(
            spec=spec,
            program=program,
            host_id=bytes.fromhex(ready["host_id"]),
            address=ready["address"],
            control=Path(ready["control"]),
            payee=payee,
        )
        return self.enclaves[spec.name]


class OpenSteps(Steps):
    """What the test may ask for."""

    def __init__(self, base_port: int) -> None:
        plan = NetworkPlan(
            base_port=base_port,
            model=MODEL,
            model_name="demo",
            tariff=Tariff(prompt_price=10**9, completion_price=2 * 10**9),
            context=256,
            model_settings={"min": 100, "tier": "open"},
        )
        self.net = OpenNetwork(plan)
        self.admissions: dict[str, dict] = {}

    def start(self) -> dict:
        asyncio.run(self.net.start_chain())
        self.net.start_operator()
        from serve_apps.deploy import place_model, wait_loaded  # noqa: PLC0415  (it imports ray, whose start is once)

        enclaves = [self.net.start_enclave(spec) for spec in OPEN]
        for enclave in enclaves:
            admission = self.net.admit(enclave)
            self.admissions[enclave.spec.name] = {"accepted": admission.accepted, "reason": admission.reason}
        self.net.join(enclaves)
        place_model(self.net.model_root, tier=Tier.OPEN, bound_to=len(enclaves))
        wait_loaded(self.net.model_root, len(enclaves))
        return self.admissions

    def client(self) -> dict:
        """Where the client's settings are, and what they pay from."""
        return {"config": str(self.net.client_folder() / "client.yaml"), "account": client_account(self.net.account)}

    def hosts(self) -> dict:
        return {name: enclave.host_id.hex() for name, enclave in self.net.enclaves.items()}

    def earnings(self) -> dict:
        """What each owner has earned, and the books, once every host has posted what it holds."""
        deadline = time.monotonic() + 8
        while (statement := self.net.billing("statement")).in_review and time.monotonic() < deadline:
            time.sleep(0.2)
        by_payee = {total.payee: total.earned for total in statement.payees}
        owners = {}
        for name, enclave in self.net.enclaves.items():
            workchain, _, account = enclave.payee.partition(":")
            owners[name] = by_payee.get(int(workchain).to_bytes(1, "big", signed=True) + bytes.fromhex(account), 0)
        return {
            "owners": owners,
            "imbalance": statement.imbalance,
            "in_review": statement.in_review,
            "balances": statement.balances,
            "refused": statement.refused,
        }


if __name__ == "__main__":
    network_process.Steps = OpenSteps
    network_process.main()
