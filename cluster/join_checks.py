"""What a host that joins has to show, check by check. Each returns what it checked, or raises with what to do. Pure."""

import re
from collections.abc import Mapping

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.verdict import Tier
from cluster.admission import PROVE_TAG, Admission
from cluster.capability import Capability
from cluster.certificates import parse_ip
from cluster.errors import JoinLaterError, JoinRefusedError
from cluster.join_messages import CertificateRequest, join_statement, malformed
from cluster.relay import parse_address

_REMEDIES = {
    "GuestPolicyError": "start the guest without debug and migration",
    "MeasurementNotAllowedError": "run an image that the registry contract allows",
    "ModelNotAllowedError": "offer only models that the registry contract lists",
    "FreshnessError": "the evidence answers another challenge: nothing may stand between head and enclave",
    "BindingMismatchError": "the evidence answers another challenge: nothing may stand between head and enclave",
    "EndorsementExpiredError": "let the host fetch its vendor's collateral anew, and set its clock",
    "TcbStatusError": "update the firmware",
    "GpuStateError": "turn confidential computing on and developer tools off on the GPUs",
    "TierError": "join with a TEE and GPUs in confidential mode",
}
_WORD = re.compile(r"[a-z0-9]+")
_CHIPS = {  # products as people name them, and the chip that certificates and manifests name
    **dict.fromkeys(("a100", "a800"), "GA100"),
    **dict.fromkeys(("gh100", "h100", "h20", "h200", "h800", "gh200"), "GH100"),
    **dict.fromkeys(("gb100", "b100", "b200", "gb200"), "GB100"),
}


def check_peer(ip: str, peer: str) -> None:
    """JoinRefusedError when a request about one machine comes from another."""
    if parse_ip(ip) != parse_ip(peer):
        raise JoinRefusedError(
            "wrong_address",
            f"this request comes from {peer} and is about {ip}: join from the machine that the enclave runs on, "
            "without a proxy or NAT in between",
        )


def check_accepted(admission: Admission) -> Capability:
    """What the registry admitted; JoinRefusedError with a remedy, or JoinLaterError when the enclave is silent."""
    if admission.accepted and admission.capability is not None:
        return admission.capability
    if admission.error in {"EnclaveUnreachableError", "EnclaveSilentError"}:
        raise JoinLaterError(
            "enclave_silent",
            f"the head does not reach the enclave: {admission.reason}; start it, and open its port to the head",
        )
    if admission.error == "AdmissionRefusedError":
        raise JoinRefusedError("host_refused", f"{admission.reason}; ask the operator")
    remedy = _REMEDIES.get(admission.error, "the operator's policy and `chrysalis verify` say what is asked for")
    raise JoinRefusedError("evidence_refused", f"{admission.error}: {admission.reason}; {remedy}")


def check_worth(capability: Capability) -> None:
    """Whoever has the token runs code on every node: what nothing vouches for does not get it."""
    if capability.tier is Tier.OPEN:
        raise JoinRefusedError(
            "no_tee", "no TEE vouches for this host, so it gets neither token nor certificate: join from a TEE"
        )


def check_hints(labels: Mapping[str, str], capability: Capability) -> None:
    """Labels decide nothing; one that the evidence contradicts is a mistake or a lie, and misleads people."""
    tee = capability.tee.value if capability.tee is not None else "none"
    if labels.get("tee", tee) != tee:
        raise JoinRefusedError(
            "labels_refused", f"the label tee={labels['tee']} is not what the evidence says, {tee}: correct the label"
        )
    said, chips = labels.get("gpu", ""), sorted({gpu.model for gpu in capability.gpus})
    if said and not chips:
        raise JoinRefusedError(
            "labels_refused", f"the label gpu={said} is not proved by any GPU in the evidence: take it out"
        )
    named = {chip for product, chip in _CHIPS.items() if product in _WORD.findall(said.lower())}
    if named - set(chips):
        raise JoinRefusedError(
            "labels_refused",
            f"the label gpu={said} is not what the evidence says, {', '.join(chips)}: correct the label",
        )


def check_request(
    request: CertificateRequest, capability: Capability, *, address: str, pin: bytes
) -> ec.EllipticCurvePublicKey:
    """The key to certify: signed for by the enclave at this address, owned by who asks, and for this machine."""
    ip = str(parse_address(address).ip)
    try:
        csr = x509.load_der_x509_csr(request.csr)
        key, holds = csr.public_key(), csr.is_signature_valid
        public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise malformed("csr is not a certificate request (PKCS #10, DER)") from None
    check_proof(capability, join_statement(pin, request.nonce, public, address), request.proof)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise malformed("the key of the certificate request must be on the curve P-256")
    if not holds:
        raise JoinRefusedError("proof_refused", "the certificate request is not signed by its own key: make a new one")
    try:
        names = [*csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        names = []
    if names != [x509.IPAddress(parse_ip(ip))]:
        raise JoinRefusedError(
            "wrong_address", f"the certificate request must name the address {ip} that it comes from, only"
        )
    return key


def check_proof(capability: Capability, statement: bytes, proof: bytes) -> None:
    """JoinRefusedError when it is not this enclave that signed the statement on its control socket."""
    try:
        Ed25519PublicKey.from_public_bytes(capability.receipt).verify(proof, PROVE_TAG + statement)
    except InvalidSignature:
        raise JoinRefusedError(
            "proof_refused",
            "the enclave did not sign this: use the control socket of the enclave that was challenged, its newest "
            "challenge, and its own address",
        ) from None
