"""How new the four signed lists in Intel's collateral are, and what they are for.

Read before any signature is checked; the library checks signatures over the same bytes.

Source: Intel SGX and TDX provisioning certification service, API version 4 (TCB info, QE identity); RFC 5280.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from attestation.certificate import Certificate
from attestation.errors import MalformedEvidenceError
from attestation.floors import Floors, Mark
from attestation.revocation import RevocationList

KINDS = {("TDX", "TD_QE"): "tdx", ("SGX", "QE"): "sgx"}
_FMSPC_SIZE = 6
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def read_object(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        MalformedEvidenceError: no JSON object.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError(f"{what} is not JSON") from error
    if not isinstance(fields, dict):
        raise MalformedEvidenceError(f"{what} is no JSON object")
    return fields


def kind_of(tcb_info: dict[str, Any], qe_identity: dict[str, Any]) -> str:
    """Return "tdx" or "sgx", for which both texts must be.

    Raises:
        MalformedEvidenceError: they are for two kinds, or for none known.
    """
    ids = (str(tcb_info.get("id")), str(qe_identity.get("id")))
    if ids not in KINDS:
        raise MalformedEvidenceError(f"collateral with TCB info {ids[0][:16]!r} and identity {ids[1][:16]!r}")
    return KINDS[ids]


def marks_of(
    tcb_info: dict[str, Any],
    qe_identity: dict[str, Any],
    *,
    pck_crl: bytes,
    root_crl: bytes,
    issuer: bytes,
    root: bytes,
) -> Floors:
    """Return the marks of the four lists.

    Args:
        tcb_info: signed text, parsed.
        qe_identity: signed text, parsed.
        pck_crl: revocation list of the PCK CA, DER.
        root_crl: revocation list of the root, DER.
        issuer: certificate of the PCK CA, DER.
        root: certificate of the root, DER.

    Raises:
        MalformedEvidenceError: a number, date or name is missing or of the wrong kind.
    """
    vendor = f"intel/{_key_pin(root)}"
    kind = kind_of(tcb_info, qe_identity)
    return Floors.of(
        (
            _text_mark(f"{vendor}/{kind}/tcb-info/{_fmspc(tcb_info)}", tcb_info),
            _text_mark(f"{vendor}/{kind}/qe-identity", qe_identity),
            crl_mark(f"{vendor}/crl/{_key_pin(issuer)}", pck_crl),
            crl_mark(f"{vendor}/crl/root", root_crl),
        )
    )


def crl_mark(series: str, der: bytes) -> Mark:
    """Return number and date of a revocation list.

    Raises:
        MalformedEvidenceError: no revocation list, or one with a number or date beyond what a mark holds.
    """
    crl = RevocationList.parse(der)
    try:
        return Mark(series=series, number=crl.number or 0, issued=crl.issued)
    except ValueError as error:
        raise MalformedEvidenceError(f"revocation list: {error}") from error


def _text_mark(series: str, fields: dict[str, Any]) -> Mark:
    number, issued = fields.get("tcbEvaluationDataNumber"), fields.get("issueDate")
    if type(number) is not int or not isinstance(issued, str):
        raise MalformedEvidenceError("signed text without tcbEvaluationDataNumber and issueDate")
    try:
        return Mark(series=series, number=number, issued=datetime.strptime(issued, _TIME).replace(tzinfo=UTC))
    except ValueError as error:
        raise MalformedEvidenceError(f"signed text: {error}") from error


def _fmspc(tcb_info: dict[str, Any]) -> str:
    try:
        fmspc = bytes.fromhex(tcb_info["fmspc"])
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedEvidenceError("TCB info names no fmspc") from error
    if len(fmspc) != _FMSPC_SIZE:
        raise MalformedEvidenceError(f"TCB info: fmspc of {len(fmspc)} bytes, want {_FMSPC_SIZE}")
    return fmspc.hex()


def _key_pin(certificate: bytes) -> str:
    return hashlib.sha256(Certificate.parse(certificate).public_key_info).hexdigest()
