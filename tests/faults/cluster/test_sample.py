"""A sample of the cluster's faults under a light load; `make faults` runs all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from chrysalis.demo.run import MODEL

FAULTS = ("billing", "replica", "enclave")
ANSWERS_AGAIN_S = 30  # the targets are those of an idle machine, see docs/FAULTS.md

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif("CLUSTER_FAULTS" not in os.environ, reason="never run to its end yet: set CLUSTER_FAULTS=1"),
    pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("faults") / "found.json"
    argv = ["--rate", "5", "--hosts", "2", "--calm", "2", "--rogue", "--json", str(out), "--fault", *FAULTS]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.cluster", *argv], capture_output=True, text=True, timeout=480, check=False
    )
    assert out.exists(), done.stdout + done.stderr[-3000:]
    return json.loads(out.read_text())


def test_answers_flow_again_after_each_fault_and_nothing_is_left_behind(found: dict) -> None:
    assert found["failures"] == found["left"] == []
    assert len(found["effects"]) == len(FAULTS)
    for effect in found["effects"]:
        assert effect["recovery_s"] < ANSWERS_AGAIN_S, effect
        assert effect["answered"] > 0, effect


def test_only_answers_that_were_under_way_on_the_dead_enclave_are_lost(found: dict) -> None:
    billing, replica, enclave = found["effects"]
    assert [(effect["cut"], effect["lost"]) for effect in (billing, replica)] == [(0, 0), (0, 0)]
    assert enclave["lost"] == 0
    assert set(enclave["codes"]) <= {"worker_lost", "no_host"}


def test_every_receipt_of_the_client_is_paid_exactly_once(found: dict) -> None:
    audit = found["audit"]
    assert audit["verified"] > 0
    assert (audit["unpaid"], audit["twice"], audit["unlike"], found["imbalance"]) == (0, 0, 0, 0)


def test_a_ray_node_with_the_token_and_no_valid_evidence_gets_nothing(found: dict) -> None:
    rogue = found["rogue"]
    assert rogue.pop("joined_ray") is True
    assert not any(rogue.values()), rogue
