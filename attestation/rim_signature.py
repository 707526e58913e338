"""Check the XML signature of an NVIDIA manifest, once, before its digest is pinned. No verifier of evidence does this.

Needs the extra `rim` (signxml, lxml), imported only here: XML signatures are a large attack surface, and their
certificates run out while the manifests stay in use.

Source: W3C XML Signature 1.1; NVIDIA's published manifests (enveloped, C14N 1.1, ECDSA P-384 with SHA-384, four
certificates up to the "NVIDIA CoRIM signing Root CA").
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography import x509

from attestation.certificate import Certificate, common_name
from attestation.errors import (
    EndorsementExpiredError,
    EvidenceSignatureError,
    MalformedEvidenceError,
    UntrustedRootError,
)
from attestation.nvidia_chain import first_broken_link
from attestation.rim import XMLDSIG, Rim, parse_rim

CERTIFICATES_MAX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRim:
    """A manifest whose signature held.

    Attributes:
        rim: what it says; `rim.digest` is what a policy pins.
        signer: common name of the signing certificate.
        not_after: when the first certificate of the chain runs out; the pinned digest stays good.
    """

    rim: Rim
    signer: str
    not_after: datetime


def check_rim_signature(data: bytes, *, roots: frozenset[bytes], now: datetime) -> SignedRim:
    """Check the signature of a manifest down to a pinned root key.

    1. It is a manifest, with one signature, a child of the document's root.
    2. The certificates in the signature lead from its key to a pinned root key, each named and signed by the next, all
       valid now.
    3. The signature is of that key, ECDSA P-384 with SHA-384, over one reference.
    4. What was signed says the same as what a verifier of evidence reads from the file.

    Args:
        data: the file.
        roots: SHA-256 of the SubjectPublicKeyInfo of each trusted root key.
        now: the verifier's time, aware.

    Raises:
        MalformedEvidenceError, UntrustedRootError, EvidenceSignatureError, EndorsementExpiredError.
        ModuleNotFoundError: the extra `rim` is not installed.
    """
    rim = parse_rim(data)  # (1) refuses document types and everything oversized before lxml sees it
    library = _Library()
    ders = _certificates(library, data)
    chain = [Certificate.parse(der) for der in ders]
    not_after = _check_chain(chain, roots=roots, now=now)  # (2)
    signed = library.verify(data, x509.load_der_x509_certificate(ders[0]), now)  # (3)
    seen = parse_rim(signed)
    if (seen.product, seen.version, seen.measurements) != (rim.product, rim.version, rim.measurements):  # (4)
        raise EvidenceSignatureError("RIM: what is signed is not what the file says")
    return SignedRim(rim=rim, signer=common_name(chain[0].subject), not_after=not_after)


class _Library:
    """The optional packages, and the only calls into them."""

    def __init__(self) -> None:
        try:
            import signxml  # noqa: PLC0415  (an extra, off the default path)
            from lxml import etree  # noqa: PLC0415
        except ModuleNotFoundError:
            message = "XML signatures need signxml and lxml: pip install 'chrysalis-cluster[rim]'"
            raise ModuleNotFoundError(message) from None
        self._etree, self._signxml = etree, signxml

    def parse(self, data: bytes) -> Any:  # noqa: ANN401  (lxml has no types)
        """Return the root element; nothing outside the file is read."""
        parser = self._etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
        try:
            return self._etree.fromstring(data, parser)
        except (self._etree.XMLSyntaxError, ValueError) as error:
            raise MalformedEvidenceError(f"RIM is not XML: {error}") from None

    def verify(self, data: bytes, leaf: x509.Certificate, now: datetime) -> bytes:
        """Return the bytes that this key signed, in canonical form."""
        signxml = self._signxml
        expected = signxml.SignatureConfiguration(
            location="./",
            expect_references=1,
            signature_methods=frozenset({signxml.SignatureMethod.ECDSA_SHA384}),
            digest_algorithms=frozenset({signxml.DigestAlgorithm.SHA384}),
            verification_time=now,
        )
        try:
            result = signxml.XMLVerifier().verify(self.parse(data), x509_cert=leaf, expect_config=expected)
        except (signxml.exceptions.SignXMLException, self._etree.LxmlError, ValueError) as error:
            raise EvidenceSignatureError(f"RIM signature: {type(error).__name__}: {error}") from None
        signed: bytes = result.signed_data
        return signed


def _certificates(library: _Library, data: bytes) -> list[bytes]:
    """Return the certificates in the one signature, DER."""
    root = library.parse(data)
    signatures = list(root.iter(f"{{{XMLDSIG}}}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise MalformedEvidenceError(f"RIM has {len(signatures)} signatures, want one, a child of its root")
    texts = [element.text or "" for element in signatures[0].iter(f"{{{XMLDSIG}}}X509Certificate")]
    if not 2 <= len(texts) <= CERTIFICATES_MAX:
        raise MalformedEvidenceError(f"RIM signature with {len(texts)} certificates, want 2 to {CERTIFICATES_MAX}")
    try:
        return [base64.b64decode("".join(text.split()), validate=True) for text in texts]
    except (binascii.Error, ValueError):
        raise MalformedEvidenceError("RIM certificate is not base64") from None


def _check_chain(chain: list[Certificate], *, roots: frozenset[bytes], now: datetime) -> datetime:
    """Check the chain; return when its first certificate runs out."""
    root = sha256(chain[-1].public_key_info).digest()
    if root not in roots:
        raise UntrustedRootError(f"RIM root {root.hex()}, want a pinned one of NVIDIA")
    broken = first_broken_link(chain, len(chain))
    if broken:
        raise EvidenceSignatureError(f"RIM certificate chain: {broken}")
    start, end = max(one.not_before for one in chain), min(one.not_after for one in chain)
    if not start <= now <= end:
        raise EndorsementExpiredError(f"RIM certificates are valid {start:%F} to {end:%F}, want {now:%F}")
    return end
