"""The transparency log at admission: denied hosts leave at once, and only logged values admit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from attestation.policy import AppraisalPolicy
from attestation.transparency.entries import Allow, Deny, IntelFloor, What
from attestation.transparency.logged import fold
from cluster.admission import check_still_allowed
from cluster.config import NetworkConfig
from cluster.errors import ConfigError
from cluster.fleet import HostState
from tests.attestation.transparency.logs import TRUST
from tests.cluster.enclaves import POLICY, TERMS
from tests.cluster.fleets import MODEL, NOW, capability
from tests.cluster.test_config import SETTINGS, write  # noqa: F401  (a fixture)
from tests.cluster.test_registry import HINTS, World

LOGGED = Allow(at=0, what=What.MODEL, value=MODEL.root, label="translator")
DENIED = Deny(at=0, what=What.MODEL, value=MODEL.root, reason="exchanged weights")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_host_is_admitted_with_values_that_chain_and_log_allow(world: World) -> None:
    await world.registry.update_terms(replace(TERMS, log=fold([LOGGED])))
    assert (await world.registry.admit("a", HINTS)).accepted


async def test_a_model_that_the_chain_allows_and_the_log_does_not_admits_nobody(world: World) -> None:
    await world.registry.update_terms(replace(TERMS, log=fold([])))
    admission = await world.registry.admit("a", HINTS)
    assert (admission.accepted, admission.error) == (False, "ModelNotAllowedError")


async def test_a_denied_host_is_refused_at_once_even_if_it_does_not_answer(world: World) -> None:
    await world.registry.update_terms(replace(TERMS, log=fold([LOGGED])))
    await world.registry.admit("a", HINTS)
    world.enclave.alive = False
    await world.registry.update_terms(replace(TERMS, log=fold([LOGGED, DENIED])))
    host = world.registry.snapshot().hosts[0]
    assert (host.state, host.error) == (HostState.REFUSED, "RevokedError")
    assert "deny-list" in host.reason
    assert world.routes.hosts == {}


async def test_a_log_that_changes_has_every_host_challenged_anew(world: World) -> None:
    await world.registry.update_terms(replace(TERMS, log=fold([LOGGED])))
    await world.registry.admit("a", HINTS)
    asked = len(world.gate.nonces)
    await world.registry.update_terms(replace(TERMS, log=fold([LOGGED])))
    assert len(world.gate.nonces) == asked
    await world.registry.update_terms(replace(TERMS, log=fold([LOGGED, IntelFloor(at=0, evaluation=18)])))
    assert len(world.gate.nonces) == asked + 1
    assert world.state() is HostState.ACTIVE


@pytest.mark.parametrize(
    ("what", "value"),
    [
        (What.PLATFORM, capability().platform_id),
        (What.MEASUREMENT, capability().measurement),
        (What.MODEL, MODEL.root),
    ],
)
def test_what_is_denied_after_admission_is_refused(what: What, value: bytes) -> None:
    terms = replace(TERMS, log=fold([Deny(at=0, what=what, value=value, reason="leak")]))
    refused = check_still_allowed(capability(), terms, now=NOW)
    assert refused is not None
    assert (refused.error, refused.at) == ("RevokedError", NOW)
    assert check_still_allowed(capability(), TERMS, now=NOW) is None
    assert check_still_allowed(capability(), replace(TERMS, log=fold([LOGGED])), now=NOW) is None


def test_the_log_narrows_the_operators_policy() -> None:
    strict = replace(TERMS, log=fold([LOGGED, IntelFloor(at=0, evaluation=18)])).restrict(POLICY)
    assert isinstance(strict, AppraisalPolicy)
    assert (strict.tcb_evaluation_min, strict.reference) == (18, TERMS.reference)
    assert TERMS.restrict(POLICY) == replace(POLICY, reference=TERMS.reference)


def test_the_operator_pins_a_log_in_the_settings(write, tmp_path: Path) -> None:  # noqa: F811
    settings = SETTINGS | {"transparency": {"log": "log", "key": TRUST.key.encode()}}
    config = NetworkConfig.load(write(settings))
    assert config.transparency is not None
    assert (config.transparency.place, config.transparency.trust) == (str(tmp_path / "log"), TRUST)
    assert NetworkConfig.load(write(SETTINGS)).transparency is None
    with pytest.raises(ConfigError, match="transparency"):
        NetworkConfig.load(write(yaml.safe_load(yaml.safe_dump(settings | {"transparency": {"log": "log"}}))))
