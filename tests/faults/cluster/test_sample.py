"""A sample of the cluster's faults under a light load; `make cluster-faults` runs all of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from chrysalis.demo.run import MODEL

ACTORS = ("billing", "registry", "relay-actor")
FAULTS = (*ACTORS, "relay", "head")
BASE_PORT = 25000  # not the one of the whole suite, which may run beside
ANSWERS_AGAIN_S = 30  # the targets are those of an idle machine, see docs/FAULTS.md

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the suite found; starting the network takes most of the time."""
    folder = tmp_path_factory.mktemp("faults")
    argv = ["--base-port", str(BASE_PORT), "--rate", "5", "--hosts", "2", "--calm", "1", "--rogue", "--fault", *FAULTS]
    argv += ["--json", str(folder / "found.json"), "--results", str(folder / "results.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.cluster", *argv], capture_output=True, text=True, timeout=580, check=False
    )
    assert (folder / "found.json").exists(), done.stdout + done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


def test_answers_flow_again_after_each_fault_and_nothing_is_left_behind(found: dict) -> None:
    assert found["failures"] == found["left"] == []
    assert len(found["effects"]) == len(FAULTS)
    for effect in found["effects"]:
        assert effect["recovery_s"] < ANSWERS_AGAIN_S, effect
        assert effect["answered"] > 0, effect


def test_no_request_is_lost_and_only_a_dead_relay_cuts_answers(found: dict) -> None:
    *actors, relay, head = found["effects"]
    assert [(effect["cut"], effect["lost"]) for effect in actors] == [(0, 0)] * len(ACTORS)
    assert relay["lost"] == head["lost"] == 0
    assert set(relay["codes"]) <= {"worker_lost", "no_host"}


def test_a_head_that_is_switched_on_again_has_answers_flow_before_ray_runs(found: dict) -> None:
    head = found["effects"][-1]
    assert head["recovery_s"] < head["whole_s"]


def test_every_receipt_of_the_client_is_paid_exactly_once(found: dict) -> None:
    audit = found["audit"]
    assert audit["verified"] > 0
    assert (audit["unpaid"], audit["twice"], audit["unlike"], found["imbalance"]) == (0, 0, 0, 0)


def test_a_ray_node_with_the_token_and_no_valid_evidence_gets_nothing(found: dict) -> None:
    rogue = dict(found["rogue"])
    assert rogue.pop("joined_ray") is True
    assert not any(rogue.values()), rogue
