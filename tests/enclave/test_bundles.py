"""Jobs' code in the host's log: the enclave logs what its policy names, and evidence shows it from then on."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest

from attestation import AppraisalPolicy, Evidence, verify
from attestation.collect import Attestation, NoTee
from attestation.errors import AttesterError, EventNotAllowedError, RestartNeededError
from attestation.eventlog import EventKind, LogEvent
from attestation.evidence import TdxEvidence, parse_evidence
from attestation.policy import ReferenceValues
from attestation.simulate import SimulatedHost
from attestation.transcript import Transcript
from enclave.enclave import Enclave
from enclave.errors import StartError
from tests.attestation.hosts import SNP_CPU, TDX_CPU, host, policy_for
from tests.attestation.vendors import NOW
from tests.enclave.support import MODEL, OTHER_MODEL, Client, Starter, control, post
from tests.enclave.test_config import GOOD, load

ONE, TWO, FOREIGN = (sha256(name).digest() for name in (b"one", b"two", b"foreign"))
NONCE = b"\x07" * 32


def policy(hardware: SimulatedHost, *bundles: bytes) -> AppraisalPolicy:
    reference = policy_for(hardware).reference
    models = ReferenceValues(
        measurements=reference.measurements, rims=reference.rims, models=frozenset({MODEL, OTHER_MODEL})
    )
    return policy_for(hardware, reference=models, job_bundles=frozenset(bundles))


async def evidence(enclave: Enclave) -> Evidence:
    return parse_evidence((await post(enclave.address, "/evidence", NONCE)).body)


async def bundles_shown(enclave: Enclave) -> list[bytes]:
    cpu = (await evidence(enclave)).cpu
    assert isinstance(cpu, TdxEvidence)
    return [event.digest for event in cpu.log if event.kind is EventKind.JOB_BUNDLE]


async def extend(enclave: Enclave, digest: bytes) -> object:
    return await control(enclave, "POST", "/extend", {"job_bundle": digest.hex()})


async def test_a_logged_bundle_is_in_fresh_evidence_and_the_verifiers_policy_decides(start: Starter) -> None:
    hardware = host(TDX_CPU).restarted()
    enclave = await start(attester=hardware, job_bundles=frozenset({ONE, TWO}))
    before = await evidence(enclave)
    assert await extend(enclave, ONE) == {"job_bundle": ONE.hex(), "state": "logged"}
    after = await evidence(enclave)
    assert await bundles_shown(enclave) == [ONE]
    assert verify(before, policy(hardware), nonce=NONCE, now=NOW)
    assert verify(after, policy(hardware, ONE, FOREIGN), nonce=NONCE, now=NOW)
    with pytest.raises(EventNotAllowedError):
        verify(after, policy(hardware, TWO), nonce=NONCE, now=NOW)
    assert (await Client(enclave).ask()).text == "one two three"


async def test_a_bundle_is_logged_once_however_often_its_job_is_started(start: Starter) -> None:
    enclave = await start(attester=host(TDX_CPU).restarted(), job_bundles=frozenset({ONE, TWO}))
    await asyncio.gather(*(extend(enclave, digest) for digest in (ONE, TWO) * 8), *(evidence(enclave) for _ in "abc"))
    assert sorted(await bundles_shown(enclave)) == sorted([ONE, TWO])


@pytest.mark.parametrize("approved", [frozenset(), frozenset({ONE})], ids=["none", "another"])
async def test_code_that_the_hosts_policy_does_not_name_is_refused_and_leaves_no_mark(
    start: Starter, approved: frozenset[bytes]
) -> None:
    hardware = host(TDX_CPU).restarted()
    enclave = await start(attester=hardware, job_bundles=approved)
    refusal = (await control(enclave, "POST", "/extend", {"job_bundle": FOREIGN.hex()}))["error"]
    assert refusal["code"] == "bundle_not_allowed"
    assert f"{FOREIGN.hex()} is not among the {len(approved)} job_bundles" in refusal["message"]
    assert "have it approved" in refusal["message"]
    assert await bundles_shown(enclave) == []
    assert verify(await evidence(enclave), policy(hardware), nonce=NONCE, now=NOW)


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        pytest.param(lambda: host(SNP_CPU).restarted(), "sev-snp has no runtime register", id="sev-snp"),
        pytest.param(NoTee, "this host has no TEE", id="open"),
    ],
)
async def test_a_host_that_could_not_prove_the_code_refuses_it_with_the_reason(
    start: Starter, hardware: Callable[[], SimulatedHost | NoTee], words: str
) -> None:
    enclave = await start(attester=hardware(), job_bundles=frozenset({ONE}))
    refusal = (await control(enclave, "POST", "/extend", {"job_bundle": ONE.hex()}))["error"]
    assert (refusal["code"], words in refusal["message"]) == ("no_register", True)
    assert "run the job on a TDX host" in refusal["message"]


@dataclass
class Register:
    """Hardware whose register fails once the enclave runs."""

    failure: Exception
    logged: list[LogEvent] = field(default_factory=list)

    def extend(self, event: LogEvent) -> None:
        if event.kind is EventKind.JOB_BUNDLE:
            raise self.failure
        self.logged.append(event)

    def attest(self, base: Transcript) -> Attestation:
        return NoTee().attest(base)


@pytest.mark.parametrize(
    ("failure", "code"),
    [(RestartNeededError("RTMR3 is another"), "restart_needed"), (AttesterError("the log is full"), "not_logged")],
)
async def test_code_that_may_not_be_logged_is_not_said_to_be(start: Starter, failure: Exception, code: str) -> None:
    enclave = await start(attester=Register(failure), job_bundles=frozenset({ONE}))
    refusal = (await control(enclave, "POST", "/extend", {"job_bundle": ONE.hex()}))["error"]
    assert (refusal["code"], str(failure) in refusal["message"]) == (code, True)


@pytest.mark.parametrize("value", ["", "00", ONE.hex() + "00", "x" * 64, 5, None, [ONE.hex()]])
async def test_what_is_no_digest_is_refused(start: Starter, value: object) -> None:
    enclave = await start(attester=host(TDX_CPU).restarted(), job_bundles=frozenset({ONE}))
    assert (await control(enclave, "POST", "/extend", {"job_bundle": value}))["error"]["code"] == "invalid_value"
    assert (await control(enclave, "POST", "/extend", b"[]"))["error"]["code"] == "invalid_json"


async def test_nobody_but_the_control_socket_can_have_code_logged(start: Starter) -> None:
    enclave = await start(attester=host(TDX_CPU).restarted(), job_bundles=frozenset({ONE}))
    body = b'{"job_bundle": "%s"}' % ONE.hex().encode()
    assert (await post(enclave.address, "/extend", body)).error() == (400, "malformed_envelope")
    assert await bundles_shown(enclave) == []


async def test_an_enclave_that_comes_back_in_the_same_guest_still_shows_the_code(start: Starter) -> None:
    hardware = host(TDX_CPU).restarted()
    first = await start(attester=hardware, job_bundles=frozenset({ONE}))
    await extend(first, ONE)
    await first.stop(0.1)
    second = await start(attester=hardware)
    assert await bundles_shown(second) == [ONE]


def test_the_hosts_policy_is_read_strictly_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        f"roots: none\nunsafe_simulated_roots: {{intel: ['{os.urandom(32).hex()}']}}\njob_bundles: ['{ONE.hex()}']\n"
    )
    assert load(tmp_path, GOOD | {"job_policy": "policy.yaml"}).job_bundles == frozenset({ONE})
    assert load(tmp_path, GOOD).job_bundles == frozenset()
    file.write_text("job_bundels: []\n")
    for wrong in ("policy.yaml", "nothing.yaml", ""):
        with pytest.raises(StartError, match="job_policy"):
            load(tmp_path, GOOD | {"job_policy": wrong})


def write_policy(file: Path, *bundles: bytes, key: str = "job_bundles") -> None:
    listed = ", ".join(f"'{digest.hex()}'" for digest in bundles)
    file.write_text(f"roots: none\nunsafe_simulated_roots: {{intel: ['{'11' * 32}']}}\n{key}: [{listed}]\n")


async def test_a_changed_policy_counts_without_a_restart_and_an_invalid_one_leaves_the_last(
    start: Starter, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    write_policy(file, ONE)
    enclave = await start(attester=host(TDX_CPU).restarted(), job_bundles=frozenset({ONE}), job_policy=file)

    async def refusal(digest: bytes) -> str:
        return (await extend(enclave, digest))["error"]["message"]

    assert "not among the 1 job_bundles" in await refusal(TWO)
    write_policy(file, TWO, key="job_bundels")
    for digest in (TWO, FOREIGN):
        assert "a newer file was not taken" in await refusal(digest)
        assert "job_bundels" in await refusal(digest)
    assert (await extend(enclave, ONE))["state"] == "logged", "the last good list holds"
    file.unlink()
    assert "a newer file was not taken" in await refusal(TWO)
    write_policy(file, TWO)
    assert (await extend(enclave, TWO))["state"] == "logged"
    assert "not among the 1 job_bundles of this host's policy: have it approved" in await refusal(FOREIGN)
    write_policy(file)
    assert "not among the 0 job_bundles" in await refusal(ONE), "taken off the list"
    assert sorted(await bundles_shown(enclave)) == sorted([ONE, TWO])
