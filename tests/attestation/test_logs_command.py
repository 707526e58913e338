"""`python -m attestation logs`: both logs in words, for people; it says of nothing that it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestation import TdxEvidence, encode_evidence
from attestation.__main__ import main
from attestation.eventlog import replay
from attestation.simulate import Fault
from attestation.tdx_quote import parse_quote
from tests.attestation.hosts import MODEL, SNP_CPU, TDX_CPU, evidence_of, host
from tests.attestation.vendors import vector


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["logs", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_both_logs_of_a_host_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = evidence_of(host(TDX_CPU))
    assert isinstance(evidence.cpu, TdxEvidence)
    (tmp_path / "evidence.cbor").write_bytes(encode_evidence(evidence))
    lines = _shown(capsys, str(tmp_path / "evidence.cbor"))
    assert lines[0] == "rtmr0 EV_EFI_VARIABLE_DRIVER_CONFIG: SecureBoot = 01"
    assert f"rtmr3 model {MODEL.hex()[:16]}" in lines
    register = replay(evidence.cpu.log).hex()
    assert lines[-1] == f"rtmr3 = {register} in the quote"
    assert f"rtmr3 = {register} replayed" in lines


def test_a_log_that_lies_is_shown_beside_the_register_that_it_does_not_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = evidence_of(host(TDX_CPU, 0, Fault.UNLOGGED_EXTENSION))
    assert isinstance(evidence.cpu, TdxEvidence)
    (tmp_path / "evidence.cbor").write_bytes(encode_evidence(evidence))
    lines = _shown(capsys, str(tmp_path / "evidence.cbor"))
    assert lines[-1] == f"rtmr3 = {parse_quote(evidence.cpu.quote).body.rtmrs[3].hex()} in the quote"
    assert f"rtmr3 = {replay(evidence.cpu.log).hex()} replayed" in lines
    assert lines[-1].removesuffix("in the quote") not in "".join(line for line in lines if "replayed" in line)


def test_a_genuine_firmware_log_is_shown_with_the_registers_of_its_quote(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _shown(capsys, "--ccel", str(vector("tdx/google_cos113_ccel_data.bin")))
    assert len(lines) == 43 + 3
    body = parse_quote(vector("tdx/google_cos113_v4_quote.bin").read_bytes()[:4935]).body
    assert lines[-3:] == [f"rtmr{number} = {body.rtmrs[number].hex()} replayed" for number in range(3)]


@pytest.mark.parametrize("flag", [[], ["--ccel"]])
def test_what_is_no_log_exits_2(flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"\xff" * 100)
    assert main(["logs", str(tmp_path / "file"), *flag]) == 2
    assert main(["logs", str(tmp_path / "nowhere"), *flag]) == 2
    assert capsys.readouterr().err.count("could not read") == 2


def test_a_host_without_registers_has_no_logs_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evidence.cbor").write_bytes(encode_evidence(evidence_of(host(SNP_CPU))))
    assert main(["logs", str(tmp_path / "evidence.cbor")]) == 2
    assert "not of a TDX host" in capsys.readouterr().err
