"""What quotes of all versions have in common: numbers at their places, and the certified quoting enclave at the end.

Source: Intel SGX ECDSA Quote Library API, appendix A (quote version 3); Intel TDX DCAP Quoting Library API,
appendix A (versions 4 and 5).
"""

from __future__ import annotations

import struct
from functools import lru_cache

from attestation.errors import MalformedEvidenceError
from attestation.x509 import parse_pem

QUOTE_SIZE_MAX = 32 * 1024
HEADER_SIZE = 48
ENCLAVE_REPORT_SIZE = 384
KEY_AND_SIGNATURE_SIZE = 64 + 64  # quote signature, attestation key
ATTESTATION_KEY_P256 = 2
CERTIFICATION_PCK_CHAIN = 5
_QE_AUTH_SIZE = 32
_CHAIN_LENGTH = 3  # PCK certificate, PCK CA, root


def read_number(layout: str, data: bytes, at: int) -> int:
    """Return one number of a `struct` layout.

    Raises:
        MalformedEvidenceError: the bytes end before it does.
    """
    try:
        number: int = struct.unpack_from(layout, data, at)[0]
    except struct.error as error:
        raise MalformedEvidenceError(f"quote ends before byte {at}") from error
    return number


def check_size(data: bytes) -> None:
    """Refuse what is too large to be a quote.

    Raises:
        MalformedEvidenceError: larger than 32 KiB.
    """
    if len(data) > QUOTE_SIZE_MAX:
        raise MalformedEvidenceError(f"quote of {len(data)} bytes, at most {QUOTE_SIZE_MAX} are read")


def split_tail(data: bytes, at: int) -> bytes:
    """Return the authentication data, whose length stands at `at`; it must end where the quote ends.

    Raises:
        MalformedEvidenceError: it does not.
    """
    if at + 4 + read_number("<I", data, at) != len(data):
        raise MalformedEvidenceError(f"quote of {len(data)} bytes has another length inside; cut padding off")
    return data[at + 4 :]


@lru_cache(maxsize=256)  # a host sends the same with every quote; the answer depends on the bytes alone
def parse_pck_chain(certification: bytes) -> tuple[bytes, ...]:
    """Walk from the quoting enclave's report down to the PCK chain; every length must meet the end exactly.

    Args:
        certification: authentication data of a quote from the quoting enclave's report on.

    Returns:
        PCK certificate, PCK CA, root, in DER.

    Raises:
        MalformedEvidenceError: anything but that, or bytes left over.
    """
    at = ENCLAVE_REPORT_SIZE + 64  # and its signature
    if read_number("<H", certification, at) != _QE_AUTH_SIZE:
        raise MalformedEvidenceError(f"QE authentication data is not {_QE_AUTH_SIZE} bytes")
    at += 2 + _QE_AUTH_SIZE
    kind, size = read_number("<H", certification, at), read_number("<I", certification, at + 2)
    if (kind, size) != (CERTIFICATION_PCK_CHAIN, len(certification) - at - 6):
        raise MalformedEvidenceError("quote without a PCK certificate chain up to its end")
    text = certification[at + 6 :].removesuffix(b"\0")  # newer quoting enclaves end the text like a C string
    try:
        return parse_pem(text.decode("ascii"), count=_CHAIN_LENGTH)
    except UnicodeDecodeError as error:
        raise MalformedEvidenceError("PCK certificate chain is not text") from error
