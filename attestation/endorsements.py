"""What vendors publish, read from their services' answers, and until when each piece says it holds.

Nothing here is verified: a piece goes into the evidence, and whoever verifies the evidence checks its signatures. What
runs out first, text, list or certificate, ends the piece.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

from cryptography import x509

from attestation.certificate import Certificate, read_signed
from attestation.collateral import encode_collateral
from attestation.errors import MalformedEvidenceError
from attestation.fetch import Response
from attestation.ocsp import parse_ocsp
from attestation.rim import parse_rim
from attestation.x509 import encode_pem

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,12000})-----END CERTIFICATE-----")
_XML_CERTIFICATE = re.compile(r"X509Certificate>([A-Za-z0-9+/=\s]{1,12000})<")
_CHAIN_MAX = 4
_RIM_CERTIFICATES_MAX = 8
_SIGNATURE = re.compile(r'\s*,\s*"signature"\s*:\s*"([0-9a-fA-F]{128})"\s*\}\s*')


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedText:
    """A JSON text that Intel signed: TCB info or enclave identity.

    Attributes:
        text: exactly what is signed.
        signature: in hex, lower case.
        chain: signer and root, DER.
        not_after: the end it names, or that of the first certificate.
    """

    text: str
    signature: str
    chain: tuple[bytes, ...]
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """A CRL in DER, with the chain of its issuer where the service sends one."""

    der: bytes
    chain: tuple[bytes, ...]
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Certificates in DER, and when the first of them ends."""

    chain: tuple[bytes, ...]
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A document carried as it is, and when it ends."""

    data: bytes
    not_after: datetime


def ends(material: SignedText | RevocationList | Certificates | Blob) -> datetime:
    """Return when a piece runs out."""
    return material.not_after


def parse_tcb_info(response: Response) -> SignedText:
    """Read Intel's answer about a processor family. MalformedEvidenceError when it is none, as below."""
    return _parse_signed_text(response, "tcbInfo")


def parse_qe_identity(response: Response) -> SignedText:
    """Read Intel's answer about the quoting enclave."""
    return _parse_signed_text(response, "enclaveIdentity")


def parse_crl(response: Response) -> RevocationList:
    """Read a revocation list: DER, or hex as a PCCS writes it; the issuer's chain is in the header, if there is one."""
    der = response.body
    if re.fullmatch(rb"\s*(?:[0-9a-fA-F]{2})+\s*", der):
        der = bytes.fromhex(der.decode())
    read_signed(der)
    try:
        ends_at = x509.load_der_x509_crl(der).next_update_utc
    except ValueError as error:
        raise MalformedEvidenceError(f"revocation list: {error}") from None
    if ends_at is None:
        raise MalformedEvidenceError("revocation list does not say when it is renewed")
    chain = _parse_chain(unquote(response.header), "issuer chain") if response.header else ()
    return RevocationList(der=der, chain=chain, not_after=min([ends_at, *map(_end_of, chain)]))


def assemble_collateral(
    tcb_info: SignedText, qe_identity: SignedText, pck_crl: RevocationList, root_crl: RevocationList
) -> str:
    """Return Intel's collateral as evidence carries it."""
    return encode_collateral(
        {
            "pck_crl_issuer_chain": encode_pem(pck_crl.chain),
            "pck_crl": pck_crl.der.hex(),
            "root_ca_crl": root_crl.der.hex(),
            "tcb_info_issuer_chain": encode_pem(tcb_info.chain),
            "tcb_info": tcb_info.text,
            "tcb_info_signature": tcb_info.signature,
            "qe_identity_issuer_chain": encode_pem(qe_identity.chain),
            "qe_identity": qe_identity.text,
            "qe_identity_signature": qe_identity.signature,
        }
    )


def parse_vcek(response: Response) -> Certificates:
    """Read the certificate of an AMD chip's key, DER."""
    return Certificates(chain=(response.body,), not_after=_end_of(response.body))


def parse_amd_chain(response: Response) -> Certificates:
    """Read AMD's signing key and root certificates, PEM."""
    chain = _parse_chain(_text(response.body), "certificate chain")
    if len(chain) != 2:
        raise MalformedEvidenceError(f"certificate chain of {len(chain)}, want signing key and root")
    return Certificates(chain=chain, not_after=min(map(_end_of, chain)))


def parse_manifest(response: Response) -> Blob:
    """Read a reference manifest from the RIM service's JSON.

    It ends with the first certificate in its signature. One without a signature names no end; it counts by its pinned
    digest only, like every other.
    """
    document = _json(response.body)
    encoded = document.get("rim") if isinstance(document, dict) else None
    if not isinstance(encoded, str):
        raise MalformedEvidenceError("no JSON object with a manifest in it")
    rim = _unbase64(encoded)
    parse_rim(rim)
    found = _XML_CERTIFICATE.findall(_text(rim))[: _RIM_CERTIFICATES_MAX + 1]
    if len(found) > _RIM_CERTIFICATES_MAX:
        raise MalformedEvidenceError(f"manifest with more than {_RIM_CERTIFICATES_MAX} certificates")
    ends_at = min((_end_of(_unbase64(one)) for one in found), default=datetime.max.replace(tzinfo=UTC))
    return Blob(data=rim, not_after=ends_at)


def ocsp_parser(nonce: bytes = b"") -> Callable[[Response], Blob]:
    """Return a reader of a responder's answer; with a nonce, one that refuses answers made for others."""

    def parse(response: Response) -> Blob:
        answer = parse_ocsp(response.body)
        if nonce and answer.nonce != nonce:
            raise MalformedEvidenceError("OCSP answer does not repeat our nonce")
        return Blob(data=response.body, not_after=answer.next_update)

    return parse


def _parse_signed_text(response: Response, name: str) -> SignedText:
    """Cut out the text between the name and the signature: its exact bytes are signed."""
    text = _text(response.body)
    head = re.match(rf'\s*\{{\s*"{name}"\s*:\s*', text)
    if head is None:
        raise MalformedEvidenceError(f"no JSON object that begins with {name}")
    try:
        document, end = json.JSONDecoder().raw_decode(text, head.end())
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError(f"{name} is not JSON") from error
    tail = _SIGNATURE.fullmatch(text, end)
    if tail is None or not isinstance(document, dict):
        raise MalformedEvidenceError(f"{name} is not followed by a signature of 64 bytes")
    chain = _parse_chain(unquote(response.header), "issuer chain")
    return SignedText(
        text=text[head.end() : end],
        signature=tail[1].lower(),
        chain=chain,
        not_after=min([_intel_time(document.get("nextUpdate")), *map(_end_of, chain)]),
    )


def _intel_time(value: object) -> datetime:
    try:
        return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise MalformedEvidenceError(f"nextUpdate {str(value)[:32]!r} is no time") from None


def _parse_chain(text: str, what: str) -> tuple[bytes, ...]:
    blocks = _PEM.findall(text)
    if not 0 < len(blocks) <= _CHAIN_MAX or _PEM.sub("", text).strip("\0 \r\n"):
        raise MalformedEvidenceError(f"{what}: want 1 to {_CHAIN_MAX} certificates in PEM and nothing else")
    return tuple(map(_unbase64, blocks))


def _end_of(der: bytes) -> datetime:
    return Certificate.parse(der).not_after


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedEvidenceError("not text") from None


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedEvidenceError("not JSON") from None


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvidenceError("not base64") from None
