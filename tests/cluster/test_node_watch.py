"""Whose Ray node is ended: hosts that joined and are out. The operator's own machines are left alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.fleet import HostRecord, HostState
from cluster.joined_addresses import JoinedAddresses
from cluster.model import HostHints
from cluster.node_watch import GRACE, AliveNode, NodeWatch

BEGAN = datetime(2026, 5, 1, 12, tzinfo=UTC)
NODE, OWN = AliveNode(node_id="aa", ip="10.0.0.2"), AliveNode(node_id="bb", ip="10.0.0.9")
LATER = BEGAN + GRACE + timedelta(seconds=1)
SECOND = timedelta(seconds=1)


def host(state: HostState, *, node_id: str | None = None, port: int = 9443) -> HostRecord:
    return HostRecord(
        address=f"10.0.0.2:{port}", hints=HostHints(), state=state, reason="spam", since=BEGAN, node_id=node_id
    )


def ended(watch: NodeWatch, *hosts: HostRecord, now: datetime, joined: datetime = BEGAN) -> dict[str, str]:
    found = watch.judge([NODE, OWN], hosts, {NODE.ip: joined}, now=now)
    return {one.node_id: one.reason for one in found}


@pytest.fixture
def watch() -> NodeWatch:
    return NodeWatch(began=BEGAN)


@pytest.mark.parametrize("state", [HostState.BANNED, HostState.REFUSED])
def test_the_node_of_a_host_that_is_out_goes_at_once_and_so_does_the_next_one(watch, state) -> None:
    assert ended(watch, host(HostState.ACTIVE, node_id="aa"), now=BEGAN) == {}
    assert ended(watch, host(state), now=BEGAN + SECOND) == {"aa": f"its host is {state}: spam"}
    again = AliveNode(node_id="cc", ip=NODE.ip)
    found = watch.judge([again], [host(state)], {NODE.ip: BEGAN}, now=BEGAN + 2 * SECOND)
    assert [one.node_id for one in found] == ["cc"]


def test_a_node_that_nobody_binds_goes_after_a_while_and_a_new_one_gets_no_new_time(watch) -> None:
    assert ended(watch, now=BEGAN + GRACE) == {}
    assert ended(watch, now=LATER).keys() == {"aa"}
    again = AliveNode(node_id="cc", ip=NODE.ip)
    assert [one.node_id for one in watch.judge([again], [], {NODE.ip: BEGAN}, now=LATER + SECOND)] == ["cc"]


def test_a_new_certificate_gives_time_to_bind(watch) -> None:
    assert ended(watch, now=LATER, joined=LATER) == {}


@pytest.mark.parametrize("state", [HostState.SUSPENDED, HostState.DRAINING, HostState.QUARANTINED])
def test_a_host_that_may_come_back_keeps_its_node(watch, state) -> None:
    assert ended(watch, host(state, node_id="aa"), now=LATER) == {}


def test_a_host_whose_record_is_rebuilt_keeps_its_node_until_it_is_bound_again(watch) -> None:
    """As after a restart of the registry."""
    assert ended(watch, host(HostState.ACTIVE, node_id="aa"), now=LATER) == {}
    assert ended(watch, host(HostState.ACTIVE), now=LATER + GRACE) == {}
    assert ended(watch, host(HostState.ACTIVE), now=LATER + GRACE + SECOND).keys() == {"aa"}


def test_a_machine_with_another_host_in_order_is_not_barred_by_the_first_ones_end(watch) -> None:
    hosts = host(HostState.BANNED), host(HostState.ACTIVE, node_id="aa", port=9444)
    assert ended(watch, *hosts, now=BEGAN) == {}


def test_addresses_that_joined_are_known_after_a_restart_until_their_certificates_end(tmp_path: Path) -> None:
    path, hours = tmp_path / "joined.jsonl", timedelta(hours=12)
    joined = JoinedAddresses(path)
    joined.note("10.0.0.2", now=BEGAN, end=BEGAN + hours)
    joined.note("10.0.0.3", now=BEGAN, end=BEGAN + 2 * SECOND)
    joined.note("10.0.0.2", now=BEGAN + SECOND, end=BEGAN + hours + SECOND)
    again = JoinedAddresses(path)
    assert again.current(BEGAN) == {"10.0.0.2": BEGAN + SECOND, "10.0.0.3": BEGAN}
    assert again.current(BEGAN + hours).keys() == {"10.0.0.2"}
    assert again.current(BEGAN + hours + SECOND) == {}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", ["{}", "noise", '{"address": "x", "given": 1, "end": 2}', '{"address": 1}', "[]"])
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path, line: str) -> None:
    (tmp_path / "joined.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        JoinedAddresses(tmp_path / "joined.jsonl")
