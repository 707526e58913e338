"""The client's choice among the registry's operators, and what else governance says beside the lists."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from attestation.simulate import SimulatedHost
from attestation.transparency.entries import Entry, What
from billing.tariff import Tariff
from billing.ton.registry import LogCheckpoint, OperatorStatus, Policy
from billing.ton.registry import Operator as OperatorEntry
from client.errors import OperatorChoiceError, RegistryUnavailableError
from client.registry import view_registry
from tests.client.conftest import StartNetwork
from tests.client.support import MODEL, TARIFF, Clock, Network, make_registry, operator_terms
from tests.client.test_attacks import ask, ask_and_fail
from tests.client.test_transparency import KEY as LOG_KEY
from tests.client.test_transparency import Log, allow, entries_for, make_log

__all__ = ["make_log"]  # a fixture
KEY, OTHER = b"\x0a" * 32, b"\x0b" * 32
DEAR = Tariff(prompt_price=1, completion_price=2)


def entry(number: int, key: bytes, *, prices: dict[bytes, Tariff] | None = None, **changes: Any) -> OperatorEntry:
    terms = operator_terms(key, f"http://{number}", **changes)
    return OperatorEntry(id=number, terms=terms, prices=prices or {})


def registry(*entries: OperatorEntry) -> Any:
    operators = {each.id: each for each in entries}
    return make_registry([], KEY, "http://x", operators=operators)


def choose(wanted: str, *entries: OperatorEntry) -> int:
    return view_registry(registry(*entries), now=Clock()(), wanted=wanted).operator().id


BOTH = (entry(1, KEY), entry(2, OTHER))


def test_an_operator_is_chosen_by_id_or_key_or_because_it_is_the_only_active_one() -> None:
    assert [choose(wanted, *BOTH) for wanted in ("1", "2", KEY.hex(), OTHER.hex().upper())] == [1, 2, 1, 2]
    assert choose("", BOTH[1]) == 2
    assert choose("", BOTH[0], entry(2, OTHER, status=OperatorStatus.CLOSING)) == 1


@pytest.mark.parametrize(
    ("wanted", "entries", "why"),
    [
        pytest.param("", (), "no operator is active", id="nobody"),
        pytest.param("", BOTH, "several operators", id="several"),
        pytest.param("3", BOTH, "no operators have the id or key", id="unknown-id"),
        pytest.param("0a", BOTH, "no operators have the id or key", id="part-of-a-key"),
        pytest.param(KEY.hex(), (BOTH[0], entry(2, KEY)), "2 operators have", id="one-key-twice"),
        pytest.param("1", (entry(1, KEY, status=OperatorStatus.CLOSING), BOTH[1]), "closing", id="closing"),
    ],
)
def test_settings_that_mean_no_operator_are_refused(wanted: str, entries: tuple[OperatorEntry, ...], why: str) -> None:
    with pytest.raises(OperatorChoiceError, match=why) as refusal:
        choose(wanted, *entries)
    assert all(str(each.id) in str(refusal.value) and each.terms.name in str(refusal.value) for each in entries)


def test_models_are_shown_at_the_prices_of_the_chosen_operator() -> None:
    entries = (entry(1, KEY), entry(2, OTHER, prices={MODEL: DEAR}))
    views = [view_registry(registry(*entries), now=Clock()(), wanted=wanted) for wanted in ("1", "2", "")]
    assert [view.model("echo").tariff for view in views] == [TARIFF, DEAR, TARIFF]


async def refresh_with(network: Network, **changes: Any) -> None:
    network.registry.state = replace(network.registry.state, seqno=network.registry.state.seqno + 1, **changes)
    await network.sidecar._registry.refresh()


async def test_an_operator_that_is_suspended_gets_no_request(network: Network) -> None:
    await ask(network)
    key = network.operator.public_key
    suspended = entry(1, key, status=OperatorStatus.SUSPENDED)
    await refresh_with(network, operators={1: suspended})
    network.operator.sealed.clear()
    status, code, message = await ask_and_fail(network)
    assert (status, code) == (503, "operator_unavailable")
    assert key.hex() in message
    assert network.operator.sealed == []


async def test_a_lease_of_another_operator_is_not_used_on(network: Network) -> None:
    await ask(network)
    await refresh_with(network, operators={1: entry(1, OTHER)})  # whose gateway does not exist
    network.operator.sealed.clear()
    assert (await ask_and_fail(network))[1] == "gateway_unavailable"
    assert network.operator.sealed == []


async def test_the_next_gateway_is_asked_when_the_first_is_gone(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}"
    own = operator_terms(network.operator.public_key, gone, network.operator.url)
    await refresh_with(network, operators={1: OperatorEntry(id=1, terms=own)})
    await ask(network)
    assert len(network.operator.leases) == 1


async def test_a_refusal_of_the_first_gateway_is_an_answer(network: Network) -> None:
    url = network.operator.url
    own = operator_terms(network.operator.public_key, url, url)
    await refresh_with(network, operators={1: OperatorEntry(id=1, terms=own)})
    network.operator.refuse = (402, {"error": {"code": "insufficient_funds", "message": "deposit first"}})
    assert (await ask_and_fail(network))[:2] == (402, "insufficient_funds")
    assert network.operator.orders == []


async def test_a_client_starts_only_with_an_operator_that_is_there(start_network: StartNetwork) -> None:
    with pytest.raises(OperatorChoiceError, match="'9'"):
        async with start_network(operator="9"):
            pass


async def test_a_policy_file_that_governance_does_not_name_is_said(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    own = sha256(network.config.policy.read_bytes()).digest()
    await refresh_with(network, policy=Policy(digest=own))
    assert "governance names the policy" not in caplog.text
    for _ in range(2):
        await refresh_with(network, policy=Policy(digest=OTHER))
    assert caplog.text.count(f"governance names the policy file with SHA-256 {OTHER.hex()}") == 1


@pytest.mark.parametrize("lie", ["other-root", "longer"])
async def test_a_log_that_lacks_what_governance_saw_is_not_believed(
    start_network: StartNetwork,
    simulated: list[SimulatedHost],
    make_log: Callable[[list[Entry]], Log],
    tmp_path: Path,
    lie: str,
) -> None:
    log = make_log(entries_for(simulated))
    async with start_network(transparency=log.settings) as network:
        reader = log.settings.reader(tmp_path / "other reader")
        reader.read(now=Clock()())
        assert reader._current is not None
        shown = reader._current[0]
        log_key = LOG_KEY.public_key().public_bytes_raw()
        seen = LogCheckpoint(log=log_key, size=shown.size, root=shown.root)
        await refresh_with(network, policy=Policy(checkpoint=seen))
        log.append(allow(What.RIM, OTHER))
        await refresh_with(network)  # it grew, and contains what was seen
        await refresh_with(network, policy=Policy(checkpoint=replace(seen, log=OTHER, size=99)))  # about another log
        wrong = replace(seen, root=OTHER) if lie == "other-root" else replace(seen, size=seen.size + 9)
        with pytest.raises(RegistryUnavailableError, match="log"):
            await refresh_with(network, policy=Policy(checkpoint=wrong))
        if lie == "other-root":  # a proof that somebody lies: nothing is done any more
            assert (await ask_and_fail(network))[1] == "registry_unavailable"
