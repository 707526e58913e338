"""The start of a job on its host, as the process that Ray runs, beside a real enclave on simulated hardware."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from attestation.eventlog import EventKind
from attestation.evidence import TdxEvidence, parse_evidence
from attestation.simulate import SimulatedHost
from cluster.errors import ConfigError
from cluster.job_bundle import Bundle, make_bundle
from cluster.job_start import DIGEST_VARIABLE, HOOK, JOB_CONFIG, SET_UP, driver_variables
from cluster.job_unpack import BUNDLE_NAME
from enclave.enclave import Enclave
from tests.attestation.hosts import SNP_CPU, TDX_CPU, host
from tests.enclave.support import post, start_enclave

SCRIPT = "import os, sys\nprint('ran', sys.argv[1], sorted(os.listdir()))\nsys.exit(int(sys.argv[2]))\n"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def pack(folder: Path) -> Bundle:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "script.py").write_text(SCRIPT)
    bundle = make_bundle(folder / "code")
    (folder / BUNDLE_NAME).write_bytes(bundle.data)
    return bundle


async def start_job(folder: Path, digest: bytes, control: Path | None, *command: str) -> Ended:
    env = {key: value for key, value in os.environ.items() if key != "CHRYSALIS_ENCLAVE_CONTROL"}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), JOB_CONFIG: '{"runtime_env": {"env_vars": {"MODE": "fast"}}}'}
    env |= {} if control is None else {"CHRYSALIS_ENCLAVE_CONTROL": str(control)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.job_start", digest.hex(), "--", *command),
        cwd=folder,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def enclave_with(folder: Path, hardware: SimulatedHost, *bundles: bytes) -> Enclave:
    return await start_enclave(folder / "e", attester=hardware, job_bundles=frozenset(bundles), load=False)


async def bundles_shown(enclave: Enclave) -> list[bytes]:
    cpu = parse_evidence((await post(enclave.address, "/evidence", bytes(32))).body).cpu
    return (
        [event.digest for event in cpu.log if event.kind is EventKind.JOB_BUNDLE]
        if isinstance(cpu, TdxEvidence)
        else []
    )


async def test_a_job_runs_in_its_own_folder_once_its_code_is_logged(tmp_path: Path) -> None:
    bundle = pack(tmp_path)
    enclave = await enclave_with(tmp_path, host(TDX_CPU).restarted(), bundle.digest)
    control = enclave._facts.control
    done = await start_job(tmp_path, bundle.digest, control, sys.executable, "script.py", "--flag", "3")
    assert (done.code, done.out) == (3, "ran --flag ['script.py']\n"), done.err
    assert await bundles_shown(enclave) == [bundle.digest]
    none = await start_job(tmp_path, bundle.digest, control, "no-such-command")
    assert (none.code, "cannot run no-such-command" in none.err) == (127, True)
    await enclave.stop(0.1)


@pytest.mark.parametrize("kind", [TDX_CPU, SNP_CPU])
async def test_code_that_may_not_run_here_is_neither_unpacked_nor_run(tmp_path: Path, kind: object) -> None:
    bundle = pack(tmp_path)
    approved = [bundle.digest] if kind is SNP_CPU else []
    enclave = await enclave_with(tmp_path, host(kind).restarted(), *approved)
    done = await start_job(tmp_path, bundle.digest, enclave._facts.control, sys.executable, "script.py", "x", "0")
    words = "sev-snp has no runtime register" if kind is SNP_CPU else "is not among the 0 job_bundles"
    assert (done.code, done.out, words in done.err) == (2, "", True), done.err
    assert "Traceback" not in done.err
    assert [*tmp_path.glob("job-*")] == []
    assert await bundles_shown(enclave) == []
    await enclave.stop(0.1)


async def test_another_bundle_than_the_one_that_was_approved_is_not_logged(tmp_path: Path) -> None:
    bundle = pack(tmp_path)
    enclave = await enclave_with(tmp_path, host(TDX_CPU).restarted(), bundle.digest)
    (tmp_path / BUNDLE_NAME).write_bytes(bundle.data + b"x")
    done = await start_job(tmp_path, bundle.digest, enclave._facts.control, sys.executable, "script.py", "x", "0")
    assert (done.code, "submit it again" in done.err) == (2, True)
    assert await bundles_shown(enclave) == []
    await enclave.stop(0.1)


async def test_without_an_enclave_nothing_runs(tmp_path: Path) -> None:
    bundle = pack(tmp_path)
    for control, words in ((None, "no enclave on this node"), (tmp_path / "gone.sock", "no answer")):
        done = await start_job(tmp_path, bundle.digest, control, sys.executable, "script.py", "x", "0")
        assert (done.code, done.out, words in done.err) == (2, "", True), done.err


def test_a_jobs_driver_hands_the_digest_and_the_set_up_to_all_its_workers() -> None:
    given = {JOB_CONFIG: json.dumps({"runtime_env": {"working_dir": "gcs://x", "env_vars": {"MODE": "fast"}}, "a": 1})}
    (name,) = told = driver_variables(given, bytes(32))
    assert json.loads(told[name]) == {
        "runtime_env": {
            "working_dir": "gcs://x",
            "env_vars": {"MODE": "fast", DIGEST_VARIABLE: "00" * 32},
            HOOK: SET_UP,
        },
        "a": 1,
    }


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(None, id="not-a-job"),
        pytest.param("{", id="broken"),
        pytest.param("[]", id="no-object"),
        pytest.param('{"runtime_env": null}', id="no-runtime-env"),
        pytest.param('{"runtime_env": {"worker_process_setup_hook": "os.getpid"}}', id="another-hook"),
    ],
)
def test_a_job_whose_workers_would_not_log_its_code_is_not_started(config: str | None) -> None:
    with pytest.raises(ConfigError):
        driver_variables({} if config is None else {JOB_CONFIG: config}, bytes(32))


async def test_a_worker_elsewhere_logs_the_code_before_it_has_the_jobs_modules(tmp_path: Path) -> None:
    bundle = pack(tmp_path)
    for approved in ([], [bundle.digest]):
        enclave = await enclave_with(tmp_path / str(len(approved)), host(TDX_CPU).restarted(), *approved)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from cluster.job_start import set_up; set_up(); import script"),
            cwd=tmp_path,
            env=os.environ
            | {"PYTHONPATH": str(Path(__file__).parents[2]), DIGEST_VARIABLE: bundle.digest.hex()}
            | {"CHRYSALIS_ENCLAVE_CONTROL": str(enclave._facts.control)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        assert ("IndexError" in err.decode()) == bool(approved), "the script, which has no arguments, began"
        assert ("is not among the 0 job_bundles" in err.decode()) != bool(approved)
        assert await bundles_shown(enclave) == approved
        await enclave.stop(0.1)
