"""The simulated AMD: looks like the genuine one byte by byte, says what it is, and hosts hold no key of it."""

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificate import BASIC_CONSTRAINTS, KEY_USAGE, Certificate
from attestation.errors import AttestationError
from attestation.policy import SnpTcbFloor
from attestation.sim.der import key_bytes
from attestation.sim.snp import SIMULATED_TCB, SimulatedAmd, SimulatedSnpPlatform
from attestation.snp import check_report, parse_report
from attestation.snp_tcb import SnpProduct
from tests.attestation.vendors import NOW, amd, vector

FLOOR = SnpTcbFloor(milan=SIMULATED_TCB, genoa=SIMULATED_TCB, turin=SIMULATED_TCB)


def test_certificates_say_simulated() -> None:
    platform = amd().make_platform()
    for der in (platform.vcek, platform.ask, platform.ark):
        assert b"Simulated" in Certificate.parse(der).subject


@pytest.mark.parametrize("product", ["milan", "turin"])
def test_chip_certificates_have_the_extensions_and_serial_of_genuine_ones(product: str) -> None:
    genuine = Certificate.parse(vector(f"sev-snp/virtee_{product}_vcek.der").read_bytes())
    simulated = Certificate.parse(amd().make_platform(product=SnpProduct(product.capitalize())).vcek)
    reserved = {oid for oid in genuine.extensions if oid[-2:-1] == b"\3" and oid[-1] in range(4, 8)}
    assert set(simulated.extensions) == set(genuine.extensions) - reserved
    assert simulated.serial == genuine.serial == 0


def test_authorities_have_the_rights_of_genuine_ones() -> None:
    genuine = x509.load_pem_x509_certificates(vector("sev-snp/milan_ask_ark.pem").read_bytes())
    ark, ask, _ = amd().authorities[SnpProduct.MILAN]
    for mine, theirs in zip((ask, ark), genuine, strict=True):
        simulated, other = Certificate.parse(mine), Certificate.parse(theirs.public_bytes(Encoding.DER))
        assert simulated.is_authority() and other.is_authority()
        assert simulated.extensions[BASIC_CONSTRAINTS] == other.extensions[BASIC_CONSTRAINTS]
        assert simulated.extensions[KEY_USAGE][-1] == other.extensions[KEY_USAGE][-1]


def test_a_report_differs_from_a_genuine_one_only_in_its_values() -> None:
    genuine = bytes.fromhex(vector("sev-snp/virtee_milan_report.hex").read_text())
    platform = amd().make_platform()
    simulated = platform.report(b"d" * 64, measurement=b"m" * 48)
    unused = [*range(0x3C, 0x3E), *range(0x4C, 0x50), *range(0x18B, 0x1A0), *range(0x1F8, 0x2A0), *range(0x330, 0x4A0)]
    assert len(simulated) == len(genuine)
    assert [simulated[at] for at in unused] == [genuine[at] for at in unused]
    assert simulated[0x1E8:0x1F0].count(0) == genuine[0x1E8:0x1F0].count(0), "two firmware versions, a zero behind each"


def test_a_saved_platform_works_and_holds_no_vendor_key() -> None:
    platform = amd().make_platform(product=SnpProduct.TURIN)
    saved = platform.to_bytes()
    again = SimulatedSnpPlatform.from_bytes(saved)
    report = again.report(b"d" * 64, measurement=b"m" * 48)
    claims = check_report(again.evidence(report), roots=frozenset({amd().root}), floor=FLOOR, now=NOW)
    assert claims.chip_id == platform.chip_id
    for key in (amd().ark_key, amd().ask_key, amd().asvk_key):
        assert key_bytes(key)[-256:] not in saved


def test_a_saved_vendor_is_the_same_vendor() -> None:
    again = SimulatedAmd.from_bytes(amd().to_bytes())
    assert (again.root, again.authorities, again.issued) == (amd().root, amd().authorities, amd().issued)
    platform = again.make_platform()
    report = platform.report(b"d" * 64, measurement=b"m" * 48)
    check_report(platform.evidence(report), roots=frozenset({amd().root}), floor=FLOOR, now=NOW)


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\xff" * 40])
def test_damaged_files_are_refused(data: bytes) -> None:
    for read in (SimulatedAmd.from_bytes, SimulatedSnpPlatform.from_bytes):
        with pytest.raises((ValueError, AttestationError)):
            read(data)


def test_a_vendors_file_is_no_platform() -> None:
    with pytest.raises(ValueError, match="not a saved simulated AMD platform"):
        SimulatedSnpPlatform.from_bytes(amd().to_bytes())


def test_two_platforms_share_neither_chip_nor_key() -> None:
    first, second = amd().make_platform(), amd().make_platform()
    assert first.chip_id != second.chip_id
    assert key_bytes(first.key) != key_bytes(second.key)


def test_values_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64 bytes of report_data"):
        amd().make_platform().report(b"short", measurement=b"m" * 48)


def test_a_report_names_the_tcb_of_its_platform() -> None:
    newer = replace(SIMULATED_TCB, microcode=SIMULATED_TCB.microcode + 1)
    platform = amd().make_platform(tcb=newer)
    report = parse_report(platform.report(b"d" * 64, measurement=b"m" * 48))
    assert {report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb} == {
        bytes([newer.bootloader, newer.tee, 0, 0, 0, 0, newer.snp, newer.microcode])
    }
