"""The SEV-SNP part of a policy file, and the floor file: every name known, every word of its kind, never back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from attestation import AppraisalPolicy, PolicyError
from attestation.__main__ import main
from attestation.evidence import encode_evidence
from attestation.snp_floor import FLOOR_FILE_SIZE_MAX, SnpFloorFile, accept_floor_file, parse_floor_file
from attestation.snp_policy import (
    SnpGuestRules,
    SnpIdentityRules,
    SnpPlatformRules,
    SnpRules,
    SnpSigningKey,
    SnpTcb,
    SnpTcbFloor,
    Want,
)
from tests.attestation.hosts import MODEL, NONCE, SNP_CPU, evidence_of, host, vendors
from tests.attestation.vendors import NOW

REFERENCE = "reference: {measurements: [], models: []}\n"
FLOOR_FILE = """
version: 1
number: 3
dated: "2026-06-01"
products:
  milan: {bootloader: 4, tee: 0, snp: 24, microcode: 219}
  turin: {fmc: 1, bootloader: 1, tee: 2, snp: 4, microcode: 77}
"""
MILAN = SnpTcb(bootloader=4, tee=0, snp=24, microcode=219)
ISSUE = SnpFloorFile(
    number=3,
    dated=date(2026, 6, 1),
    floor=SnpTcbFloor(milan=MILAN, turin=SnpTcb(fmc=1, bootloader=1, tee=2, snp=4, microcode=77)),
)


def _policy(text: str) -> AppraisalPolicy:
    return AppraisalPolicy.from_yaml(REFERENCE + text)


def test_a_policy_that_says_nothing_has_the_strict_rules() -> None:
    assert _policy("").snp_rules == SnpRules()
    assert SnpRules().signing_keys == {SnpSigningKey.VCEK}
    assert SnpRules().guest.cxl is Want.FORBIDDEN
    assert SnpRules().platform.alias_check_complete is Want.REQUIRED


def test_every_rule_is_read() -> None:
    policy = _policy(f"""
snp_signing_keys: [VCEK, VLEK]
snp_guest:
  abi_min: "1.51"
  smt: forbidden
  single_socket: required
  cxl: any
  mem_aes_256_xts: required
  rapl_disabled: required
  ciphertext_hiding: required
  page_swap_disabled: required
snp_platform:
  firmware_min: "1.55.39"
  smt: forbidden
  tsme: required
  ecc: required
  rapl_disabled: required
  ciphertext_hiding: required
  alias_check_complete: any
  tio: forbidden
  mitigations: 0x5
snp_identity:
  id_keys: ["{"11" * 48}"]
  author_keys: ["{"22" * 48}"]
  family_ids: ["{"33" * 16}"]
  image_ids: ["{"44" * 16}"]
  svn_min: 2
""")
    needed = dict.fromkeys(("rapl_disabled", "ciphertext_hiding"), Want.REQUIRED)
    assert policy.snp_rules == SnpRules(
        signing_keys=frozenset(SnpSigningKey),
        guest=SnpGuestRules(
            abi_min=(1, 51),
            smt=Want.FORBIDDEN,
            single_socket=Want.REQUIRED,
            cxl=Want.ANY,
            mem_aes_256_xts=Want.REQUIRED,
            page_swap_disabled=Want.REQUIRED,
            **needed,
        ),
        platform=SnpPlatformRules(
            firmware_min=(1, 55, 39),
            smt=Want.FORBIDDEN,
            tsme=Want.REQUIRED,
            ecc=Want.REQUIRED,
            alias_check_complete=Want.ANY,
            tio=Want.FORBIDDEN,
            mitigations=5,
            **needed,
        ),
        identity=SnpIdentityRules(
            id_keys=frozenset({b"\x11" * 48}),
            author_keys=frozenset({b"\x22" * 48}),
            family_ids=frozenset({b"\x33" * 16}),
            image_ids=frozenset({b"\x44" * 16}),
            svn_min=2,
        ),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("snp_guest: {debug: any}", "unknown key 'debug'", id="debugging-cannot-be-allowed"),
        pytest.param("snp_guest: {migrate_ma: any}", "unknown key 'migrate_ma'", id="nor-migration"),
        pytest.param("snp_guest: {smt: yes}", "snp_guest.smt: want any", id="yes-is-no-word-of-a-rule"),
        pytest.param("snp_guest: {smt: on}", "want any, required, forbidden", id="nor-is-on"),
        pytest.param("snp_guest: {abi_min: 1.51}", "2 numbers with dots", id="a-fraction-is-no-version"),
        pytest.param('snp_guest: {abi_min: "1"}', "2 numbers with dots", id="half-a-version"),
        pytest.param('snp_guest: {abi_min: "1.-1"}', "2 numbers with dots", id="negative-version"),
        pytest.param("snp_guest: {}", "empty or no map", id="empty-guest-rules"),
        pytest.param("snp_platform: {alias: any}", "unknown key 'alias'", id="unknown-machine-setting"),
        pytest.param('snp_platform: {firmware_min: "1.55"}', "3 numbers with dots", id="firmware-without-build"),
        pytest.param("snp_platform: {mitigations: all}", "whole number", id="mitigations-in-words"),
        pytest.param("snp_platform: {mitigations: -1}", "64 bits", id="negative-mitigations"),
        pytest.param("snp_identity: {id_keys: []}", "empty list would ask nothing", id="no-id-key-allowed"),
        pytest.param("snp_identity: {id_keys: ['00']}", "48 bytes in hex", id="short-id-key"),
        pytest.param("snp_identity: {image_ids: [" + "44" * 16 + "]}", "list of texts", id="image-id-as-a-number"),
        pytest.param("snp_identity: {svn_min: 2}", "mean nothing without", id="guest-version-nobody-signed"),
        pytest.param(
            f"snp_identity: {{family_ids: ['{'33' * 16}']}}", "mean nothing without", id="family-nobody-signed"
        ),
        pytest.param("snp_signing_keys: []", "VCEK, VLEK or both", id="no-key"),
        pytest.param("snp_signing_keys: [ARK]", "VCEK, VLEK or both", id="unknown-key"),
        pytest.param("snp_signing_keys: VCEK", "list of texts", id="keys-not-in-a-list"),
        pytest.param(
            "snp_floor: {milan: {bootloader: 4, tee: 0, snp: 24, microcode: 256}}", "0 to 255", id="version-too-large"
        ),
        pytest.param(
            "snp_floor: {milan: {bootloader: 4, tee: 0, snp: -1, microcode: 1}}", "0 to 255", id="negative-version-part"
        ),
        pytest.param(
            "snp_floor: {genoa: {fmc: 1, bootloader: 4, tee: 0, snp: 1, microcode: 1}}", "want bootl", id="fmc-on-genoa"
        ),
    ],
)
def test_refused_policy(text: str, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        _policy(text)


def test_a_floor_file_is_read() -> None:
    assert parse_floor_file(FLOOR_FILE) == ISSUE
    assert parse_floor_file(FLOOR_FILE.replace('"', "")) == ISSUE, "YAML makes a day of it where it is not quoted"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        pytest.param("version: 1", "version: 2", "format version 2", id="later-format"),
        pytest.param("number: 3", "number: 0", "at least 1", id="number-zero"),
        pytest.param("number: 3", "number: third", "whole number", id="number-in-words"),
        pytest.param("number: 3\n", "", "lacks number", id="no-number"),
        pytest.param('"2026-06-01"', "June", "want a day", id="month"),
        pytest.param("milan", "rome", "unknown key 'rome'", id="unknown-product"),
        pytest.param("snp: 24, ", "", "want bootloader", id="missing-part"),
        pytest.param("number: 3", "number: 3\nnumber: 4", "given twice", id="two-numbers"),
        pytest.param("number: 3", "number: 3\nsigned: yes", "unknown key 'signed'", id="unknown-key"),
        pytest.param("number: 3", "number: [", "not YAML", id="no-yaml"),
        pytest.param("number: 3", "number: 3" + " " * FLOOR_FILE_SIZE_MAX, "at most", id="too-large"),
        pytest.param("2026-06-01", "2026-13-01", "want a day", id="month-thirteen"),
    ],
)
def test_refused_floor_file(old: str, new: str, why: str) -> None:
    assert old in FLOOR_FILE
    with pytest.raises(PolicyError, match=why):
        parse_floor_file(FLOOR_FILE.replace(old, new))


def test_a_later_issue_replaces_an_earlier_one() -> None:
    later = replace(ISSUE, number=4, floor=SnpTcbFloor(milan=MILAN))
    assert accept_floor_file(ISSUE, None) is ISSUE
    assert accept_floor_file(ISSUE, ISSUE) is ISSUE
    assert accept_floor_file(later, ISSUE) is later


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"number": 2}, id="earlier-number"),
        pytest.param({"number": 2, "dated": date(2027, 1, 1)}, id="earlier-number-under-a-later-date"),
        pytest.param({"number": 4, "dated": date(2026, 5, 31)}, id="earlier-date-under-a-later-number"),
        pytest.param({"floor": SnpTcbFloor(milan=MILAN)}, id="other-contents-under-the-same-number"),
    ],
)
def test_a_floor_never_goes_back(change: dict[str, object]) -> None:
    with pytest.raises(PolicyError, match="only go forward"):
        accept_floor_file(replace(ISSUE, **change), ISSUE)


def test_the_example_in_the_repository_is_a_floor_file() -> None:
    example = Path(__file__).parents[2] / "examples" / "snp_floor.yaml"
    assert parse_floor_file(example.read_text()).floor.milan is not None


def test_a_policy_takes_its_floor_from_one_place() -> None:
    policy = AppraisalPolicy.from_yaml(REFERENCE, snp_floor=ISSUE.floor)
    assert policy.snp_floor == ISSUE.floor
    inline = REFERENCE + "snp_floor: {milan: {bootloader: 0, tee: 0, snp: 0, microcode: 0}}"
    with pytest.raises(PolicyError, match="remove 'snp_floor:'"):
        AppraisalPolicy.from_yaml(inline, snp_floor=ISSUE.floor)


@pytest.mark.parametrize(("microcode", "code"), [(219, 0), (220, 1)])
def test_the_command_judges_by_a_floor_file(tmp_path: Path, microcode: int, code: int) -> None:
    attester = host(SNP_CPU)
    policy = {
        "reference": {"measurements": [attester.measurement_id().hex()], "models": [MODEL.hex()]},
        "roots": "none",
        "unsafe_simulated_roots": {"amd": [vendors().amd.root.hex()]},
        "required_tier": "confidential-cpu",
    }
    files = {
        "evidence.cbor": encode_evidence(evidence_of(attester)),
        "policy.yaml": json.dumps(policy).encode(),
        "floor.yaml": FLOOR_FILE.replace("219", str(microcode)).encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    arguments = [f"--policy={tmp_path / 'policy.yaml'}", f"--nonce={NONCE.hex()}", f"--at={NOW.isoformat()}"]
    assert main(["verify", str(tmp_path / "evidence.cbor"), *arguments]) == 1, "without a floor all of AMD is refused"
    arguments.append(f"--snp-floor={tmp_path / 'floor.yaml'}")
    assert main(["verify", str(tmp_path / "evidence.cbor"), *arguments]) == code
