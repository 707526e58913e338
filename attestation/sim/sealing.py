"""The sealing key a simulated chip gives its guest, as real ones derive it: from a secret of the chip and the guest."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec

from attestation import snp, tdx
from attestation.chunks import derive
from attestation.evidence import SnpEvidence, TdxEvidence
from attestation.sim.der import key_bytes
from attestation.tdx_quote import parse_quote


def sealing_key(chip: ec.EllipticCurvePrivateKey, guest: TdxEvidence | SnpEvidence, context: bytes) -> bytes:
    """Return 32 bytes for one chip, guest and purpose.

    Args:
        chip: the chip's private key; its secret comes from it, where real chips have fuses.
        guest: a report the chip would sign for the guest now. What it loaded, its configuration (`host_data`,
            `mr_config_id`), its settings (debug) and its level count.
        context: the purpose.
    """
    secret = hashlib.sha256(b"simulated chip secret" + key_bytes(chip)).digest()
    return derive(secret, b"simulated sealing", _guest(guest) + context)


def _guest(guest: TdxEvidence | SnpEvidence) -> bytes:
    if isinstance(guest, TdxEvidence):
        body = parse_quote(guest.quote).body
        return tdx.measurement_id(body) + body.td_attributes.to_bytes(8, "little")
    report = snp.parse_report(guest.report)
    return snp.measurement_id(report) + report.vmpl.to_bytes(8, "little")
