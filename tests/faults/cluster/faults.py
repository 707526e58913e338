"""What is done to the network, and how one sees that the part does its work again."""

from __future__ import annotations

import signal
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from cluster.ray_cluster import NODES_MAX
from cluster.ray_nodes import HEAD_NAME
from tests.faults.cluster.partition import Partition, why_not
from tests.faults.cluster.world import World

FREEZE_S = 30.0
SLICE_S = 0.2
ACTORS = {
    "registry": "RegistryActor",
    "scheduler": "SchedulerActor",
    "billing": "BillingActor",
    "models": "ModelsActor",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to hurt the network. `strike` returns when it is done; `mend` when the part is whole."""

    name: str
    strike: Callable[[World], None]
    mend: Callable[[World], None]
    target_s: float | None = None  # until answers flow again
    needs: Callable[[], str] = lambda: ""  # why this machine cannot do it; empty when it can


def _kill(world: World, *words: str, group: str | None = None) -> None:
    victim = world.one(*words, group=group)
    victim.kill()
    psutil.wait_procs([victim], timeout=5)


def _kill_enclave(world: World) -> None:
    program = world.net.enclaves["ben"].program
    program.process.kill()
    program.process.wait(10)


def _mend_enclave(world: World) -> None:
    world.revive_enclave("ben")
    world.until(world.serving, "every host serves")


def _kill_replica(world: World) -> None:
    _kill(world, "ray::ServeReplica", "Model", group="anna")


def _mend_replica(world: World) -> None:
    world.until(lambda: world.find("ray::ServeReplica", "Model", group="anna"), "a replica runs")
    world.until(world.replicas_run, "Serve calls the replicas healthy")
    world.until(world.serving, "every host serves")


def _mend_node(world: World) -> None:
    world.revive_node(world.hosts[-1].name)
    world.until(world.serving, "every host serves")


def _mend_host(world: World) -> None:
    world.revive_host("anna")
    world.until(world.serving, "every host serves")


def _relay(world: World) -> psutil.Process:
    return world.one("chrysalis-relay-", "haproxy")


def _mend_relay(world: World) -> None:
    world.until(lambda: len(world.net.ask("relay", "hosts")) == len(world.hosts), "the relay knows every host")


def _ingress_answers(world: World) -> bool:
    with urllib.request.urlopen(f"{world.net.ray.gateway_url}/v1/models", timeout=2) as answer:
        return answer.status == 200


def _ingress(world: World) -> psutil.Process:
    return world.one("haproxy", str(world.net.ray.haproxy_folder), "-f")


def _kill_ingress(world: World) -> None:
    world.until(lambda: _ingress(world), "Serve's HAProxy runs")  # not for a moment after its manager was replaced
    _ingress(world).kill()


def _mend_ingress(world: World) -> None:
    world.until(lambda: _ingress_answers(world), "the gateway answers")


def _mend_controller(world: World) -> None:
    world.until(lambda: world.find("ray::ServeController"), "Serve's controller runs")
    world.until(world.replicas_run, "Serve calls the replicas healthy")
    _mend_ingress(world)


def _kill_gcs(world: World) -> None:
    world.net.leave_ray()
    _kill(world, "gcs_server")


def _kill_head(world: World) -> None:
    world.net.leave_ray()
    world.net.supervisor.kill(HEAD_NAME)


def _mend_head(world: World) -> None:
    world.revive_head()
    _wait_for_head(world)


def _wait_for_head(world: World) -> None:
    _mend_ingress(world)
    for name in ("registry", "billing", "scheduler", "models"):
        world.until(lambda name=name: world.net.ask(name, "ready", timeout_s=5) is not None, f"{name} answers")
    world.until(world.serving, "every host serves")
    world.until(world.replicas_run, "Serve calls the replicas healthy")


def _mend_gcs(world: World) -> None:
    """The head notices by itself, and ends."""
    world.until(lambda: not world.find("cluster.ray_start", "--head"), "the head has ended")
    _mend_head(world)


def _actor(name: str) -> Fault:
    def mend(world: World) -> None:
        world.until(lambda: world.net.ask(name, "ready") is not None, f"{name} answers")
        if name == "registry":
            world.until(world.serving, "every host serves")

    return Fault(name=f"{name} actor killed", strike=lambda world: _kill(world, f"ray::{ACTORS[name]}"), mend=mend)


def _host_actor() -> Fault:
    def mend(world: World) -> None:
        name = f"host-{world.net.enclaves['anna'].host_id.hex()}"
        world.until(lambda: world.net.ask(name, "ready", timeout_s=5), "the host's actor answers")

    return Fault(name="host actor killed", strike=lambda world: _kill(world, "ray::HostActor", group="anna"), mend=mend)


def _signal(victims: Sequence[psutil.Process], number: signal.Signals) -> None:
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(number)


def _freeze(victims: Sequence[psutil.Process]) -> None:
    _signal(victims, signal.SIGSTOP)
    try:
        time.sleep(FREEZE_S)
    finally:
        _signal(victims, signal.SIGCONT)


def _slow(victims: Sequence[psutil.Process]) -> None:
    """A tenth of the speed: stopped nine tenths of each fifth of a second."""
    ends = time.monotonic() + FREEZE_S
    while time.monotonic() < ends:
        _signal(victims, signal.SIGSTOP)
        time.sleep(SLICE_S * 0.9)
        _signal(victims, signal.SIGCONT)
        time.sleep(SLICE_S * 0.1)


def _freeze_head(world: World) -> None:
    world.net.leave_ray()
    _freeze(world.net.supervisor.processes(HEAD_NAME))
    world.net.enter_ray()


def _cut_off(world: World) -> None:
    every = range(world.net.ray.ports.base, world.net.ray.ports.node(NODES_MAX - 1).stop)
    victims = world.net.supervisor.processes("anna")
    partition = Partition(world.net.folder, victims, world.ports_of("anna"), every)
    try:
        time.sleep(FREEZE_S)
    finally:
        partition.heal()


def mend_all(world: World) -> None:
    """Whatever was taken for dead and ended for it is started again; then everything is whole."""
    world.until(lambda: world.tend() and world.serving() and world.replicas_run(), "every host serves", timeout_s=180)
    _wait_for_head(world)


def _frozen(name: str, victims: Callable[[World], Sequence[psutil.Process]]) -> Fault:
    return Fault(name=f"{name} frozen 30 s", strike=lambda world: _freeze(victims(world)), mend=mend_all)


FAULTS = {
    "replica": Fault(name="replica killed", strike=_kill_replica, mend=_mend_replica, target_s=10),
    "enclave": Fault(name="enclave killed", strike=_kill_enclave, mend=_mend_enclave),
    "raylet": Fault(
        name="raylet killed", strike=lambda w: _kill(w, "raylet/raylet", group=w.hosts[-1].name), mend=_mend_node
    ),
    "host": Fault(
        name="host without power", strike=lambda w: w.net.kill_host("anna") and None, mend=_mend_host, target_s=15
    ),
    "relay": Fault(name="relay killed", strike=lambda w: _relay(w).kill(), mend=_mend_relay),
    "ingress": Fault(name="Serve's HAProxy killed", strike=_kill_ingress, mend=_mend_ingress),
    "proxy": Fault(
        name="Serve's proxy actor killed", strike=lambda w: _kill(w, "ray::HAProxyManager"), mend=_mend_ingress
    ),
    "controller": Fault(
        name="Serve's controller killed", strike=lambda w: _kill(w, "ray::ServeController"), mend=_mend_controller
    ),
    "scheduler": _actor("scheduler"),
    "registry": _actor("registry"),
    "billing": _actor("billing"),
    "models": _actor("models"),
    "host-actor": _host_actor(),
    "relay-actor": Fault(name="relay actor killed", strike=lambda w: _kill(w, "ray::RelayActor"), mend=_mend_relay),
    "frozen-enclave": _frozen("enclave", lambda w: [psutil.Process(w.net.enclaves["ben"].program.pid)]),
    "frozen-relay": _frozen("relay", lambda w: [_relay(w)]),
    "frozen-replica": _frozen("replica", lambda w: [w.one("ray::ServeReplica", "Model", group="anna")]),
    "frozen-raylet": _frozen("raylet", lambda w: [w.one("raylet/raylet", group=w.hosts[-1].name)]),
    "frozen-host": _frozen("host", lambda w: w.net.supervisor.processes("anna")),
    "frozen-ingress": _frozen("Serve's HAProxy", lambda w: [_ingress(w)]),
    "frozen-controller": _frozen("Serve's controller", lambda w: [w.one("ray::ServeController")]),
    "frozen-registry": _frozen("registry actor", lambda w: [w.one("ray::RegistryActor")]),
    "frozen-scheduler": _frozen("scheduler actor", lambda w: [w.one("ray::SchedulerActor")]),
    "frozen-billing": _frozen("billing actor", lambda w: [w.one("ray::BillingActor")]),
    "frozen-gcs": _frozen("GCS", lambda w: [w.one("gcs_server")]),
    "frozen-head": Fault(name="head frozen 30 s", strike=_freeze_head, mend=mend_all),
    "slow-host": Fault(
        name="host at a tenth of its speed for 30 s",
        strike=lambda w: _slow(w.net.supervisor.processes("anna")),
        mend=mend_all,
    ),
    "partition": Fault(name="host cut off for 30 s", strike=_cut_off, mend=mend_all, needs=why_not),
    "gcs": Fault(name="GCS killed", strike=_kill_gcs, mend=_mend_gcs, target_s=60),
    "head": Fault(name="head without power", strike=_kill_head, mend=_mend_head, target_s=60),
}
