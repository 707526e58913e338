"""The simulated NVIDIA: looks like the genuine one byte by byte, says what it is, and GPUs hold no key of it."""

from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificate import SEQUENCE, Certificate, read_elements, read_one
from attestation.errors import AttestationError
from attestation.nvidia import check_report
from attestation.rim import parse_rim
from attestation.sim.der import key_bytes
from attestation.sim.firmware import GPU_MODELS
from attestation.sim.gpu import SimulatedGpu
from attestation.sim.nvidia import SimulatedNvidia
from attestation.spdm import parse_spdm
from tests.attestation.vendors import NOW, gpu, nvidia, vector

NONCE = b"n" * 32


def _genuine_chain() -> list[Certificate]:
    pem = vector("nvidia-gpu/h100_spt_chain.pem").read_bytes()
    return [Certificate.parse(cert.public_bytes(Encoding.DER)) for cert in x509.load_pem_x509_certificates(pem)]


def test_certificates_say_simulated() -> None:
    for der in gpu().chain:
        assert b"Simulated" in Certificate.parse(der).subject


def test_the_chain_has_the_shape_of_a_genuine_one() -> None:
    simulated = [Certificate.parse(der) for der in gpu().chain]
    genuine = _genuine_chain()
    assert len(simulated) == len(genuine)
    assert [each.is_authority() for each in simulated] == [each.is_authority() for each in genuine]
    assert [each.not_after for each in simulated] == [each.not_after for each in genuine]
    fwid = bytes.fromhex("678105050401")
    assert len(simulated[0].extensions[fwid]) == len(genuine[0].extensions[fwid])


def test_a_report_has_the_fields_of_a_genuine_one_in_its_order() -> None:
    genuine = parse_spdm(bytes.fromhex(vector("nvidia-gpu/h100_spt_report.hex").read_text()))
    simulated = parse_spdm(gpu().attest(NONCE).report)
    newer = (34, 36)  # written by drivers since 590
    assert [number for number in simulated.opaque if number not in newer] == list(genuine.opaque)
    sizes = {number: len(value) for number, value in genuine.opaque.items()}
    assert {number: len(simulated.opaque[number]) for number in sizes} == sizes
    assert len(simulated.measurements) == len(genuine.measurements)


def test_a_blackwell_report_and_leaf_look_like_a_genuine_one() -> None:
    genuine = parse_spdm(bytes.fromhex(vector("nvidia-gpu/blackwell_report.hex").read_text()))
    pem = vector("nvidia-gpu/blackwell_chain.pem").read_bytes()
    leaf = Certificate.parse(x509.load_pem_x509_certificates(pem)[0].public_bytes(Encoding.DER))
    device = nvidia().make_gpu("B200")
    simulated = parse_spdm(device.attest(NONCE).report)
    newer = (35, 36)  # written by drivers since 580
    assert [number for number in simulated.opaque if number not in newer] == list(genuine.opaque)
    assert len(simulated.measurements) == len(genuine.measurements)
    tcb_info = bytes.fromhex("67810505040101")
    mine = read_one(Certificate.parse(device.chain[0]).extensions[tcb_info], SEQUENCE)
    theirs = read_one(leaf.extensions[tcb_info], SEQUENCE)
    known = [part.tag for part in read_elements(theirs)][:8]
    assert [part.tag for part in read_elements(mine)] == known


def test_a_manifest_has_the_attributes_of_a_genuine_one() -> None:
    genuine = vector("nvidia-gpu/NV_GPU_DRIVER_GH100_550.144.03.xml").read_text()
    simulated = GPU_MODELS["H100"].driver_manifest().decode()
    first = genuine.index("<ns0:Resource"), simulated.index("<ns0:Resource")
    line = [text[at : text.index("\n", at)] for text, at in zip((genuine, simulated), first, strict=True)]
    assert line[0] == line[1]
    assert set(parse_rim(genuine.encode()).measurements) == set(parse_rim(simulated.encode()).measurements)


@pytest.mark.parametrize("model", GPU_MODELS)
def test_manifests_are_the_same_bytes_everywhere(model: str) -> None:
    one, other = nvidia().make_gpu(model), SimulatedNvidia.create(NOW).make_gpu(model)
    assert one.rims == other.rims
    assert GPU_MODELS[model].manifest_digests() == {sha256(rim).digest() for rim in one.rims}


def test_a_saved_gpu_works_and_holds_no_vendor_key() -> None:
    saved = gpu().to_bytes()
    again = SimulatedGpu.from_bytes(saved)
    assert (again.firmware, again.chain, again.rims) == (gpu().firmware, gpu().chain, gpu().rims)
    rims = {sha256(rim).digest(): rim for rim in again.rims}
    check_report(again.attest(NONCE), nonce=NONCE, roots=frozenset({nvidia().root}), rims=rims, now=NOW)
    secret = nvidia().provisioner_key.private_numbers().private_value.to_bytes(48, "big")
    assert secret in key_bytes(nvidia().provisioner_key)
    assert secret not in saved


def test_a_saved_vendor_is_the_same_vendor() -> None:
    again = SimulatedNvidia.from_bytes(nvidia().to_bytes())
    assert (again.root, again.authorities, again.issued) == (nvidia().root, nvidia().authorities, nvidia().issued)
    device = again.make_gpu()
    rims = {sha256(rim).digest(): rim for rim in device.rims}
    check_report(device.attest(NONCE), nonce=NONCE, roots=frozenset({nvidia().root}), rims=rims, now=NOW)


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\xff" * 40])
def test_damaged_files_are_refused(data: bytes) -> None:
    for read in (SimulatedNvidia.from_bytes, SimulatedGpu.from_bytes):
        with pytest.raises((ValueError, AttestationError)):
            read(data)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="H100"):
        nvidia().make_gpu("TNT2")


def test_a_nonce_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        gpu().attest(b"short")
