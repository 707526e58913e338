"""The head's machine and its disk are lost: another one with its address goes on from the operator's backup.

As docs/OPERATING.md has it, without Ray's tables: relay first, then Ray, then the operator.
"""

import shutil
import subprocess

from billing.journal import read_journal
from cluster.config import BOOKS_FILE
from tests.rayup.conftest import ANSWER, MARKS, answer, who_answers
from tests.rayup.network import TEES, RayUp, wait_for
from tests.rayup.test_ray_upkeep import BACK_S, alive_at, check_serves

pytestmark = MARKS
STATE, OPERATOR = "/var/lib/chrysalis/operator", "/etc/chrysalis/operator"
OWN_MACHINE = ("tls", "secret")


def back_up(cluster: RayUp, number: int) -> list[bytes]:
    """State and settings of the head, and the secrets of the operator's own machine, off both; returns the books."""
    backup, there = cluster.folder / f"backup-{number}", f"/root/backup-{number}"
    cluster.on_head(f"chrysalis cluster backup {OPERATOR}/operator.yaml {there}")
    cluster.hosts.fetch("head", there, backup / "state")
    cluster.hosts.fetch("head", OPERATOR, backup / "operator")
    for name in OWN_MACHINE:
        shutil.copytree(cluster.folder / name, backup / name)
    return [*read_journal(backup / "state" / BOOKS_FILE)]


def test_a_lost_head_is_restored_from_the_backup_with_its_books_and_hosts(cluster) -> None:
    cluster.net.restart_client()
    assert answer(cluster) == ANSWER
    books = back_up(cluster, 1)
    assert books

    cluster.hosts.kill("head")
    cluster.hosts.wipe("head")
    for name in OWN_MACHINE:
        shutil.rmtree(cluster.folder / name)
    cluster.timed("lost head answers by its relay", lambda: restore_relay(cluster))

    for name in TEES:
        cluster.end_node(name)  # they wait for a head that knows them, which this one does not
    done = cluster.timed("ray up on another head", cluster.ray_up)
    assert done.returncode == 0, done.stdout[-2000:]
    cluster.start_operator()
    for name in TEES:
        wait_for(lambda name=name: alive_at(cluster, name), timeout_s=BACK_S)
        assert cluster.admit(name).returncode == 0
    for name in TEES:
        check_serves(cluster, name)  # `models.json` in the state says what to load
    cluster.net.restart_client()  # which knows no lease
    wait_for(lambda: answer(cluster) == ANSWER, timeout_s=60)
    assert who_answers(cluster) in cluster.enclaves.values()
    now = back_up(cluster, 2)
    assert now[: len(books)] == books
    wait_for(lambda: len(back_up(cluster, 3)) > len(books), timeout_s=60)


def restore_relay(cluster: RayUp) -> None:
    """Up to the first answer, which needs no Ray."""
    backup = cluster.folder / "backup-1"
    cluster.hosts.boot("head")
    for name in OWN_MACHINE:
        shutil.copytree(backup / name, cluster.folder / name)
    address, known = cluster.hosts.address("head"), cluster.folder / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-R", address, "-f", str(known)], check=True, capture_output=True)
    (cluster.folder / "tmp" / "ray" / "cluster-chrysalis.state").unlink()  # Ray's note that this head has its files
    cluster.hosts.copy("head", backup / "operator", OPERATOR)
    cluster.hosts.copy("head", backup / "state", STATE)
    cluster.hosts.copy("head", cluster.net.folder / "log", "/etc/chrysalis/log")
    cluster.hosts.ssh("head", f"chrysalis cluster relay {OPERATOR}/operator.yaml")
    wait_for(lambda: answer(cluster) == ANSWER, timeout_s=60)
    done = cluster.chrysalis("cluster", "certs", "cluster.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
