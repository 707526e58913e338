import socket

import pytest
from typer.testing import CliRunner

from chrysalis.cli import app


@pytest.mark.parametrize(
    "command",
    [
        ["hosts"],
        ["explain", "a"],
        ["hosts", "--address", "x:y"],
        ["models", "list"],
        ["models", "plan"],
        ["models", "rollout", "m", "aa"],
        ["models", "rollback", "m"],
    ],
)
def test_a_cluster_that_does_not_answer_is_told_at_once(command) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
        done = CliRunner().invoke(app, command, env={"RAY_ADDRESS": nobody})
    assert done.exit_code == 2
    assert "no answer from the operator's cluster at" in done.stderr


def test_a_root_that_is_no_root_is_refused_before_anybody_is_asked() -> None:
    done = CliRunner().invoke(app, ["models", "rollout", "m", "xyz"])
    assert (done.exit_code, "64 hexadecimal digits" in done.stderr) == (1, True)
