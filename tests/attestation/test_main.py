"""`python -m attestation verify`: exit 0 held, 1 refused, 2 could not tell."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from attestation import encode_evidence
from attestation.__main__ import main
from attestation.simulate import Fault
from tests.attestation.hosts import MODEL, NONCE, TDX_CPU, evidence_of, host, vendors
from tests.attestation.vendors import NOW


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    attester = host(TDX_CPU, 1)
    (tmp_path / "evidence.cbor").write_bytes(encode_evidence(evidence_of(attester)))
    roots = vendors().roots()
    pins = {"intel": [pin.hex() for pin in roots.intel], "nvidia": [pin.hex() for pin in roots.nvidia]}
    policy = {
        "reference": {
            "measurements": [attester.measurement_id().hex()],
            "rims": sorted(digest.hex() for digest in attester.rim_digests()),
            "models": [MODEL.hex()],
        },
        "roots": "none",
        "unsafe_simulated_roots": pins,
    }
    (tmp_path / "policy.yaml").write_text(json.dumps(policy))
    return [
        "verify",
        str(tmp_path / "evidence.cbor"),
        f"--policy={tmp_path / 'policy.yaml'}",
        f"--nonce={NONCE.hex()}",
        f"--at={NOW.isoformat()}",
    ]


def test_evidence_that_holds_exits_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "held: host" in capsys.readouterr().out


def test_a_verdict_is_printed_as_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["outcome"], document["tier"], document["simulated"]) == ("held", "confidential", True)


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_refused_evidence_exits_1_and_says_why(
    arguments: list[str], json_flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(arguments[1]).write_bytes(encode_evidence(evidence_of(host(TDX_CPU, 1, Fault.DEBUG_GUEST))))
    assert main([*arguments, *json_flag]) == 1
    printed = capsys.readouterr().out
    assert "GuestPolicyError" in printed
    if json_flag:
        assert json.loads(printed)["checks"][-1]["outcome"] == "failed"


def test_a_file_that_is_no_evidence_exits_1(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(arguments[1]).write_bytes(b"no evidence")
    assert main(arguments) == 1
    assert "MalformedEvidenceError" in capsys.readouterr().out


def test_the_time_can_be_given_as_unix_seconds(arguments: list[str]) -> None:
    later = int((NOW + timedelta(days=60)).timestamp())
    assert main([*arguments[:-1], f"--at={int(NOW.timestamp())}"]) == 0
    assert main([*arguments[:-1], f"--at={later}"]) == 1


@pytest.mark.parametrize(("index", "value"), [(1, "missing.cbor"), (2, "--policy=missing.yaml")])
def test_a_missing_file_exits_2(
    arguments: list[str], index: int, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments[index] = value
    assert main(arguments) == 2
    assert "could not tell" in capsys.readouterr().err


def test_an_unusable_policy_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(arguments[2].removeprefix("--policy=")).write_text("nonsense: 1")
    assert main(arguments) == 2
    assert "unknown key" in capsys.readouterr().err


@pytest.mark.parametrize(("index", "value"), [(3, "--nonce=00"), (3, "--nonce=zz"), (4, "--at=yesterday")])
def test_wrong_arguments_exit_2(
    arguments: list[str], index: int, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments[index] = value
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err
