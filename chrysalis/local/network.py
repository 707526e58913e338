"""Brings a whole network up on this machine, part by part, and down again without a trace."""

import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core import Address

from attestation.simulate import SimulatedVendors
from attestation.verdict import TeeKind
from billing.money import Nanotons
from billing.tariff import Tariff
from billing.ton.channel import ChannelTerms
from billing.ton.client import ChainClient
from billing.ton.deposits import deposit_transfer
from billing.ton.registry import Measurement, ModelTerms, OperatorTerms
from billing.ton.sender import Sender
from billing.ton.wallet import Wallet, pay
from chrysalis.local.chain import LocalChain, RegistryEntries, deploy_registry, start_devnet
from chrysalis.local.hosts import EnclaveSettings, HostSpec, RunningEnclave, launch_enclave, policy_text, start_enclave
from chrysalis.local.log import begin_log
from chrysalis.local.settings import make_key, raw_address, write_client_settings, write_operator_settings, write_secret
from cluster.admission import Admission
from cluster.config import read_signing_key
from cluster.fleet import FleetSnapshot
from cluster.model import Decision, HostHints
from cluster.processes import Program, ProgramError, Supervisor
from cluster.ray_cluster import LOOPBACK, RayCluster
from cluster.ray_nodes import HEAD_NAME, begin_node, connect, start_head, wait_node
from cluster.ray_start import OUTLIVES_RAY
from cluster.settlement_config import SenderKind, make_treasury, parse_settlement
from enclave.manifest import manifest_root

TON = 1_000_000_000
FAUCET = 100 * TON
TREASURY_CAPITAL = 2 * TON  # pays chain fees until the operator's share does
FEE_PERMILLE = 50
CHANNEL_DELAY_S = 3600
CALL_TIMEOUT_S = 60.0
CLIENTS_MAX = 4
EVERYWHERE = 100  # replicas wanted: one on every host that there is
SHORT_FOLDER = "/tmp"  # noqa: S108  below TMPDIR the paths of unix sockets may grow too long; mkdtemp makes it private
KIND_NUMBERS = {TeeKind.TDX: 1, TeeKind.SEV_SNP: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What to bring up."""

    base_port: int
    model: Path
    model_name: str
    tariff: Tariff
    context: int
    engine: str = "torch"
    sender: SenderKind = SenderKind.HIGHLOAD  # the kind of treasury
    folder: Path | None = None  # kept; None: a temporary one that `stop` removes
    newer_models: tuple[Path, ...] = ()  # other roots of the same name, to roll out later
    model_settings: dict[str, int] = field(default_factory=lambda: {"min": EVERYWHERE})
    budget: int = 300_000_000  # nanotons that a sidecar has held for a lease
    channel: int = 5 * TON  # nanotons in the payment channel that a sidecar opens; 0: it pays from `deposit`
    job_bundles: frozenset[bytes] = frozenset()  # SHA-256 of jobs' code that governance approved
    clients: int = 1  # sidecars that may be started, each with a wallet of its own

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= CLIENTS_MAX:
            raise ValueError(f"a local network has 1 to {CLIENTS_MAX} clients, not {self.clients}")


@dataclass(slots=True)
class LocalNetwork:
    """A network being brought up. Call the steps in order; call `stop` in any case."""

    plan: NetworkPlan
    folder: Path = field(init=False)
    supervisor: Supervisor = field(init=False)
    vendors: SimulatedVendors = field(init=False)
    chain: LocalChain = field(init=False)
    registry: Address = field(init=False)
    treasury: Sender = field(init=False)
    settlement: dict[str, Any] = field(init=False)
    ray: RayCluster = field(init=False)
    model_root: bytes = field(init=False)
    operator_key: bytes = b""  # 32, public
    account: bytes = b""
    sidecar_url: str = ""
    client_pid: int = 0
    enclaves: dict[str, RunningEnclave] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)  # host name -> Ray node id
    _places: list[str] = field(default_factory=list)  # host names, in the order of their Ray ports

    def __post_init__(self) -> None:
        self.folder = self.plan.folder or Path(tempfile.mkdtemp(prefix="chr-", dir=SHORT_FOLDER))
        folders = [self.folder / name for name in ("operator", "hosts", "logs")]
        for folder in (*folders, *map(self.client_folder, range(self.plan.clients))):
            folder.mkdir(parents=True, mode=0o700)
        self.supervisor = Supervisor(self.folder / "logs")
        self.ray = RayCluster.create(self.folder / "r", base_port=self.plan.base_port)

    # --- ports: the last node block of the Ray cluster's range is ours -----------------------------------------------

    def port(self, offset: int) -> int:
        """Our own ports: 0 relay, 2 lite-server, 1 and 5 and up sidecars, 10 and up enclaves."""
        return self.ray.ports.node(19)[offset]

    @property
    def relay_address(self) -> str:
        """Where sealed requests go."""
        return f"{LOOPBACK}:{self.port(0)}"

    @property
    def gateway_url(self) -> str:
        """Where clients ask for leases, as the registry contract says."""
        return self.ray.gateway_url

    @property
    def chain_host(self) -> str:
        """Address on which the lite-server listens."""
        return LOOPBACK

    # --- chain -------------------------------------------------------------------------------------------------------

    async def start_chain(self) -> None:
        """Devnet, accounts from the faucet, and the registry with everything governance allows."""
        self.vendors = SimulatedVendors.create(datetime.now(UTC))
        self.model_root = manifest_root(self.plan.model)
        self.chain = start_devnet(self.supervisor, self.folder / "devnet", host=self.chain_host, port=self.port(2))
        operator, owner, treasury_key = (
            make_key(self.folder / "operator" / name) for name in ("operator.key", "governance.key", "treasury.key")
        )
        clients = [make_key(self.client_folder(number) / "wallet.key") for number in range(self.plan.clients)]
        write_secret(self.folder / "operator" / "ticket.key", secrets.token_bytes(32))
        self.operator_key, self.account = _public(operator), _public(clients[0])
        self.settlement = {
            "threshold": 1_000_000,
            "max_age_s": 86_400,
            "dust": 500_000,
            "sender": self.plan.sender.value,
        }
        if self.plan.sender is SenderKind.VAULT:
            self.settlement["vault"] = {"owner": raw_address(self.chain_wallet(owner).address)}
        self.treasury = make_treasury(
            parse_settlement(self.settlement),
            public_key=_public(treasury_key),
            network_id=self.chain.config.network_id,
            state=self.folder / "operator" / "state",
        )
        for address, amount in (
            (self.chain_wallet(owner).address, FAUCET),
            *((self.chain_wallet(client).address, FAUCET) for client in clients),
            (self.treasury.address, TREASURY_CAPITAL),
        ):
            await self.chain.admin.faucet(raw_address(address), amount)
        async with await ChainClient.connect(self.chain.config) as chain:
            entries = self._entries(operator)
            self.registry = await deploy_registry(chain, owner, entries)
            await chain.wait_for(self.registry, lambda state: state.data is not None, timeout_s=CALL_TIMEOUT_S)
        self._write_settings(begin_log(self.folder / "log", entries))

    def chain_wallet(self, key: Ed25519PrivateKey) -> Wallet:
        """The ordinary wallet of a key on this chain."""
        return Wallet(public_key=_public(key), network_id=self.chain.config.network_id)

    @property
    def _model_folders(self) -> tuple[Path, ...]:
        return (self.plan.model, *self.plan.newer_models)

    def _entries(self, operator: Ed25519PrivateKey) -> RegistryEntries:
        good = {kind: self.vendors.make_host(kind, gpus=1) for kind in TeeKind}
        return RegistryEntries(
            measurements={
                host.measurement_id(): Measurement(kind=KIND_NUMBERS[kind], label=f"demo image on {kind}")
                for kind, host in good.items()
            },
            rims=sorted(frozenset[bytes]().union(*(host.rim_digests() for host in good.values()))),
            models={
                manifest_root(folder): ModelTerms(
                    name=self.plan.model_name, tariff=self.plan.tariff, context=self.plan.context
                )
                for folder in self._model_folders
            },
            operator=OperatorTerms(
                name="local operator",
                public_key=_public(operator),
                endpoints=(self.gateway_url,),
                wallet=self.treasury.address,
                fee_permille=FEE_PERMILLE,
            ),
        )

    def _write_settings(self, log: dict[str, Any]) -> None:
        bundles = self.plan.job_bundles
        policy = policy_text(self.vendors, accept_open=True, job_bundles=bundles)
        (self.folder / "operator" / "policy.yaml").write_text(policy)
        write_operator_settings(
            self.folder / "operator",
            chain=self.chain.config,
            registry=self.registry,
            relay=self.relay_address,
            settlement=self.settlement,
            channels={"threshold": 100_000_000},
            models={self.plan.model_name: self.plan.model_settings},
            transparency=log,
        )
        for number in range(self.plan.clients):
            folder = self.client_folder(number)
            policy = policy_text(self.vendors, accept_open=False, job_bundles=bundles)
            (folder / "policy.yaml").write_text(policy)
            write_client_settings(
                folder,
                chain=self.chain.config,
                registry=self.registry,
                listen=f"{LOOPBACK}:{self.port(4 + number if number else 1)}",
                budget=self.plan.budget,
                price_cap=20_000_000,
                channel={"deposit": self.plan.channel, "delay_s": CHANNEL_DELAY_S} if self.plan.channel else None,
                transparency=log,
            )

    # --- operator ----------------------------------------------------------------------------------------------------

    def start_operator(self) -> None:
        """Ray's head node, the operator's actors on it, and the gateway."""
        start_head(self.supervisor, self.ray)
        connect(self.ray)
        from cluster.actors.handles import start_operator
        from serve_apps.deploy import deploy_gateway, start_models

        config = self.folder / "operator" / "operator.yaml"
        start_operator(config)
        deploy_gateway(config, port=self.ray.ports.gateway)
        start_models(config)

    def leave_ray(self) -> None:
        """Be no driver any more, until `enter_ray` or `restart_head`."""
        import ray

        ray.shutdown()

    def restart_head(self) -> None:
        """Start the relay and Ray's head again after they were lost, as the machine's service manager does.

        They find their hosts and tables on disk; nodes, replicas and actors return. Call `leave_ray` before the head is
        lost: Ray ends a driver whose node has died.
        """
        self.supervisor.kill(HEAD_NAME, but=OUTLIVES_RAY)  # what is left of it
        config = str(self.folder / "operator" / "operator.yaml")
        argv = [sys.executable, "-m", "chrysalis", "cluster", "relay", config]
        relay = self.supervisor.start("relay", argv, group=HEAD_NAME)
        if relay.process.wait(CALL_TIMEOUT_S) != 0:
            raise ProgramError(f"the relay was not started: {relay.tail()}")
        start_head(self.supervisor, self.ray)
        self.enter_ray()

    def enter_ray(self) -> None:
        """Be a driver again."""
        connect(self.ray)

    # --- hosts -------------------------------------------------------------------------------------------------------

    def start_enclave(self, spec: HostSpec) -> RunningEnclave:
        """The host's enclave process; nothing of Ray runs on the host yet."""
        payee = raw_address(self.chain_wallet(make_key(self.folder / "hosts" / f"{spec.name}-owner.key")).address)
        enclave = start_enclave(
            self.supervisor,
            self.folder / "hosts" / spec.name,
            spec,
            self.vendors,
            self.enclave_settings(),
            payee=payee,
            port=self.port(10 + len(self.enclaves)),
        )
        self.enclaves[spec.name] = enclave
        return enclave

    def restart_enclave(self, name: str) -> RunningEnclave:
        """Start an enclave that has ended again, on its files. It has new keys, so it is another host: admit it."""
        old = self.enclaves[name]
        folder = self.folder / "hosts" / name
        self.enclaves[name] = launch_enclave(self.supervisor, folder, old.spec, payee=old.payee)
        return self.enclaves[name]

    def admit(self, enclave: RunningEnclave) -> Admission:
        """Ask the registry to challenge the enclave."""
        hints = HostHints(name=enclave.spec.name, coefficient=enclave.spec.coefficient)
        admission: Admission = self.ask("registry", "admit", enclave.address, hints)
        return admission

    def join(self, enclaves: Sequence[RunningEnclave]) -> None:
        """Start the Ray nodes of admitted hosts, side by side, and the actors that serve them."""
        from cluster.actors.handles import start_host

        programs = {enclave.spec.name: self._begin_node(enclave) for enclave in enclaves}
        for enclave in enclaves:
            name = enclave.spec.name
            self.nodes[name] = wait_node(self.ray, name, programs[name]).node_id
            start_host(enclave.host_id, node_id=self.nodes[name], control=enclave.control)

    def place_model(self, *, hosts: int) -> Decision:
        """Have the model on every eligible host, `hosts` at least; returns when so many of them serve."""
        from serve_apps.deploy import place_model, wait_loaded

        decision = place_model(self.model_root, bound_to=hosts)
        wait_loaded(self.model_root, hosts)
        return decision

    def fleet(self) -> FleetSnapshot:
        """The registry's picture of all hosts now."""
        snapshot: FleetSnapshot = self.ask("registry", "snapshot")
        return snapshot

    def kill_host(self, name: str) -> int:
        """Power loss: enclave, Ray node and everything on it die at once. Returns how many processes did."""
        return self.supervisor.kill(name)

    def _begin_node(self, enclave: RunningEnclave) -> Program:
        if enclave.spec.name not in self._places:
            self._places.append(enclave.spec.name)
        return begin_node(
            self.supervisor,
            self.ray,
            index=self._places.index(enclave.spec.name) + 1,
            name=enclave.spec.name,
            labels={"tee": enclave.spec.tee.value if enclave.spec.tee else "none", "gpus": str(enclave.spec.gpus)},
            env={"CHRYSALIS_ENCLAVE_CONTROL": str(enclave.control)},
            group=enclave.spec.name,
        )

    def enclave_settings(self) -> EnclaveSettings:
        """What all enclaves of this network are told."""
        return EnclaveSettings(
            operator_key=self.operator_key,
            models=self._model_folders,
            engine=self.plan.engine,
            job_policy=(self.folder / "operator" / "policy.yaml").read_text(),
        )

    # --- client ------------------------------------------------------------------------------------------------------

    def channel_terms(self) -> ChannelTerms:
        """The terms of the payment channel between the client and the operator."""
        wallet = Wallet(public_key=self.account, network_id=self.chain.config.network_id)
        return ChannelTerms(
            network_id=self.chain.config.network_id,
            client=wallet.address,
            client_key=self.account,
            operator=self.treasury.address,
            operator_key=self.operator_key,
            delay_s=CHANNEL_DELAY_S,
            nonce=0,
        )

    async def deposit(self, amount: int) -> None:
        """Send money from the client's wallet to the operator's treasury, in the client's name."""
        key = read_signing_key(self.folder / "client" / "wallet.key")
        transfer = deposit_transfer(self.treasury.address, self.account, Nanotons(amount))
        async with await ChainClient.connect(self.chain.config) as chain:
            await pay(chain, self.chain_wallet(key), key, [transfer], now=datetime.now(UTC))

    def client_folder(self, number: int = 0) -> Path:
        """Where a client's wallet, settings and state are."""
        return self.folder / (f"client{number}" if number else "client")

    def start_client(self, number: int = 0) -> str:
        """A client's sidecar, which opens its payment channel; returns the base URL of its OpenAI interface."""
        folder = self.client_folder(number)
        argv = [sys.executable, "-m", "client", "--config", str(folder / "client.yaml")]
        program, ready = self.supervisor.start_reporting(folder.name, argv, timeout_s=CALL_TIMEOUT_S)
        url: str = ready["base_url"]
        if number == 0:
            self.client_pid, self.sidecar_url = program.pid, url
        return url

    # --- everything --------------------------------------------------------------------------------------------------

    def ask(self, actor: str, method: str, *args: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:  # noqa: ANN401
        """Call a method of one of the operator's actors and wait for its answer."""
        import ray

        from cluster.actors.handles import find

        return ray.get(getattr(find(actor), method).remote(*args), timeout=timeout_s)

    def billing(self, method: str, *args: object) -> Any:  # noqa: ANN401
        """Call the billing actor."""
        return self.ask("billing", method, *args)

    def stop(self) -> list[str]:
        """End everything that was started; returns what could not be ended, as text."""
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        left = [json.dumps(process.as_dict(["pid", "cmdline"])) for process in self.supervisor.stop()]
        if self.plan.folder is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        return left


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()
