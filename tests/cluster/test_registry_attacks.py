"""What hosts can do to the registry's loop, which serves all of them."""

import asyncio

import pytest

from attestation.floor_store import FloorStore
from cluster.address_book import AddressBook
from cluster.fleet import HostState
from cluster.model import HostHints
from cluster.registry import Registry
from cluster.reputation import RatingFile
from tests.cluster.enclaves import POLICY, TERMS, Clock, Gate, OpenEnclave, RouteMap


class MovesMeanwhile(RouteMap):
    """A relay that takes its time; meanwhile something happens."""

    happens = None

    async def set_hosts(self, hosts, *, only: bool) -> None:
        await super().set_hosts(hosts, only=only)
        happens, self.happens = self.happens, None
        if happens is not None:
            await happens()


async def test_an_enclave_that_moves_in_the_middle_of_a_round_does_not_end_the_loop(tmp_path) -> None:
    gate, routes, clock = Gate(a=OpenEnclave("a"), b=OpenEnclave("b")), MovesMeanwhile(), Clock()
    book = AddressBook(tmp_path / "book")
    floors = FloorStore(tmp_path / "floors")
    registry = Registry(
        gate=gate,
        routes=routes,
        book=book,
        policy=POLICY,
        terms=TERMS,
        clock=clock,
        floors=floors,
        ratings=RatingFile(tmp_path / "reputation"),
    )
    for address in ("a", "b"):
        assert (await registry.admit(address, HostHints())).accepted
    gate.enclaves["c"] = gate.enclaves.pop("b")
    for _ in range(3):
        await registry.round()
    assert registry.snapshot().host(gate.enclaves["c"].host_id).state is HostState.SUSPENDED

    async def move() -> None:
        assert (await registry.admit("c", HostHints())).accepted

    routes.happens = move
    clock.forward(POLICY.max_age_s + 1)  # a's evidence has expired: the round tells the relay, and waits for it
    await registry.round()
    assert registry.snapshot().host(gate.enclaves["c"].host_id).address == "c"


class SilentAt(Gate):
    """A network where one address takes the challenge and never answers."""

    silent = ""

    async def fetch_evidence(self, address: str, nonce: bytes) -> bytes:
        if address == self.silent:
            await asyncio.Event().wait()
        return await super().fetch_evidence(address, nonce)


async def test_hosts_that_keep_the_registry_waiting_do_not_delay_the_renewal_of_others(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.challenges.CHALLENGES_MAX", 1)
    gate, clock = SilentAt(a=OpenEnclave("a")), Clock()
    book = AddressBook(tmp_path / "book")
    floors = FloorStore(tmp_path / "floors")
    registry = Registry(
        gate=gate,
        routes=RouteMap(),
        book=book,
        policy=POLICY,
        terms=TERMS,
        clock=clock,
        floors=floors,
        ratings=RatingFile(tmp_path / "reputation"),
    )
    assert (await registry.admit("a", HostHints())).accepted
    gate.silent = "slow"
    waits = asyncio.create_task(registry.admit("slow", HostHints()))
    await asyncio.sleep(0)
    clock.forward(POLICY.max_age_s * 0.6)
    await registry.round()
    await asyncio.wait_for(registry.settled(), 1)
    assert registry.snapshot().hosts[0].capability.verified_at == clock()
    waits.cancel()
