"""What Intel publishes to judge a quote by: TCB info, enclave identity, revocation lists, signed by Intel.

It travels with the evidence as one JSON object of nine texts, named as Intel's library names them. Only
one spelling is read: sorted keys, no spaces, lower-case hex. `tcb_info` and `qe_identity` are the exact
texts Intel signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dcap_qvl

from attestation.certificate import read_signed
from attestation.collateral_marks import kind_of, marks_of, read_object
from attestation.errors import MalformedEvidenceError
from attestation.floors import Floors
from attestation.x509 import parse_pem

COLLATERAL_SIZE_MAX = 256 * 1024
CHAINS = ("pck_crl_issuer_chain", "qe_identity_issuer_chain", "tcb_info_issuer_chain")
HEX_FIELDS = ("pck_crl", "qe_identity_signature", "root_ca_crl", "tcb_info_signature")
SIGNED_TEXTS = ("qe_identity", "tcb_info")
FIELDS = frozenset(CHAINS + HEX_FIELDS + SIGNED_TEXTS)
_CHAIN_LENGTH = 2  # issuer, root


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """Parsed collateral; no signature in it has been checked.

    Attributes:
        chains: the three issuer chains in DER, leaf first; that of the PCK CRL first.
        pck_crl: revocation list of the PCK CA, DER.
        root_crl: revocation list of the root, DER.
        kind: TEE the TCB info and the quoting-enclave identity are for: "tdx" or "sgx".
        pce_id: provisioning enclave the TCB info is for, lower-case hex.
        marks: how new each of the four signed lists is.
        digest: SHA-256 of the text.
        bundle: the same for the quote library.
    """

    chains: tuple[tuple[bytes, ...], ...]
    pck_crl: bytes
    root_crl: bytes
    kind: str
    pce_id: str
    marks: Floors
    digest: bytes
    bundle: dcap_qvl.QuoteCollateralV3

    @property
    def pck_crl_chain(self) -> tuple[bytes, ...]:
        """PCK CA and root."""
        return self.chains[0]


def encode_collateral(fields: Mapping[str, str]) -> str:
    """Return the one text for these nine fields.

    Raises:
        MalformedEvidenceError: a field is missing, unknown, or not in its one spelling.
    """
    text = _spell(dict(fields))
    parse_collateral(text)
    return text


@lru_cache(maxsize=16)  # all hosts of a processor family send the same text for days; the answer depends on it alone
def parse_collateral(text: str) -> Collateral:
    """Read collateral.

    Raises:
        MalformedEvidenceError: too large, not the nine fields, or not in the one spelling.
    """
    if len(text) > COLLATERAL_SIZE_MAX:
        raise MalformedEvidenceError(f"collateral of {len(text)} characters, at most {COLLATERAL_SIZE_MAX} are read")
    fields = read_object(text, "collateral")
    if set(fields) != FIELDS or not all(isinstance(v, str) for v in fields.values()):
        raise MalformedEvidenceError(f"collateral: want exactly the texts {', '.join(sorted(FIELDS))}")
    if _spell(fields) != text:
        raise MalformedEvidenceError("collateral is not in its one spelling (sorted keys, no spaces, no doubles)")
    pck_crl, _, root_crl, _ = (_parse_hex(name, fields[name]) for name in HEX_FIELDS)
    chains = tuple(parse_pem(fields[name], count=_CHAIN_LENGTH) for name in CHAINS)
    tcb_info = read_object(fields["tcb_info"], "TCB info")
    qe_identity = read_object(fields["qe_identity"], "QE identity")
    read_signed(pck_crl)  # the algorithm is named twice and signed once: both places must agree
    read_signed(root_crl)
    return Collateral(
        chains=chains,
        pck_crl=pck_crl,
        root_crl=root_crl,
        kind=kind_of(tcb_info, qe_identity),
        pce_id=_parse_pce_id(tcb_info),
        marks=marks_of(
            tcb_info, qe_identity, pck_crl=pck_crl, root_crl=root_crl, issuer=chains[0][0], root=chains[0][-1]
        ),
        digest=hashlib.sha256(text.encode()).digest(),
        bundle=_bundle(text),
    )


def _parse_pce_id(tcb_info: dict[str, Any]) -> str:
    pce_id = tcb_info.get("pceId")
    if not isinstance(pce_id, str):
        raise MalformedEvidenceError("TCB info names no pceId")
    return pce_id.lower()


def _bundle(text: str) -> dcap_qvl.QuoteCollateralV3:
    try:
        return dcap_qvl.QuoteCollateralV3.from_json(text)
    except ValueError as error:
        raise MalformedEvidenceError(f"collateral: {error}") from error


def _spell(fields: dict[str, str]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _parse_hex(name: str, text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise MalformedEvidenceError(f"collateral: {name} is not hex") from error
    if data.hex() != text:
        raise MalformedEvidenceError(f"collateral: {name} is not lower-case hex")
    return data
