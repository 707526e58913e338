"""An Intel SGX quote of version 3 as bytes: read to the last byte, nothing believed.

Source: Intel SGX ECDSA Quote Library API, appendix A.4 (quote version 3); Intel SDM volume 3D, REPORT structure.
"""

from __future__ import annotations

from dataclasses import dataclass

from attestation.errors import MalformedEvidenceError
from attestation.quote_parts import (
    ATTESTATION_KEY_P256,
    ENCLAVE_REPORT_SIZE,
    HEADER_SIZE,
    KEY_AND_SIGNATURE_SIZE,
    check_size,
    parse_pck_chain,
    read_number,
    split_tail,
)

SGX_VERSION = 3
_RESERVED = ((20, 32), (96, 128), (160, 192), (262, 304))  # of the report; zero
_SIGNED_END = HEADER_SIZE + ENCLAVE_REPORT_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """What the processor says about one enclave.

    Attributes:
        cpu_svn: security versions of the processor, 16 bytes.
        misc_select: extra state saved at exits.
        isv_ext_prod_id: extended product id, 16 bytes; zero without KSS.
        attributes: attribute bits; bit 0 is initialised, bit 1 debug.
        xfrm: extended features the enclave may use.
        mr_enclave: measurement of the enclave, 32 bytes.
        mr_signer: SHA-256 of the key that signed it, 32 bytes.
        config_id: configuration named at launch by whoever launched it, 64 bytes; not part of `mr_enclave`.
        isv_prod_id: product number the signer gave.
        isv_svn: security version the signer gave.
        config_svn: security version of the configuration.
        isv_family_id: product family, 16 bytes; zero without KSS.
        report_data: chosen by the enclave, 64 bytes.
    """

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: int
    xfrm: int
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxQuote:
    """The parts of a quote the appraisal needs.

    Attributes:
        report: the enclave's report.
        level: all that decides the platform's TCB level: header, security versions, certification data.
        chain: PCK certificate, PCK CA, root, in DER.
    """

    report: EnclaveReport
    level: tuple[bytes, bytes]
    chain: tuple[bytes, ...]


def parse_sgx_quote(data: bytes) -> SgxQuote:
    """Read a quote of exactly its own length.

    Raises:
        MalformedEvidenceError: not an SGX quote of version 3 with a P-256 key and its PCK chain, or bytes left over
            or not zero where they must be.
    """
    check_size(data)
    version, key_type, tee_type = read_number("<H", data, 0), read_number("<H", data, 2), read_number("<I", data, 4)
    if (version, key_type, tee_type) != (SGX_VERSION, ATTESTATION_KEY_P256, 0):
        raise MalformedEvidenceError(
            f"quote of version {version}, key type {key_type}, TEE type 0x{tee_type:x} is not SGX version 3 over P-256"
        )
    tail = split_tail(data, _SIGNED_END)
    report = parse_enclave_report(data[HEADER_SIZE:_SIGNED_END])
    certification = tail[KEY_AND_SIGNATURE_SIZE:]
    return SgxQuote(
        report=report, level=(data[:HEADER_SIZE] + report.cpu_svn, certification), chain=parse_pck_chain(certification)
    )


def parse_enclave_report(data: bytes) -> EnclaveReport:
    """Read an enclave report.

    Raises:
        MalformedEvidenceError: not 384 bytes, or a reserved byte is set.
    """
    if len(data) != ENCLAVE_REPORT_SIZE:
        raise MalformedEvidenceError(f"enclave report of {len(data)} bytes, want {ENCLAVE_REPORT_SIZE}")
    if any(any(data[start:end]) for start, end in _RESERVED):
        raise MalformedEvidenceError("enclave report with a reserved byte set")
    return EnclaveReport(
        cpu_svn=data[0:16],
        misc_select=int.from_bytes(data[16:20], "little"),
        isv_ext_prod_id=data[32:48],
        attributes=int.from_bytes(data[48:56], "little"),
        xfrm=int.from_bytes(data[56:64], "little"),
        mr_enclave=data[64:96],
        mr_signer=data[128:160],
        config_id=data[192:256],
        isv_prod_id=int.from_bytes(data[256:258], "little"),
        isv_svn=int.from_bytes(data[258:260], "little"),
        config_svn=int.from_bytes(data[260:262], "little"),
        isv_family_id=data[304:320],
        report_data=data[320:384],
    )
