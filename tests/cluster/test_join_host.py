"""A host's time in a cluster: real processes, real TLS, a real registry; only Ray itself is not there."""

import asyncio
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from cluster import join_host
from cluster.errors import ConfigError, EnclaveUnreachableError, JoinRefusedError, NodeStartError
from cluster.fleet import HostState
from cluster.join_client import JoinClient, parse_head
from cluster.join_desk import FoundNode
from cluster.join_folder import JoinFolder
from cluster.join_host import HostFacts, Membership
from cluster.join_node import JoinedNode, ray_command
from cluster.processes import Supervisor
from tests.cluster.joining import ADDRESS, ELSEWHERE, TOKEN, Enclave, EnclaveSocket, Head

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
FILES = ["ca.crt", "lock", "logs", "node.crt", "node.key", "run", "token"]
CLEAN = ["lock", "logs", "run"]


class JoiningHost:
    """One host with its folder, its supervisor, and a Ray node that is a process which sleeps."""

    def __init__(self, head: Head, enclave: Enclave, folder: Path, *, broken: str = "") -> None:
        self.head, self.enclave, self.path = head, enclave, folder
        self.said: list[str] = []
        self.standings: list[tuple[str, str]] = []
        self.pids: list[int] = []
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        self.broken = broken  # what the Ray node says instead of running
        self.facts = HostFacts(address=ADDRESS, control="/run/c.sock", name="anna", labels={"tee": "tdx"})

    async def run(self) -> None:
        supervisor = None
        try:
            with JoinFolder(self.path) as folder:
                supervisor = Supervisor(self.path / "logs")
                folder.note_run(supervisor.mark)
                node = JoinedNode(supervisor, folder, self._command, control=Path("/run/c.sock"), ray_folder=self.path)
                self.node = node
                socket = EnclaveSocket(self.enclave)
                async with JoinClient(
                    parse_head(self.head.address), self.head.pin, socket, clock=self.head.clock
                ) as client:
                    membership = Membership(
                        self.facts, client, socket, node, say=self._say, clock=self.head.clock, drain_s=1
                    )
                    await membership.run(self.stop, self.hurry)
        finally:
            if supervisor is not None:
                supervisor.stop()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())

    async def until(self, step: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.said.count(step) < times:
                await asyncio.sleep(0.01)

    def _say(self, step: str, facts) -> None:
        self.said.append(step)
        if step == "standing":
            self.standings.append((facts["state"], facts["reason"]))

    def _command(self, grant, node_name: str) -> list[str]:
        if self.broken:
            return [sys.executable, "-c", f"raise SystemExit({self.broken!r})"]
        self.head.nodes.alive[node_name] = FoundNode(node_id=node_name.encode().hex(), labels={})
        return SLEEPS


@pytest.fixture
async def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(join_host, "WATCH_S", 0.05)
    monkeypatch.setattr(join_host, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(join_host, "START_AGAIN_S", 0.05)
    head = Head(tmp_path / "head")
    await head.start()
    yield head
    await head.stop()


@pytest.fixture
def host(head: Head, tmp_path: Path) -> JoiningHost:
    return JoiningHost(head, head.add(Enclave("host")), tmp_path / "host")


async def test_a_host_joins_stays_and_leaves_nothing_when_it_is_asked_to_stop(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    assert host.files() == FILES
    modes = {name: (host.path / name).stat().st_mode & 0o777 for name in ("token", "node.key", ".")}
    assert modes == {"token": 0o600, "node.key": 0o600, ".": 0o700}
    assert (host.path / "token").read_text() == TOKEN
    pid = host.node._program.pid
    env = psutil.Process(pid).environ()
    assert env["RAY_AUTH_TOKEN_PATH"] == str(host.path / "token") and TOKEN not in str(env)
    assert (env["RAY_USE_TLS"], env["RAY_SERVE_ENABLE_HA_PROXY"]) == ("1", "1")
    assert head.state(host.enclave) is HostState.ACTIVE
    assert host.enclave.prepared
    host.stop.set()
    await running
    assert host.said[:4] == ["challenge", "evidence holds", "certificate", "joined"] and host.said[-1] == "left"
    assert host.files() == ["lock", "logs"]
    assert not psutil.pid_exists(pid)
    assert (head.state(host.enclave), head.nodes.bound) == (HostState.GONE, {})


async def test_a_refused_host_has_started_nothing_and_keeps_nothing(head, host) -> None:
    head.gate.enclaves[ADDRESS] = Enclave("somebody else")
    with pytest.raises(JoinRefusedError, match="did not sign"):
        await host.run()
    assert host.files() == ["lock", "logs"]
    assert not hasattr(host.node, "_program") or host.node._program is None


async def test_a_node_that_dies_is_started_again_after_fresh_evidence(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    first = host.node._program.pid
    psutil.Process(first).kill()
    await host.until("joined", 2)
    assert "node ended" in host.said
    assert len(set(head.gate.nonces)) == 2
    assert host.node._program.pid != first
    host.stop.set()
    await running


async def test_a_certificate_is_renewed_before_it_ends_with_a_drain_and_a_new_node(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    first, certificate = host.node._program.pid, (host.path / "node.crt").read_bytes()
    head.clock.ahead += timedelta(hours=8, minutes=1)  # of twelve
    await host.until("joined", 2)
    assert (host.path / "node.crt").read_bytes() != certificate
    assert not psutil.pid_exists(first) and host.node.running()
    record = head.registry.snapshot().host(host.enclave.host_id)
    assert record.state is HostState.ACTIVE and HostState.DRAINING in {past.state for past in record.history}
    host.stop.set()
    await running


async def test_a_host_that_may_not_renew_ends_its_node_and_keeps_nothing(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    pid = host.node._program.pid
    await head.registry.expel(host.enclave.host_id, "it is too slow")
    head.clock.ahead += timedelta(hours=8, minutes=1)
    with pytest.raises(JoinRefusedError, match="it is too slow"):
        await running
    assert not psutil.pid_exists(pid) and host.files() == ["lock", "logs"]


async def test_a_head_that_is_away_is_waited_for_without_token_or_certificate(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    await head.stop()
    psutil.Process(host.node._program.pid).kill()
    await host.until("waiting", 2)
    assert host.files() == CLEAN
    host.stop.set()
    await running
    assert host.files() == ["lock", "logs"]


async def test_a_certificate_that_ends_while_the_head_is_away_ends_the_node_and_is_removed(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    pid = host.node._program.pid
    await head.stop()
    head.clock.ahead += timedelta(hours=9)
    await host.until("renewal waits")
    assert host.node.running() and host.files() == FILES
    head.clock.ahead += timedelta(hours=3)
    await host.until("certificate ended")
    await host.until("waiting")
    assert not psutil.pid_exists(pid) and host.files() == CLEAN
    host.stop.set()
    await running


async def test_an_enclave_that_was_started_again_joins_anew(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    old = host.enclave
    new = head.add(Enclave("restarted"))
    old.__dict__.update(new.__dict__)  # the same socket, another instance
    await host.until("joined", 2)
    assert head.state(new) is HostState.ACTIVE
    host.stop.set()
    await running


async def test_an_owner_reads_that_its_host_runs_twice_and_that_it_was_released(
    head, host, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host that was in: it is told without asking to join again, and keeps its node meanwhile."""
    monkeypatch.setattr(join_host, "STANDING_S", 0.1)
    first = asyncio.create_task(host.run())
    await host.until("joined")
    head.gate.enclaves[ELSEWHERE] = host.enclave
    copy = JoiningHost(head, host.enclave, tmp_path / "copy")
    copy.facts = replace(host.facts, address=ELSEWHERE)
    with pytest.raises(JoinRefusedError, match="signed for both"):
        await copy.run()
    await host.until("standing")
    state, reason = host.standings[0]
    assert state == "quarantined" and ADDRESS in reason and ELSEWHERE in reason
    assert copy.files() == ["lock", "logs"] and host.files() == FILES and not first.done()
    await head.registry.release(host.enclave.host_id, "the copy is off", address=ADDRESS)
    await head.registry.settled()
    async with asyncio.timeout(20):
        while host.standings[-1][0] != "active":
            await asyncio.sleep(0.01)
    assert host.said.count("joined") == 1
    host.stop.set()
    await first


async def test_an_owner_reads_that_the_registry_knows_its_host_no_more_and_a_head_that_is_away_is_no_news(
    head, host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_host, "STANDING_S", 0.1)
    running = asyncio.create_task(host.run())
    await host.until("joined")
    await head.server.stop(0.1)
    await asyncio.sleep(0.4)
    assert host.standings == [] and not running.done()
    await head.registry.leave(host.enclave.host_id, "the operator took it out")
    await head.start()
    await host.until("standing")
    assert host.standings == [("gone", "the operator took it out")]
    host.stop.set()
    await running


async def test_an_enclave_that_is_gone_ends_the_membership(head, host, monkeypatch: pytest.MonkeyPatch) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")

    def gone() -> dict:
        raise EnclaveUnreachableError("no answer")

    monkeypatch.setattr(host.enclave, "health", gone)
    with pytest.raises(EnclaveUnreachableError):
        await running
    assert host.files() == ["lock", "logs"]


async def test_a_node_that_does_not_start_says_why_and_the_host_is_out_again(head, tmp_path) -> None:
    host = JoiningHost(head, head.add(Enclave("host")), tmp_path / "host", broken="no such option")
    with pytest.raises(NodeStartError, match="no such option"):
        await host.run()
    assert head.state(host.enclave) is HostState.GONE
    assert host.files() == ["lock", "logs"]


async def test_a_node_that_does_not_start_again_in_a_cluster_where_it_ran_is_tried_until_it_does(head, host) -> None:
    running = asyncio.create_task(host.run())
    await host.until("joined")
    host.broken = "the head restarts"
    psutil.Process(host.node._program.pid).kill()
    await host.until("waiting", 2)
    assert host.enclave.host_id == head.registry.snapshot().hosts[0].host_id, "the enclave has kept its keys"
    host.broken = ""
    await host.until("joined", 2)
    assert host.node.running()
    host.stop.set()
    await running
    assert host.files() == ["lock", "logs"]


def test_what_a_killed_supervisor_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    folder = JoinFolder(tmp_path / "join")
    with folder:
        pass
    supervisor = Supervisor(tmp_path / "logs")
    left = supervisor.start("ray-node", SLEEPS)
    for name in ("token", "node.key", "node.crt", "ca.crt"):
        (folder.path / name).write_text("left")
    (folder.path / "run").write_text(supervisor.mark)
    with JoinFolder(folder.path):
        left.process.wait(5)
        assert sorted(path.name for path in folder.path.iterdir()) == ["lock"]
    supervisor.stop()


def test_one_folder_is_for_one_join_at_a_time(tmp_path: Path) -> None:
    with JoinFolder(tmp_path), pytest.raises(ConfigError, match="another `chrysalis join` runs"), JoinFolder(tmp_path):
        pass


async def test_no_secret_stands_in_the_nodes_command(head, host) -> None:
    socket = EnclaveSocket(host.enclave)
    async with JoinClient(parse_head(head.address), head.pin, socket) as client:
        grant = await client.certify(ADDRESS, *await client.challenge(ADDRESS, "anna", {}))
    command = ray_command(grant, "anna-1", address=ADDRESS, labels={"tee": "tdx", "gpu": "h100"}, resources="{}")
    assert "--labels=gpu=h100,tee=tdx" in command and "--node-ip-address=127.0.0.1" in command
    assert TOKEN not in str(command) and "PRIVATE" not in str(command)
