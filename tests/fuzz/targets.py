"""Every parser that a stranger's bytes reach: how to call it, what it may raise, and good inputs to start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import AppraisalPolicy, AttestationError, cbor, parse_evidence, verify
from attestation.appraisal import appraise
from attestation.ccel import LOG_SIZE_MAX as CCEL_SIZE_MAX
from attestation.ccel import cut_ccel
from attestation.certificate import CERTIFICATE_SIZE_MAX, Certificate, read_signed
from attestation.collateral import COLLATERAL_SIZE_MAX, parse_collateral
from attestation.errors import GpuStateError, MalformedEvidenceError, PolicyError
from attestation.eventlog import log_fields, parse_log
from attestation.evidence import EVIDENCE_SIZE_MAX, SnpEvidence, TdxEvidence
from attestation.logs_command import firmware_lines
from attestation.nvidia import read_facts
from attestation.ocsp import RESPONSE_SIZE_MAX, parse_ocsp
from attestation.policy_file import POLICY_SIZE_MAX, parse_policy
from attestation.quote_parts import QUOTE_SIZE_MAX
from attestation.ratls import CERTIFICATE_MAX, TlsKeyStatement, build_certificate, parse_certificate
from attestation.result import attestation_result
from attestation.result_token import TOKEN_SIZE_MAX, sign_result, verify_result
from attestation.revocation import CRL_SIZE_MAX, RevocationList
from attestation.rim import RIM_SIZE_MAX, parse_rim
from attestation.runtime_log import LOG_SIZE_MAX
from attestation.sgx_quote import parse_sgx_quote
from attestation.sim import mutate
from attestation.sim.scenes import Scene, Stage
from attestation.sim.sgx import enclave_of, sgx_quote
from attestation.snp import REPORT_SIZE, parse_report
from attestation.snp_floor import FLOOR_FILE_SIZE_MAX, parse_floor_file
from attestation.spdm import REQUEST_HEAD, SPDM_SIZE_MAX, parse_spdm
from attestation.tdx import check_quote
from attestation.tdx_quote import cut_quote, parse_quote
from attestation.transparency.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from attestation.transparency.entries import ENTRY_SIZE_MAX, encode_entry, parse_entry
from attestation.transparency.note import NOTE_SIZE_MAX
from attestation.transparency.proof import PROOF_SIZE_MAX, parse_proof, prove_entry
from attestation.x509 import encode_pem, parse_pem
from tests.attestation.hosts import vendors
from tests.attestation.transparency import logs
from tests.attestation.vendors import NOW

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


@dataclass(frozen=True, slots=True)
class Target:
    """One parser.

    Attributes:
        name: how `make fuzz` and the tests call it.
        parse: what takes the bytes.
        refusals: the only exceptions that may come out.
        seeds: good inputs.
        size: the largest input it reads, bytes.
    """

    name: str
    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], Iterable[bytes]]
    size: int

    def try_bytes(self, data: bytes) -> bool:
        """Parse; say whether it was taken. Anything but a named refusal comes out as it is."""
        try:
            self.parse(data)
        except self.refusals:
            return False
        return True


@cache
def stage() -> Stage:
    return Stage(vendors(), seed=3)


@cache
def scenes() -> dict[str, Scene]:
    return {scene.name: scene for scene in stage().honest()}


def _documents() -> list[bytes]:
    return [scene.document for scene in scenes().values()]


def _leaves(wanted: Callable[[object], bool]) -> list[bytes]:
    """Byte strings and texts somewhere inside the honest documents."""
    found = {
        value.encode() if isinstance(value, str) else value
        for document in _documents()
        for _, value in mutate.walk(cbor.decode(document))
        if isinstance(value, bytes | str) and wanted(value)
    }
    return sorted(found)


def _certificates() -> list[bytes]:
    return sorted(
        {
            value
            for document in _documents()
            for _, value in mutate.walk(mutate.open_document(document))
            if mutate.is_certificate(value)
        }
    )


@cache
def _quotes() -> list[bytes]:
    return _leaves(lambda value: isinstance(value, bytes) and b"-----BEGIN" in value)


def _collaterals() -> list[bytes]:
    return _leaves(lambda value: isinstance(value, str) and value.startswith("{"))


def _firmware_logs() -> list[bytes]:
    return _leaves(lambda value: b"Spec ID Event03" in value if isinstance(value, bytes) else False)


def _runtime_logs() -> list[bytes]:
    logs = [parse_evidence(document).cpu for document in _documents()]
    return [cbor.encode(log_fields(cpu.log)) for cpu in logs if isinstance(cpu, TdxEvidence)]


def _revocation_lists() -> list[bytes]:
    return sorted(
        {cpu.crl for document in _documents() if isinstance(cpu := parse_evidence(document).cpu, SnpEvidence)}
    )


def _ocsp_answers() -> list[bytes]:
    return sorted({answer for document in _documents() for answer in parse_evidence(document).ocsp})


def _checkpoint() -> bytes:
    return sign_checkpoint(Checkpoint(origin=logs.ORIGIN, size=1, root=bytes(32)), logs.KEY, now=logs.NOW)


def _open_checkpoint(data: bytes) -> None:
    open_checkpoint(data, logs.TRUST, now=logs.NOW)


def _log_proofs() -> list[bytes]:
    return [prove_entry(_checkpoint(), list(map(encode_entry, logs.EVERY_KIND)), 2).to_json().encode()]


@cache
def _sgx_quotes() -> list[bytes]:
    return [sgx_quote(stage().hosts["tdx"].platform, enclave_of("fuzzed"), bytes(64))]


@cache
def _tls_certificates() -> list[bytes]:
    statement = TlsKeyStatement.of(KEY.public_key().public_bytes_raw(), NOW)
    return [build_certificate(statement, evidence=scenes()["snp"].document, signature=bytes(64))]


def _policies() -> list[bytes]:
    return [json.dumps(scene.policy).encode() for scene in scenes().values()]


def _tokens() -> list[bytes]:
    policy = AppraisalPolicy.from_yaml(_policies()[0].decode())
    found = appraise(b"", policy, nonce=bytes(32), now=NOW)
    claims = attestation_result(found, policy, policy_id="p", nonce=None, now=NOW)
    return [sign_result(claims, KEY).encode()]


def _text(data: bytes) -> str:
    """The bytes as text; those that are no UTF-8 become letters of their own, so that none is lost."""
    return data.decode("utf-8", "surrogateescape")


def _read_certificate(data: bytes) -> None:
    certificate = Certificate.parse(data)
    certificate.is_authority()
    certificate.public_key()


def _read_quote(data: bytes) -> None:
    parse_quote(cut_quote(data))


def _check_tdx(data: bytes) -> None:
    """A good quote under hostile collateral: our parser, the quote library, and the look for a refusal's name."""
    evidence = TdxEvidence(quote=_quotes()[0], collateral=_text(data))
    check_quote(evidence, roots=vendors().roots().intel, now=NOW)


def _judge(data: bytes) -> None:
    scene = scenes()["tdx-2gpu"]
    verify(parse_evidence(data), _judging_policy(), nonce=scene.nonce, now=NOW)


@cache
def _judging_policy() -> AppraisalPolicy:
    return AppraisalPolicy.from_yaml(json.dumps(scenes()["tdx-2gpu"].policy))


_NO, _MALFORMED = (AttestationError,), (MalformedEvidenceError,)
TARGETS = {
    target.name: target
    for target in (
        Target("cbor", cbor.decode, _MALFORMED, _documents, cbor.SIZE_MAX),
        Target("evidence", parse_evidence, _MALFORMED, _documents, EVIDENCE_SIZE_MAX),
        Target("quote", _read_quote, _MALFORMED, _quotes, QUOTE_SIZE_MAX),
        Target("sgx-quote", parse_sgx_quote, _MALFORMED, _sgx_quotes, QUOTE_SIZE_MAX),
        Target("ra-tls", parse_certificate, _MALFORMED, _tls_certificates, CERTIFICATE_MAX),
        Target("collateral", lambda data: parse_collateral(_text(data)), _MALFORMED, _collaterals, COLLATERAL_SIZE_MAX),
        Target(
            "pem",
            lambda data: parse_pem(_text(data), count=2),
            _MALFORMED,
            lambda: [encode_pem(_certificates()[:2]).encode()],
            2 * CERTIFICATE_SIZE_MAX,
        ),
        Target("certificate", _read_certificate, _MALFORMED, _certificates, CERTIFICATE_SIZE_MAX),
        Target("signed", read_signed, _MALFORMED, _certificates, CRL_SIZE_MAX),
        Target(
            "snp-report",
            parse_report,
            _MALFORMED,
            lambda: _leaves(lambda value: len(value) == REPORT_SIZE),
            REPORT_SIZE,
        ),
        Target(
            "spdm",
            lambda data: read_facts(parse_spdm(data)),
            (MalformedEvidenceError, GpuStateError),
            lambda: _leaves(lambda value: value[:4] == REQUEST_HEAD),
            SPDM_SIZE_MAX,
        ),
        Target("rim", parse_rim, _MALFORMED, lambda: _leaves(lambda value: value[:1] == b"<"), RIM_SIZE_MAX),
        Target("ccel", lambda data: firmware_lines(cut_ccel(data)), _MALFORMED, _firmware_logs, CCEL_SIZE_MAX),
        Target("runtime-log", lambda data: parse_log(cbor.decode(data)), _MALFORMED, _runtime_logs, LOG_SIZE_MAX),
        Target("revocation-list", RevocationList.parse, _MALFORMED, _revocation_lists, CRL_SIZE_MAX),
        Target("ocsp", parse_ocsp, _MALFORMED, _ocsp_answers, RESPONSE_SIZE_MAX),
        Target("log-entry", parse_entry, _MALFORMED, lambda: map(encode_entry, logs.EVERY_KIND), ENTRY_SIZE_MAX),
        Target("log-proof", lambda data: parse_proof(_text(data)), _MALFORMED, _log_proofs, PROOF_SIZE_MAX),
        Target("checkpoint", _open_checkpoint, _NO, lambda: [_checkpoint()], NOTE_SIZE_MAX),
        Target(
            "snp-floor-file",
            lambda data: parse_floor_file(_text(data)),
            (PolicyError,),
            lambda: [(ROOT / "examples" / "snp_floor.yaml").read_bytes()],
            FLOOR_FILE_SIZE_MAX,
        ),
        Target("policy", lambda data: parse_policy(_text(data)), (PolicyError,), _policies, POLICY_SIZE_MAX),
        Target(
            "result-token",
            lambda data: verify_result(_text(data), KEY.public_key(), now=NOW, age_max_s=60),
            _NO,
            _tokens,
            TOKEN_SIZE_MAX,
        ),
        Target("tdx", _check_tdx, _NO, _collaterals, COLLATERAL_SIZE_MAX),
        Target("verify", _judge, _NO, _documents, EVIDENCE_SIZE_MAX),
    )
}
