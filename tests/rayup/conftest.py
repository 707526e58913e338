"""The network that the tests of this folder share: `cluster`. Each file leaves it as it was found: two hosts serve."""

import json

import pytest

from tests.rayup.hosts import missing
from tests.rayup.network import MODEL, RayUp

MARKS = [
    pytest.mark.rayup,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing()), reason=missing() or "hosts can be made"),
    pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`"),
]
PROMPT, ANSWER = "Translate to French: The dog sees a bird.", "Le chien voit un oiseau."


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rayup")
    cluster = RayUp(folder)
    try:
        cluster.bring_up()
        yield cluster
        print("seconds:", json.dumps(cluster.seconds))
    finally:
        assert cluster.close() == []


def answer(cluster: RayUp) -> str:
    reply = cluster.ask(PROMPT)
    return reply["choices"][0]["message"]["content"] if "choices" in reply else str(reply)


def who_answers(cluster: RayUp) -> str:
    """The host that answered one request, as its receipt says."""
    reply = cluster.ask(PROMPT)
    assert reply["choices"][0]["message"]["content"] == ANSWER
    request = reply["id"].removeprefix("chatcmpl-")
    return next(receipt["host_id"] for receipt in cluster.receipts() if receipt["id"].startswith(request))
