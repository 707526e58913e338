"""`python -m enclave --config FILE`: start one enclave; prints one JSON line when it listens.

    {"host_id": hex, "address": "127.0.0.1:41234", "control": "/run/chrysalis/enclave.sock"}

Exit codes: 0 stopped as asked, 1 could not start (the reason is one line on standard error).
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from attestation.collect import Attester, NoTee
from attestation.endorse import EndorsedAttester
from attestation.errors import AttesterError
from attestation.sealed_state import SealingKeySource, UnsafeFileKeySource
from enclave.config import EnclaveConfig, load_config
from enclave.enclave import Enclave, Facts
from enclave.engine import Engine, EngineMissingError, engine_versions, import_engine, load_engine
from enclave.errors import RequestError, StartError
from enclave.logs import install_logging, log_type_only
from enclave.manifest import check_manifest, engine_digest, manifest_root
from enclave.process import die_with_parent, freeze_memory, harden
from enclave.service import Limits

logger = logging.getLogger("enclave")


def main() -> int:
    """Start, serve until asked to stop, end."""
    parent = os.getppid()
    parser = argparse.ArgumentParser(prog="python -m enclave", description="The measured program on a host.")
    parser.add_argument("--config", type=Path, required=True, help="settings, see docs/OPERATING.md")
    parser.add_argument("--parent-death", action="store_true", help="end when the process that started this one ends")
    arguments = parser.parse_args()
    install_logging()
    try:
        if arguments.parent_death:
            die_with_parent(parent)
        harden()
        config = load_config(arguments.config)
        uvloop.run(_serve(config))
    except (StartError, EngineMissingError, AttesterError, RequestError) as error:
        print(f"enclave: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: EnclaveConfig) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_type_only)
    facts = _facts(config)
    attester, sealing = _hardware(config)
    enclave = await Enclave.start(
        facts,
        attester=attester,
        sealing=sealing,
        load=_loader(config, facts.models),
        prepare=lambda: import_engine(config.engine),
        clock=_now,
        random=os.urandom,
    )
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, enclave.ask_to_stop)
    line = {"host_id": enclave.host_id.hex(), "address": enclave.address, "control": os.fspath(config.control)}
    print(json.dumps(line), flush=True)
    await enclave.run()


def _facts(config: EnclaveConfig) -> Facts:
    folders = {manifest_root(folder): folder for folder in config.models}
    if len(folders) != len(config.models):
        raise StartError("two of the model folders hold the same model: name each once")
    return Facts(
        host=config.host,
        port=config.port,
        control=config.control,
        state=config.state,
        payee=config.payee,
        operator_key=config.operator_key,
        coefficient=config.coefficient,
        models=folders,
        engine_digest=engine_digest(engine_versions(config.engine)),
        tls=config.tls,
        job_bundles=config.job_bundles,
        job_policy=config.job_policy,
        limits=Limits(running=config.max_running, waiting=config.max_waiting, coalesce_s=config.coalesce_ms / 1000),
    )


def _hardware(config: EnclaveConfig) -> tuple[Attester, SealingKeySource]:
    attester, sealing = _devices(config)
    endorsed = EndorsedAttester(attester, config.endorser, clock=_now) if config.endorser else attester
    return endorsed, sealing


def _devices(config: EnclaveConfig) -> tuple[Attester, SealingKeySource]:
    if config.simulated is None:
        return NoTee(), UnsafeFileKeySource(config.state / "unsafe-sealing-key")
    from attestation.simulate import SimulatedHost  # noqa: PLC0415  a real host never loads the simulator

    logger.warning("this host's hardware is SIMULATED: only policies that name its simulated roots accept it")
    try:
        host = SimulatedHost.load(config.simulated)
    except (OSError, ValueError, KeyError) as error:
        raise StartError(f"cannot read the simulated hardware in {config.simulated}: {error}") from error
    return host, host


def _loader(config: EnclaveConfig, models: Mapping[bytes, Path]) -> Callable[[Path], Awaitable[Engine]]:
    """Load a folder, and look afterwards whether it still held the model that the evidence names."""
    roots = {folder: root for root, folder in models.items()}
    more = {} if config.context is None else {"context": config.context}

    async def load(folder: Path) -> Engine:
        engine = await load_engine(config.engine, folder, max_running=config.max_running, **more)
        try:
            await asyncio.to_thread(check_manifest, folder, roots[folder])
        except BaseException:
            await engine.close()
            raise
        freeze_memory()
        return engine

    return load


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
