"""`python -m attestation verify`: exit 0 held, 1 refused, 2 could not tell."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from attestation import encode_evidence
from attestation.__main__ import main
from attestation.result_token import verify_result
from attestation.simulate import Fault
from chrysalis.cli import app
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
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("held: host")
    assert [line for line in printed.splitlines() if line.startswith("==")] == ["== host", "== cpu0", "== gpu0"]


def test_a_verdict_is_printed_as_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["chrysalis-outcome"], document["chrysalis-simulated"]) == ("held", True)
    assert document["chrysalis-verdict"]["tier"] == "confidential"


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_refused_evidence_exits_1_and_says_why(
    arguments: list[str], json_flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(arguments[1]).write_bytes(encode_evidence(evidence_of(host(TDX_CPU, 1, Fault.DEBUG_GUEST))))
    assert main([*arguments, *json_flag]) == 1
    printed = capsys.readouterr().out
    assert "GuestPolicyError" in printed
    if json_flag:
        document = json.loads(printed)
        assert document["chrysalis-reason"] == "GuestPolicyError"
        assert document["chrysalis-checks"][-1]["outcome"] == "failed"
    else:
        assert printed.splitlines()[-1].startswith("refused: GuestPolicyError")


@pytest.mark.parametrize("fault", [Fault.CC_OFF, Fault.CC_DEVTOOLS, Fault.ALTERED_GPU_FIRMWARE])
def test_a_gpu_that_is_open_is_never_exit_0(
    arguments: list[str], fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(arguments[1]).write_bytes(encode_evidence(evidence_of(host(TDX_CPU, 1, fault))))
    without_nonce = [argument for argument in arguments if not argument.startswith("--nonce")]
    for form in ([], ["--json"]):
        assert main([*arguments, *form]) == 1
        assert main([*without_nonce, *form]) == 1
    assert "held: host" not in capsys.readouterr().out


def test_without_the_nonce_that_was_sent_nobody_can_tell_and_nothing_can_be_used(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    del arguments[3]
    assert main([*arguments, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["chrysalis-reason"] == "NonceNotGiven"
    assert "chrysalis-verdict" not in document
    assert document["chrysalis-checks"][0] == {
        "name": "nonce",
        "seen": "-",
        "required": "the nonce that was sent",
        "outcome": "not applicable",
    }
    assert "failed" not in {check["outcome"] for check in document["chrysalis-checks"]}


def test_a_recording_that_does_not_hold_is_refused_without_a_nonce_too(arguments: list[str]) -> None:
    Path(arguments[1]).write_bytes(encode_evidence(evidence_of(host(TDX_CPU, 1, Fault.DEBUG_GUEST))))
    del arguments[3]
    assert main(arguments) == 1


def test_the_result_can_be_signed(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    assert main([*arguments, f"--sign-key={tmp_path / 'key.pem'}"]) == 0
    claims = verify_result(capsys.readouterr().out.strip(), key.public_key(), now=NOW, age_max_s=1)
    assert claims["chrysalis-outcome"] == "held"


def test_a_key_of_another_kind_exits_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    assert main([*arguments, f"--sign-key={tmp_path / 'key.pem'}"]) == 2
    assert "another key than Ed25519" in capsys.readouterr().err


def test_the_command_of_the_network_is_the_same_one(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("held: host")


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
