"""The hosts of a local network: one folder each with simulated hardware and settings, one enclave process each."""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from attestation.simulate import DEFAULT_IMAGE, Fault, SimulatedVendors
from attestation.verdict import TeeKind
from billing.tariff import COEFFICIENT_ONE
from cluster.processes import Program, Supervisor

READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """One host to bring up: what its simulated hardware is, what is wrong with it, what its owner asks."""

    name: str
    title: str  # for people
    tee: TeeKind | None  # None: an open host
    gpus: int = 0
    faults: tuple[Fault, ...] = ()
    coefficient: int = COEFFICIENT_ONE


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEnclave:
    """An enclave process that listens."""

    spec: HostSpec
    program: Program
    host_id: bytes
    address: str  # host:port
    control: Path
    payee: str  # raw address


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSettings:
    """What all enclaves of one network share."""

    operator_key: bytes
    models: tuple[Path, ...]
    engine: str
    max_running: int = 16
    job_policy: str = ""  # text of the policy file whose job_bundles may run on the hosts; empty: none may


def write_enclave_settings(
    folder: Path,
    spec: HostSpec,
    vendors: SimulatedVendors,
    settings: EnclaveSettings,
    *,
    payee: str,
    listen: str,
    control: str = "control.sock",
    state: str = "state",
    image: bytes = DEFAULT_IMAGE,
) -> Path:
    """Make a host's simulated hardware and its enclave's settings in a new folder; returns the settings file."""
    folder.mkdir(parents=True, mode=0o700)
    hardware: dict[str, object] = {"none": True}
    if spec.tee is not None:
        vendors.make_host(spec.tee, gpus=spec.gpus, image=image, faults=spec.faults).save(folder / "hardware.sim")
        hardware = {"simulated": "hardware.sim"}
    config = folder / "enclave.yaml"
    values = {
        "listen": listen,
        "control": control,
        "state": state,
        "payee": payee,
        "operator_key": settings.operator_key.hex(),
        "models": [{"path": str(path)} for path in settings.models],
        "engine": settings.engine,
        "hardware": hardware,
        "coefficient": spec.coefficient,
        "max_running": settings.max_running,
    }
    if settings.job_policy:
        (folder / "policy.yaml").write_text(settings.job_policy)
        values["job_policy"] = "policy.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


def start_enclave(
    supervisor: Supervisor,
    folder: Path,
    spec: HostSpec,
    vendors: SimulatedVendors,
    settings: EnclaveSettings,
    *,
    payee: str,
    port: int,
    image: bytes = DEFAULT_IMAGE,
) -> RunningEnclave:
    """Make the host's hardware file and settings in `folder` and start its enclave; returns when it listens."""
    write_enclave_settings(folder, spec, vendors, settings, payee=payee, listen=f"127.0.0.1:{port}", image=image)
    return launch_enclave(supervisor, folder, spec, payee=payee)


def launch_enclave(supervisor: Supervisor, folder: Path, spec: HostSpec, *, payee: str) -> RunningEnclave:
    """Start the enclave whose files are in `folder`, for the first time or again; returns when it listens."""
    config = folder / "enclave.yaml"
    argv = [sys.executable, "-m", "enclave", "--config", str(config), "--parent-death"]
    program, ready = supervisor.start_reporting(
        f"enclave-{spec.name}", argv, timeout_s=READY_TIMEOUT_S, group=spec.name
    )
    return RunningEnclave(
        spec=spec,
        program=program,
        host_id=bytes.fromhex(ready["host_id"]),
        address=ready["address"],
        control=Path(ready["control"]),
        payee=payee,
    )


def policy_text(vendors: SimulatedVendors, *, accept_open: bool, job_bundles: Collection[bytes] = ()) -> str:
    """A policy file that believes these simulated vendors and nobody else.

    It names no reference values: admission and client take them from the registry on the chain.
    """
    roots = vendors.roots()
    values: dict[str, object] = {
        "roots": "none",
        "unsafe_simulated_roots": {
            vendor: [pin.hex() for pin in sorted(roots.of(vendor))] for vendor in ("intel", "amd", "nvidia")
        },
        "snp_floor": {"milan": {"bootloader": 4, "tee": 0, "snp": 22, "microcode": 213}},
        "job_bundles": [digest.hex() for digest in sorted(job_bundles)],
    }
    if accept_open:
        values |= {"required_tier": "open", "unsafe_accept_open_hosts": True}
    return yaml.safe_dump(values, sort_keys=False)
