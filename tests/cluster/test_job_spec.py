from pathlib import Path

import pytest
from typer.testing import CliRunner

from attestation.verdict import TeeKind, Tier
from chrysalis.cli import app
from cluster.errors import ConfigError
from cluster.job_spec import load_spec, measurable
from cluster.model import JobRequirement

FULL = """\
working_dir: code
requirement: {tier: confidential-cpu, tees: [tdx, sev-snp], gpus: 2, gpu_models: [GH100], gpu_cc: true, location: eu}
env: {MODE: fast, A: b}
timeout_s: 60
wait_s: 5
"""


def load(tmp_path: Path, text: str):
    (tmp_path / "job.yaml").write_text(text)
    return load_spec(tmp_path / "job.yaml")


def test_a_spec_is_read_with_strict_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path, FULL)
    assert spec.requirement == JobRequirement(
        tier=Tier.CONFIDENTIAL_CPU,
        tees=frozenset({TeeKind.TDX, TeeKind.SEV_SNP}),
        gpus_min=2,
        gpu_models=frozenset({"GH100"}),
        gpu_cc=True,
        location="eu",
        duration_s=60,
    )
    assert (spec.working_dir, spec.env, spec.wait_s) == (tmp_path / "code", (("A", "b"), ("MODE", "fast")), 5)
    assert load(tmp_path, "working_dir: code").requirement.tier is Tier.CONFIDENTIAL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a mapping"),
        ("[", "job.yaml"),
        ("working_dir: 3", "working_dir must be a path"),
        ("working_dir: a\nmore: 1", "unknown keys: more"),
        ("working_dir: a\nrequirement: {gpu: 1}", "unknown keys: gpu"),
        ("working_dir: a\nrequirement: {tier: best}", "tier must be of"),
        ("working_dir: a\nrequirement: {tees: [sgx]}", "tees must be of"),
        ("working_dir: a\nrequirement: {tees: tdx}", "must be a list"),
        ("working_dir: a\nrequirement: {gpus: true}", "gpus must be a whole number"),
        ("working_dir: a\nrequirement: {model: abc}", "64 hex digits"),
        ("working_dir: a\ntimeout_s: 0", "timeout_s must be"),
        ("working_dir: a\nenv: {HF_TOKEN: x}", "HF_TOKEN looks like a secret"),
        ("working_dir: a\nenv: {api_key: x}", "api_key looks like a secret"),
        ("working_dir: a\nenv: {LD_PRELOAD: x}", "LD_PRELOAD is set by the host"),
        ("working_dir: a\nenv: {RAY_ADDRESS: x}", "RAY_ADDRESS is set by the host"),
        ("working_dir: a\nenv: {CHRYSALIS_ENCLAVE_CONTROL: x}", "CHRYSALIS_ENCLAVE_CONTROL is set by the host"),
        ("working_dir: a\nenv: {A: 1}", "must be text"),
        ("working_dir: a\nenv: {'A=B': x}", "is not the name"),
        ("#" + "x" * 70_000, "has more than 65536 bytes"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, text)


def test_code_that_is_measured_runs_where_a_register_proves_it(tmp_path: Path) -> None:
    for text, tees in (("", {"tdx"}), ("requirement: {tees: [tdx, sev-snp]}", {"tdx"})):
        assert measurable(load(tmp_path, f"working_dir: code\n{text}")).requirement.tees == tees
    with pytest.raises(ConfigError, match=r"SEV-SNP has no register .* write `tees: \[tdx\]`"):
        measurable(load(tmp_path, "working_dir: code\nrequirement: {tees: [sev-snp]}"))


def test_attested_hosts_get_approved_code_only(tmp_path: Path) -> None:
    load(tmp_path, "working_dir: code")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("1")
    (tmp_path / "policy.yaml").write_text("roots: none\nunsafe_simulated_roots: {intel: ['" + "00" * 32 + "']}\n")
    command = ["submit", "job", "--spec", str(tmp_path / "job.yaml")]
    done = CliRunner().invoke(app, [*command, "--", "python", "a.py"])
    assert (done.exit_code, "approved code only" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, [*command, "--policy", str(tmp_path / "policy.yaml"), "--", "python", "a.py"])
    assert (done.exit_code, "is not among the 0 job_bundles of the policy" in done.stderr) == (2, True)
