"""An Intel TDX quote as bytes: versions 4 and 5, read to the last byte, nothing believed.

Source: Intel TDX DCAP Quoting Library API, appendix A (quote format versions 4 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from attestation.errors import MalformedEvidenceError
from attestation.quote_parts import (
    ATTESTATION_KEY_P256,
    HEADER_SIZE,
    KEY_AND_SIGNATURE_SIZE,
    check_size,
    parse_pck_chain,
    read_number,
    split_tail,
)

TEE_TYPE_TDX = 0x81
BODY_SIZES = {2: 584, 3: 648}  # version 5 body types: TD 1.0 and TD 1.5
CERTIFICATION_QE_REPORT = 6
_MODULE_END = 120  # of a report: security versions and module, before what the guest is
_BODY_V4 = 584
_BODY = Struct("<16s48s48sQQQ48s48s48s48s48s48s48s48s64s")


class TdBody(NamedTuple):
    """What the TDX module says about one trust domain (TDREPORT fields of the quote).

    Attributes:
        tee_tcb_svn: security versions of the TDX module, 16 bytes.
        mr_seam: measurement of the TDX module, 48 bytes.
        mr_signer_seam: signer of the TDX module, 48 bytes; zero is Intel.
        seam_attributes: attribute bits of the TDX module.
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
    mr_signer_seam: bytes
    seam_attributes: int
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
        level: all that decides the platform's TCB level: header, module and security versions, certification data.
        chain: PCK certificate, PCK CA, root, in DER.
    """

    version: int
    body: TdBody
    level: tuple[bytes, bytes]
    chain: tuple[bytes, ...]


def parse_quote(data: bytes) -> TdxQuote:
    """Read a quote of exactly its own length.

    Raises:
        MalformedEvidenceError: not a TDX quote of version 4 or 5 with a P-256 key and its PCK chain, or
            bytes left over anywhere.
    """
    check_size(data)
    version, body, authentication = _split(data)
    certification = _certification(authentication)
    return TdxQuote(
        version=version,
        body=_parse_body(body),
        level=(data[:HEADER_SIZE] + body[:_MODULE_END] + body[_BODY_V4:], certification),
        chain=parse_pck_chain(certification),
    )


def cut_quote(data: bytes) -> bytes:
    """Return the quote without the zero bytes a quote device pads it with.

    Raises:
        MalformedEvidenceError: shorter than it says, or followed by anything but zeros.
    """
    at, _ = _signed_range(data)
    end = at + 4 + read_number("<I", data, at)
    if end > len(data) or any(data[end:]):
        raise MalformedEvidenceError(f"quote of {len(data)} bytes says it has {end}, the rest is not padding")
    return data[:end]


def _split(data: bytes) -> tuple[int, bytes, bytes]:
    """Return version, report body and authentication data."""
    at, body = _signed_range(data)
    return read_number("<H", data, 0), body, split_tail(data, at)


def _signed_range(data: bytes) -> tuple[int, bytes]:
    """Return the end of the signed part and the report body."""
    version, key_type, tee_type = (read_number("<H", data, 0), read_number("<H", data, 2), read_number("<I", data, 4))
    if (key_type, tee_type) != (ATTESTATION_KEY_P256, TEE_TYPE_TDX):
        raise MalformedEvidenceError(
            f"quote with key type {key_type} and TEE type 0x{tee_type:x} is not TDX over P-256"
        )
    if version == 4:
        start, size = HEADER_SIZE, _BODY_V4
    elif version == 5:
        start, size = HEADER_SIZE + 6, read_number("<I", data, HEADER_SIZE + 2)
        if BODY_SIZES.get(read_number("<H", data, HEADER_SIZE)) != size:
            raise MalformedEvidenceError("quote version 5 with a body that is neither TD 1.0 nor TD 1.5")
    else:
        raise MalformedEvidenceError(f"quote version {version}, want 4 or 5")
    if len(data) < start + size:
        raise MalformedEvidenceError("quote ends inside its report")
    return start + size, data[start : start + size]


def _parse_body(body: bytes) -> TdBody:
    svn, seam, signer, attributes, guest, xfam, td, config, owner, owner_config, *rtmrs, data = _BODY.unpack_from(body)
    return TdBody(
        tee_tcb_svn=svn,
        mr_seam=seam,
        mr_signer_seam=signer,
        seam_attributes=attributes,
        td_attributes=guest,
        xfam=xfam,
        mr_td=td,
        mr_config_id=config,
        mr_owner=owner,
        mr_owner_config=owner_config,
        rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        report_data=data,
        mr_service_td=body[600:648] if len(body) > _BODY_V4 else bytes(48),
    )


def _certification(tail: bytes) -> bytes:
    """Return the quoting enclave's report and what follows it, which versions 4 and 5 wrap once more."""
    at = KEY_AND_SIGNATURE_SIZE
    if (read_number("<H", tail, at), read_number("<I", tail, at + 2)) != (CERTIFICATION_QE_REPORT, len(tail) - at - 6):
        raise MalformedEvidenceError("quote without a quoting-enclave report up to its end")
    return tail[at + 6 :]
