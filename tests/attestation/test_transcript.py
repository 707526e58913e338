"""The transcript's bytes: the published vector, rebuilt with another CBOR encoder, and what each field changes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest

from attestation import CcState, NoTee, Transcript, encode_evidence, gpu_nonce, host_id, inclusion_proof, nonce_root
from attestation.transcript import GPUS_MAX, MODELS_MAX, SWITCHES_MAX, switch_nonce

PAGE = Path(__file__).parents[2] / "docs" / "protocol" / "transcript.md"
NONCES = (b"\1" * 32, b"\2" * 32)
BASE = Transcript(
    nonce_root=nonce_root(NONCES),
    hpke=b"\3" * 1216,
    receipt=b"\4" * 32,
    payee=bytes(33),
    models=(b"\5" * 32,),
    engine=b"\6" * 32,
    cc=(CcState.ON, CcState.ON),
)
FULL = BASE.with_reports((b"report 0", b"report 1"), (b"report 2",))


def _published() -> dict[str, bytes]:
    rows = re.findall(r"^\| ([^|]+) \| `([0-9a-f]+)` \|$", PAGE.read_text(), re.MULTILINE)
    return {name: bytes.fromhex(value) for name, value in rows}


def test_the_published_vector_is_what_the_code_computes() -> None:
    open_host = NoTee().attest(BASE).evidence(inclusion_proof(NONCES, 1))
    assert _published() == {
        "nonce root": BASE.nonce_root,
        "base digest": FULL.base_digest(),
        "GPU nonce 0": gpu_nonce(FULL.base_digest(), 0),
        "GPU nonce 1": gpu_nonce(FULL.base_digest(), 1),
        "switch nonce 0": switch_nonce(FULL.base_digest(), 0),
        "transcript digest": FULL.digest(),
        "report data": FULL.report_data(),
        "host id": host_id(FULL.hpke, FULL.receipt),
        "transcript, SHA-256 of its CBOR": hashlib.sha256(_foreign_cbor()).digest(),
        "evidence of an open host for the second nonce, SHA-256 of its CBOR": hashlib.sha256(
            encode_evidence(open_host)
        ).digest(),
    }


def _foreign_cbor(*, reports: bool = True) -> bytes:
    """The page's words, followed with another encoder and hashes written out."""
    fields = {
        "v": 2,
        "nonce_root": _foreign_root(),
        "hpke": b"\3" * 1216,
        "receipt": b"\4" * 32,
        "payee": bytes(33),
        "models": [b"\5" * 32],
        "engine": b"\6" * 32,
        "cc": ["on", "on"],
    }
    if reports:
        fields["gpus"] = [hashlib.sha384(b"report 0").digest(), hashlib.sha384(b"report 1").digest()]
        fields["switches"] = [hashlib.sha384(b"report 2").digest()]
    return cbor2.dumps(fields, canonical=True)


def _foreign_root() -> bytes:
    leaves = [hashlib.sha256(b"\0" + nonce).digest() for nonce in NONCES]
    tree = hashlib.sha256(b"\1" + leaves[0] + leaves[1]).digest()
    return hashlib.sha256(b"\2" + b"\0\0\0\2" + tree).digest()


def test_the_page_can_be_followed_without_our_code() -> None:
    published = _published()
    base_digest = hashlib.sha384(_foreign_cbor(reports=False)).digest()
    digest = hashlib.sha384(_foreign_cbor()).digest()
    assert published["nonce root"] == _foreign_root()
    assert published["base digest"] == base_digest
    assert published["transcript digest"] == digest
    assert published["report data"] == digest + b"chrysalis/1 tee\0"
    assert published["GPU nonce 1"] == hashlib.sha256(b"chrysalis/1 gpu" + base_digest + b"\0\1").digest()
    assert published["switch nonce 0"] == hashlib.sha256(b"chrysalis/1 switch" + base_digest + b"\0\0").digest()
    assert published["host id"] == hashlib.sha256(b"chrysalis/1 host" + b"\3" * 1216 + b"\4" * 32).digest()[:8]


@pytest.mark.parametrize(
    "change",
    [
        {"nonce_root": b"x" * 32},
        {"hpke": b"x" * 1216},
        {"receipt": b"x" * 32},
        {"payee": b"x" * 33},
        {"models": ()},
        {"engine": b"x" * 32},
        {"cc": (CcState.ON, CcState.OFF)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_changes_digest_and_gpu_nonces(change: dict[str, object]) -> None:
    changed = replace(FULL, **change)
    assert changed.digest() != FULL.digest()
    assert changed.base_digest() != FULL.base_digest()


@pytest.mark.parametrize("change", [{"gpus": FULL.gpus[::-1]}, {"switches": ()}, {"switches": FULL.gpus[:1]}])
def test_reports_of_devices_change_the_digest_and_not_the_nonces_they_answer(change: dict[str, object]) -> None:
    swapped = replace(FULL, **change)
    assert swapped.digest() != FULL.digest()
    assert swapped.base_digest() == FULL.base_digest() == BASE.base_digest()


def test_every_device_answers_a_nonce_of_its_own() -> None:
    base = BASE.base_digest()
    nonces = [gpu_nonce(base, 0), gpu_nonce(base, 1), switch_nonce(base, 0), switch_nonce(base, 1)]
    assert len(set(nonces)) == 4
    assert FULL.base() == BASE


@pytest.mark.parametrize(
    "change",
    [
        {"nonce_root": b""},
        {"hpke": bytes(1215)},
        {"receipt": bytes(33)},
        {"payee": bytes(32)},
        {"engine": bytes(31)},
        {"models": (b"b" * 32, b"a" * 32)},
        {"models": (b"a" * 32, b"a" * 32)},
        {"models": (b"short",)},
        {"models": tuple(number.to_bytes(32, "big") for number in range(MODELS_MAX + 1))},
        {"gpus": (bytes(48),)},
        {"gpus": (bytes(47), bytes(48))},
        {"cc": (CcState.ON,) * 17, "gpus": ()},
        {"switches": (bytes(47),)},
        {"switches": (bytes(48),) * (SWITCHES_MAX + 1)},
        {"gpus": (), "switches": (bytes(48),)},
    ],
)
def test_a_transcript_outside_its_limits_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"want|at most"):
        replace(FULL, **change)


def test_new_keys_are_a_new_host() -> None:
    assert (
        len({host_id(FULL.hpke, FULL.receipt), host_id(b"x" * 1216, FULL.receipt), host_id(FULL.hpke, b"x" * 32)}) == 3
    )


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (1, 1, 0, 0), (23, 8, 8, 4), (24, 2, 2, 0), (MODELS_MAX, GPUS_MAX, GPUS_MAX, SWITCHES_MAX)]
)
def test_digests_are_those_of_the_canonical_map(counts: tuple[int, int, int, int]) -> None:
    models, states, gpus, switches = counts
    transcript = replace(
        BASE,
        models=tuple(number.to_bytes(32, "big") for number in range(models)),
        cc=tuple([CcState.OFF, *[CcState.ON] * states][:states]),
        gpus=tuple(number.to_bytes(48, "big") for number in range(gpus)),
        switches=tuple(number.to_bytes(48, "big") for number in range(switches)),
    )
    fields = transcript.to_fields()
    assert transcript.digest() == hashlib.sha384(cbor2.dumps(fields, canonical=True)).digest()
    del fields["gpus"], fields["switches"]
    assert transcript.base_digest() == hashlib.sha384(cbor2.dumps(fields, canonical=True)).digest()
