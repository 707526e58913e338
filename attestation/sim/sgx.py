"""Simulated SGX enclaves: quotes of version 3, byte-exact and signed for real, under a simulated Intel's root."""

from __future__ import annotations

import hashlib

from attestation.sgx_quote import SGX_VERSION
from attestation.sim.quote import EnclaveIdentity, quote_header, sign_quote
from attestation.sim.tdx import SimulatedTdxPlatform

MR_ENCLAVE_MARK = b"SIMULATED SGX\0\0\0"  # first 16 bytes of mr_enclave


def enclave_of(name: str) -> EnclaveIdentity:
    """Return an enclave with this name, product 1 in security version 3 of a simulated signer."""
    return EnclaveIdentity(
        mr_enclave=MR_ENCLAVE_MARK + hashlib.sha256(name.encode()).digest()[:16],
        mr_signer=hashlib.sha256(b"Simulated enclave signer").digest(),
        isv_prod_id=1,
        isv_svn=3,
    )


def sgx_quote(
    platform: SimulatedTdxPlatform, enclave: EnclaveIdentity, report_data: bytes, *, foreign_key: bool = False
) -> bytes:
    """Return a quote for an enclave on this platform.

    Args:
        platform: the processor.
        enclave: what runs; its faults are in its fields.
        report_data: 64 bytes.
        foreign_key: signed by a key the quoting enclave did not certify.
    """
    signed = quote_header(SGX_VERSION, 0) + enclave.report(report_data)
    return sign_quote(signed, tee="sgx", pck_key=platform.pck_key, chain=platform.chain, foreign_key=foreign_key)
