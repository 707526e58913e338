import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.claim_proof import PROOF_BYTES_MAX, ClaimProof, prove_claim
from billing.entitlements import Entitlements
from billing.errors import MalformedRecordError, NothingToClaimError
from tests.billing.ton.world import payees

NAMES = payees(5)
ENTITLEMENTS = Entitlements(amounts={name: i + 1 for i, name in enumerate(NAMES)})


def proof(i: int = 2) -> ClaimProof:
    return prove_claim(ENTITLEMENTS, NAMES[i], network_id=-777, vault=b"\x00" * 33, seqno=4)


def test_every_payees_proof_survives_its_text() -> None:
    for i in range(5):
        assert ClaimProof.parse(proof(i).to_json()) == proof(i)


def test_a_payee_with_nothing_has_no_proof() -> None:
    with pytest.raises(NothingToClaimError):
        prove_claim(ENTITLEMENTS, b"\x00" * 33, network_id=-777, vault=b"\x00" * 33, seqno=4)


@pytest.mark.parametrize(
    "change",
    [
        {"entitled": 4},
        {"entitled": 0},
        {"entitled": -3},
        {"entitled": 1 << 63},
        {"entitled": "3"},
        {"entitled": 3.0},
        {"entitled": True},
        {"index": 77},
        {"index": 1 << 32},
        {"seqno": -1},
        {"root": "ab" * 32},
        {"root": "ab"},
        {"root": None},
        {"payee": "0:" + "ab" * 32},
        {"payee": "7:" + "ab" * 32},
        {"payee": 5},
        {"path": []},
        {"path": ["x" + "ab" * 32]},
        {"path": ["l" + "ab" * 31]},
        {"path": [7]},
        {"path": None},
        {"vault": ""},
        {"extra": 1},
    ],
    ids=str,
)
def test_an_altered_proof_is_refused_by_name(change: dict) -> None:
    fields = json.loads(proof().to_json()) | change
    with pytest.raises(MalformedRecordError):
        ClaimProof.parse(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 5000, "x" * (PROOF_BYTES_MAX + 1)], ids=lambda t: t[:4])
def test_what_is_no_proof_is_refused_by_name(text: str) -> None:
    with pytest.raises(MalformedRecordError):
        ClaimProof.parse(text)


@given(st.text(max_size=60))
def test_noise_is_refused_by_name(noise: str) -> None:
    with pytest.raises(MalformedRecordError):
        ClaimProof.parse(noise)
