"""An Intel TDX quote as bytes: versions 4 and 5, read to the last byte, nothing believed.

Source: Intel TDX DCAP Quoting Library API, appendix A (quote format versions 4 and 5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from attestation.errors import MalformedEvidenceError
from attestation.x509 import parse_pem

QUOTE_SIZE_MAX = 32 * 1024
TEE_TYPE_TDX = 0x81
ATTESTATION_KEY_P256 = 2
BODY_SIZES = {2: 584, 3: 648}  # version 5 body types: TD 1.0 and TD 1.5
CERTIFICATION_QE_REPORT = 6
CERTIFICATION_PCK_CHAIN = 5
_HEADER_SIZE = 48
_BODY_V4 = 584
_QE_AUTH_SIZE = 32
_CHAIN_LENGTH = 3  # PCK certificate, PCK CA, root


@dataclass(frozen=True, slots=True, kw_only=True)
class TdBody:
    """What the TDX module says about one trust domain (TDREPORT fields of the quote).

    Attributes:
        tee_tcb_svn: security versions of the TDX module, 16 bytes.
        mr_seam: measurement of the TDX module, 48 bytes.
        td_attributes: attribute bits, bit 0 is debug.
        xfam: extended features the guest may use.
        mr_td: measurement of the initial image, 48 bytes.
        mr_config_id: configuration named at creation, 48 bytes.
        mr_owner: owner named at creation, 48 bytes.
        mr_owner_config: owner's configuration named at creation, 48 bytes.
        rtmrs: the four run-time measurement registers, 48 bytes each.
        report_data: chosen by the guest, 64 bytes.
        mr_service_td: service domain bound to the guest (TD 1.5), 48 bytes; zero when there is none.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    td_attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    mr_service_td: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxQuote:
    """The parts of a quote the appraisal needs.

    Attributes:
        version: 4 or 5.
        body: the report.
        chain: PCK certificate, PCK CA, root, in DER.
    """

    version: int
    body: TdBody
    chain: tuple[bytes, ...]


def parse_quote(data: bytes) -> TdxQuote:
    """Read a quote of exactly its own length.

    Raises:
        MalformedEvidenceError: not a TDX quote of version 4 or 5 with a P-256 key and its PCK chain, or
            bytes left over anywhere.
    """
    if len(data) > QUOTE_SIZE_MAX:
        raise MalformedEvidenceError(f"quote of {len(data)} bytes, at most {QUOTE_SIZE_MAX} are read")
    version, body, authentication = _split(data)
    return TdxQuote(version=version, body=_parse_body(body), chain=_parse_chain(authentication))


def cut_quote(data: bytes) -> bytes:
    """Return the quote without the zero bytes a quote device pads it with.

    Raises:
        MalformedEvidenceError: shorter than it says, or followed by anything but zeros.
    """
    at, _ = _signed_range(data)
    end = at + 4 + _unpack("<I", data, at)
    if end > len(data) or any(data[end:]):
        raise MalformedEvidenceError(f"quote of {len(data)} bytes says it has {end}, the rest is not padding")
    return data[:end]


def _split(data: bytes) -> tuple[int, bytes, bytes]:
    """Return version, report body and authentication data."""
    at, body = _signed_range(data)
    if at + 4 + _unpack("<I", data, at) != len(data):
        raise MalformedEvidenceError(f"quote of {len(data)} bytes has another length inside; cut padding off")
    return _unpack("<H", data, 0), body, data[at + 4 :]


def _signed_range(data: bytes) -> tuple[int, bytes]:
    """Return the end of the signed part and the report body."""
    version, key_type, tee_type = (_unpack("<H", data, 0), _unpack("<H", data, 2), _unpack("<I", data, 4))
    if (key_type, tee_type) != (ATTESTATION_KEY_P256, TEE_TYPE_TDX):
        raise MalformedEvidenceError(
            f"quote with key type {key_type} and TEE type 0x{tee_type:x} is not TDX over P-256"
        )
    if version == 4:
        start, size = _HEADER_SIZE, _BODY_V4
    elif version == 5:
        start, size = _HEADER_SIZE + 6, _unpack("<I", data, _HEADER_SIZE + 2)
        if BODY_SIZES.get(_unpack("<H", data, _HEADER_SIZE)) != size:
            raise MalformedEvidenceError("quote version 5 with a body that is neither TD 1.0 nor TD 1.5")
    else:
        raise MalformedEvidenceError(f"quote version {version}, want 4 or 5")
    if len(data) < start + size:
        raise MalformedEvidenceError("quote ends inside its report")
    return start + size, data[start : start + size]


def _parse_body(body: bytes) -> TdBody:
    rtmrs = tuple(body[at : at + 48] for at in range(328, 520, 48))
    return TdBody(
        tee_tcb_svn=body[0:16],
        mr_seam=body[16:64],
        td_attributes=int.from_bytes(body[120:128], "little"),
        xfam=int.from_bytes(body[128:136], "little"),
        mr_td=body[136:184],
        mr_config_id=body[184:232],
        mr_owner=body[232:280],
        mr_owner_config=body[280:328],
        rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        report_data=body[520:584],
        mr_service_td=body[600:648] if len(body) > _BODY_V4 else bytes(48),
    )


def _parse_chain(data: bytes) -> tuple[bytes, ...]:
    """Walk the authentication data down to the PCK chain; every length must meet the end exactly."""
    at = 64 + 64  # quote signature, attestation key
    if (_unpack("<H", data, at), _unpack("<I", data, at + 2)) != (CERTIFICATION_QE_REPORT, len(data) - at - 6):
        raise MalformedEvidenceError("quote without a quoting-enclave report up to its end")
    at += 6 + 384 + 64  # QE report and its signature
    if _unpack("<H", data, at) != _QE_AUTH_SIZE:
        raise MalformedEvidenceError(f"QE authentication data is not {_QE_AUTH_SIZE} bytes")
    at += 2 + _QE_AUTH_SIZE
    if (_unpack("<H", data, at), _unpack("<I", data, at + 2)) != (CERTIFICATION_PCK_CHAIN, len(data) - at - 6):
        raise MalformedEvidenceError("quote without a PCK certificate chain up to its end")
    text = data[at + 6 :].removesuffix(b"\0")  # newer quoting enclaves end the text like a C string
    try:
        return parse_pem(text.decode("ascii"), count=_CHAIN_LENGTH)
    except UnicodeDecodeError as error:
        raise MalformedEvidenceError("PCK certificate chain is not text") from error


def _unpack(layout: str, data: bytes, at: int) -> int:
    try:
        number: int = struct.unpack_from(layout, data, at)[0]
    except struct.error as error:
        raise MalformedEvidenceError(f"quote ends before byte {at}") from error
    return number
