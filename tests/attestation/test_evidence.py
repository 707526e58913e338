"""The evidence document: round trip, limits, and only one kind of error for bytes that are none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import MalformedEvidenceError, cbor, encode_evidence, parse_evidence
from attestation.evidence import EVIDENCE_SIZE_MAX
from tests.attestation.hosts import SNP_CPU, TDX_CPU, evidence_of, host


def _document() -> dict[str, Any]:
    fields = cbor.decode(encode_evidence(evidence_of(host(TDX_CPU, 1))))
    assert isinstance(fields, dict)
    return fields


@pytest.mark.parametrize("kind", [TDX_CPU, SNP_CPU])
def test_evidence_survives_the_wire(kind: Any) -> None:
    evidence = evidence_of(host(kind, 2))
    assert parse_evidence(encode_evidence(evidence)) == evidence


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda d: d.update(v=3), id="unknown-version"),
        pytest.param(lambda d: d.update(v=True), id="version-that-is-no-number"),
        pytest.param(lambda d: d.update(extra=1), id="unknown-field"),
        pytest.param(lambda d: d.pop("rims"), id="missing-field"),
        pytest.param(lambda d: d.update(transcript=None), id="no-transcript"),
        pytest.param(lambda d: d["transcript"].update(v=0), id="transcript-of-another-version"),
        pytest.param(lambda d: d["transcript"].update(extra=b""), id="unknown-transcript-field"),
        pytest.param(lambda d: d["transcript"].update(cc=["maybe"]), id="unknown-cc-state"),
        pytest.param(lambda d: d["transcript"].update(cc=[1]), id="cc-state-that-is-no-text"),
        pytest.param(lambda d: d["transcript"].update(cc=[]), id="gpu-without-cc-state"),
        pytest.param(lambda d: d["transcript"].update(models=["text"]), id="model-that-is-no-digest"),
        pytest.param(lambda d: d["transcript"].update(hpke=b"short"), id="short-key"),
        pytest.param(lambda d: d["inclusion"].update(index=5), id="place-outside-the-tree"),
        pytest.param(lambda d: d["inclusion"].update(index="0"), id="place-that-is-no-number"),
        pytest.param(lambda d: d["inclusion"].update(path=[b"short"]), id="short-hash"),
        pytest.param(lambda d: d["inclusion"].update(path=[bytes(32)] * 17), id="endless-path"),
        pytest.param(lambda d: d.update(cpu={"tee": "sgx"}), id="unknown-tee"),
        pytest.param(lambda d: d["cpu"].pop("collateral"), id="no-collateral"),
        pytest.param(lambda d: d["cpu"].update(quote="text"), id="quote-that-is-text"),
        pytest.param(lambda d: d["cpu"].update(collateral=b"bytes"), id="collateral-that-is-bytes"),
        pytest.param(lambda d: d["cpu"].update(extra=b""), id="unknown-cpu-field"),
        pytest.param(lambda d: d.update(gpus=d["gpus"] * 17), id="too-many-gpus"),
        pytest.param(lambda d: d["gpus"][0].update(chain=[b""] * 11), id="endless-chain"),
        pytest.param(lambda d: d["gpus"][0].update(extra=0), id="unknown-gpu-field"),
        pytest.param(lambda d: d.update(rims=[b""] * 41), id="too-many-manifests"),
    ],
)
def test_refused(edit: Edit) -> None:
    document = _document()
    edit(document)
    with pytest.raises(MalformedEvidenceError):
        parse_evidence(cbor.encode(document))


@pytest.mark.parametrize("value", [None, 1, [], "text", b"bytes"])
def test_a_document_that_is_no_map_is_refused(value: cbor.Value) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_evidence(cbor.encode(value))


def test_a_document_larger_than_a_mebibyte_is_refused_unread() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_evidence(bytes(EVIDENCE_SIZE_MAX + 1))


def test_evidence_nobody_would_read_cannot_be_sent() -> None:
    evidence = evidence_of(host(TDX_CPU))
    object.__setattr__(evidence, "rims", (bytes(EVIDENCE_SIZE_MAX),))
    with pytest.raises(ValueError, match="at most"):
        encode_evidence(evidence)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_truncated_or_spliced_document_is_malformed_or_another_one(data: st.DataObject) -> None:
    document = encode_evidence(evidence_of(host(TDX_CPU)))
    start = data.draw(st.integers(0, len(document)))
    end = data.draw(st.integers(start, len(document)))
    spliced = document[:start] + data.draw(st.binary(max_size=50)) + document[end:]
    with contextlib.suppress(MalformedEvidenceError):
        assert encode_evidence(parse_evidence(spliced)) == spliced
