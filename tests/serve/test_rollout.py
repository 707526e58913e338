"""Real parts: devnet, head, three hosts, relay, gateway, sidecars, and clients that never stop asking."""

import json
import subprocess
import sys

import pytest

from tests.cluster.network_process import MODEL

pytestmark = [
    pytest.mark.ray,
    pytest.mark.rollout,
    pytest.mark.timeout(920),
    pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`"),
]
BASE_PORT = 22300


@pytest.fixture(scope="module")
def report():
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve.rollout_scenario", str(BASE_PORT)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_scaling_a_roll_out_a_drain_and_a_roll_back_under_load_lose_no_request(report) -> None:
    assert report["lost"] == []
    assert report["answered"] >= 100
    assert report["tried_again"] <= report["answered"] // 100  # a host that is too slow to say that it lives
    assert report["refused"] == []


def test_both_roots_answered_and_were_paid(report) -> None:
    assert min(report["roots"]["old"], report["roots"]["new"]) > 0
    assert sum(report["roots"].values()) == report["answered"]


def test_the_old_root_was_kept_when_leases_changed(report) -> None:
    assert report["old_kept"] == 3


def test_load_makes_as_many_replicas_as_the_fleet_offers_and_idleness_retires_them(report) -> None:
    assert report["scaled"] == {"before": 1, "busy": 3, "wanted": 3, "offered": 3, "idle": 1}


def test_tokens_a_second_make_replicas_while_the_queue_is_short_and_the_rest_is_said_to_lack_hosts(report) -> None:
    told = report["by_tokens"]
    assert told == {"before": 1, "wanted": 3, "offered": 3, "needed_more": True, "queue_short": True}


def test_a_measured_jobs_modules_are_on_every_host_that_logged_them_and_nowhere_else(report) -> None:
    told = {name: f"hello {name}" for name in ("a", "b", "c")}
    assert report["job"] == {"told": {"ray-head": "refused", **told}, "logged": ["a", "b", "c"]}


def test_nothing_stays_behind(report) -> None:
    assert report["left"] == []
