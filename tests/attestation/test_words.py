"""The verifier's words are part of what it promises: each check says what was seen and what was required."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from attestation import ReferenceValues
from attestation.errors import MeasurementNotAllowedError
from attestation.sim.scenes import Stage
from attestation.verify import check_recording
from tests.attestation import words
from tests.attestation.hosts import TDX_CPU, evidence_of, host, policy_for, vendors
from tests.attestation.vendors import NOW

PAGE = Path(__file__).with_name("words.txt")


def test_every_check_refusal_and_verdict_says_what_the_page_says() -> None:
    said = list(words.lines(Stage(vendors(), seed=1)))
    assert said == PAGE.read_text().splitlines(), words.__doc__


def test_the_page_is_the_same_for_other_keys() -> None:
    assert list(words.lines(Stage(vendors(), seed=2))) == PAGE.read_text().splitlines()


def test_a_recording_is_judged_by_the_policy_and_the_time_given() -> None:
    evidence = evidence_of(host(TDX_CPU))
    checks = check_recording(evidence, policy_for(host(TDX_CPU)), now=NOW)
    assert (checks[0].name, checks[0].outcome) == ("nonce", "not applicable")
    nothing = ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset())
    with pytest.raises(MeasurementNotAllowedError) as caught:
        check_recording(evidence, policy_for(host(TDX_CPU), reference=nothing), now=NOW)
    assert caught.value.checks[0].name == "nonce"
    with pytest.raises(ValueError, match="want an aware time"):
        check_recording(evidence, policy_for(host(TDX_CPU)), now=datetime(2026, 6, 1, 12))
