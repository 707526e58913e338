"""A Ray node with the cluster's token and no valid evidence: what it gets."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import urllib.request
from dataclasses import asdict, dataclass, replace

import ray
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.simulate import Fault
from attestation.verdict import TeeKind
from billing.receipt import sign_receipt
from chrysalis.local.hosts import HostSpec, RunningEnclave
from client.receipts import read_receipts
from cluster.enclave_client import EnclaveControl
from cluster.errors import AdmissionRefusedError
from cluster.model import JobRequirement
from tests.faults.cluster.world import World

ROGUE = HostSpec(name="mallory", title="foreign image", tee=TeeKind.TDX, gpus=2, faults=(Fault.FOREIGN_MEASUREMENT,))
WATCH_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gained:
    """What the rogue node has after a while under load. All of it should be empty, except `joined_ray`."""

    joined_ray: bool  # the token opens Ray: that is the point
    admitted: bool
    bound: bool  # the registry believes that it runs beside an admitted host
    placements: int  # of the scheduler
    replicas: int  # of Serve, on its node
    routes: int  # of the relay
    requests: int  # its enclave has seen
    receipts: int  # that billing took from it

    def to_json(self) -> dict[str, int]:
        """As a JSON object."""
        return asdict(self)


def try_rogue(world: World) -> Gained:
    """Join a rogue node, let it try everything, and look. It is gone afterwards."""
    net = world.net
    enclave = net.start_enclave(ROGUE)
    try:
        admitted = net.admit(enclave).accepted
        try:
            net.join([enclave])
            bound = True
        except ray.exceptions.RayActorError:  # its host actor could not bind
            bound = False
        node = next((node for node in ray.nodes() if node["NodeName"] == ROGUE.name and node["Alive"]), None)
        bound = bound or (node is not None and _steal_place(world, enclave, node["NodeID"]))
        time.sleep(WATCH_S)
        requirement = JobRequirement(model=net.model_root, hosts=100)
        placed = net.ask("scheduler", "place", requirement).placements
        return Gained(
            joined_ray=node is not None,
            admitted=admitted,
            bound=bound,
            placements=sum(placement.host_id == enclave.host_id for placement in placed),
            replicas=len(world.find("ray::ServeReplica", "Model", group=ROGUE.name)),
            routes=sum(address == enclave.address for address in net.ask("relay", "hosts").values()),
            requests=_requests(enclave),
            receipts=_forge_receipts(world, enclave),
        )
    finally:
        net.kill_host(ROGUE.name)
        del net.enclaves[ROGUE.name]


def _steal_place(world: World, enclave: RunningEnclave, node_id: str) -> bool:
    """Say that the rogue node runs beside an honest host, with a proof by the rogue's enclave."""
    victim = world.net.enclaves["anna"].host_id
    challenge = world.net.ask("registry", "challenge_node", victim, node_id)

    async def prove() -> bytes:
        async with EnclaveControl(enclave.control) as control:
            return await control.prove(challenge)

    try:
        world.net.ask("registry", "bind_node", victim, node_id, asyncio.run(prove()))
    except AdmissionRefusedError:
        return False
    return True


def _requests(enclave: RunningEnclave) -> int:
    with urllib.request.urlopen(f"http://{enclave.address}/health", timeout=5) as answer:
        load = json.load(answer)
    return sum(int(load[name]) for name in ("running", "waiting", "served", "failed", "abandoned"))


def _forge_receipts(world: World, enclave: RunningEnclave) -> int:
    """Post receipts for work that was never done: in the rogue's name, and in an honest host's."""
    genuine = next(read_receipts(world.receipts)).receipt
    key = Ed25519PrivateKey.generate()
    forged = [
        replace(genuine, request_hash=secrets.token_bytes(32), host_id=host_id)
        for host_id in (enclave.host_id, world.net.enclaves["anna"].host_id)
    ]
    posted = world.net.billing("post", [sign_receipt(receipt, key) for receipt in forged])
    return sum(one.accepted for one in posted)
