"""The log in the client: what the registry allows counts only if the log has it, and denials act at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from openai import APIStatusError

from attestation.certificate import Certificate
from attestation.simulate import SimulatedHost
from attestation.transparency.entries import Allow, Deny, Entry, What
from attestation.transparency.settings import LogSettings, parse_log_settings
from attestation.transparency.store import CHECKPOINT, LogStore
from client.config import load_config
from client.errors import ConfigError, RegistryUnavailableError
from client.lease_manager import RENEW_BEFORE
from tests.client.conftest import StartNetwork
from tests.client.support import MODEL, Network
from tests.client.test_attacks import ask, ask_and_fail
from tests.client.test_settings import GOOD, write

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
ORIGIN = "example.org/log"


def allow(what: What, value: bytes) -> Allow:
    return Allow(at=0, what=what, value=value, label="allowed")


def deny(what: What, value: bytes) -> Deny:
    return Deny(at=0, what=what, value=value, reason="leaked key")


def entries_for(hosts: list[SimulatedHost]) -> list[Entry]:
    rims = frozenset().union(*(host.rim_digests() for host in hosts))
    images = {host.measurement_id() for host in hosts}
    return [
        allow(What.MODEL, MODEL),
        *(allow(What.MEASUREMENT, image) for image in sorted(images)),
        *(allow(What.RIM, rim) for rim in sorted(rims)),
    ]


class Log:
    """A log in a folder, and the settings that pin it."""

    def __init__(self, folder: Path, entries: list[Entry]) -> None:
        self.folder = folder
        with LogStore.create(folder, KEY, origin=ORIGIN, now=datetime.now(UTC)) as store:
            store.append(entries, now=datetime.now(UTC))
            self.settings = parse_log_settings({"log": str(folder), "key": store.key.encode()}, folder)

    def append(self, *entries: Entry) -> None:
        with LogStore.open(self.folder, KEY) as store:
            store.append(entries, now=datetime.now(UTC))


@pytest.fixture
def make_log(tmp_path: Path) -> Callable[[list[Entry]], Log]:
    return lambda entries: Log(tmp_path / "log", entries)


async def refresh(network: Network) -> None:
    await network.sidecar._registry.refresh()


def sealed_to(network: Network) -> set[bytes]:
    return {host for host, _ in network.operator.sealed}


async def test_hosts_whose_every_value_is_logged_serve(
    start_network: StartNetwork, simulated: list[SimulatedHost], make_log: Callable[[list[Entry]], Log]
) -> None:
    async with start_network(transparency=make_log(entries_for(simulated)).settings) as network:
        await ask(network)
        assert len(network.sidecar._verifier.verdicts) == 3
        assert network.sidecar._registry.view().unlogged == ()


async def test_an_image_that_the_registry_allows_and_the_log_does_not_is_refused(
    start_network: StartNetwork,
    simulated: list[SimulatedHost],
    make_log: Callable[[list[Entry]], Log],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tdx, snp, _ = simulated
    log = make_log(entries_for([tdx]))
    async with start_network([tdx, snp], transparency=log.settings) as network:
        for _ in range(3):
            await ask(network)
        assert sealed_to(network) == {network.enclaves[0].host_id}
        assert f"measurement {snp.measurement_id().hex()} is not in the log" in caplog.text
        (refusal,) = network.sidecar._verifier.refusals
        assert "MeasurementNotAllowedError" in refusal.why


@pytest.mark.parametrize("what", [What.PLATFORM, What.MEASUREMENT])
async def test_a_host_that_is_denied_is_dropped_at_the_next_refresh(
    start_network: StartNetwork, simulated: list[SimulatedHost], make_log: Callable[[list[Entry]], Log], what: What
) -> None:
    tdx, snp, _ = simulated
    log = make_log(entries_for(simulated))
    async with start_network([tdx, snp], transparency=log.settings) as network:
        await ask(network)
        bad = next(one for one in network.sidecar._verifier.verdicts if one.measurement == snp.measurement_id())
        log.append(deny(what, bad.platform_id if what is What.PLATFORM else bad.measurement))
        await refresh(network)
        network.operator.sealed.clear()
        for _ in range(4):
            await ask(network)
        assert sealed_to(network) == {network.enclaves[0].host_id}
        assert bad.host_id not in {one.host_id for one in network.sidecar._verifier.verdicts}


async def test_when_every_host_is_denied_nothing_is_sealed(
    start_network: StartNetwork, simulated: list[SimulatedHost], make_log: Callable[[list[Entry]], Log]
) -> None:
    log = make_log(entries_for(simulated))
    async with start_network(transparency=log.settings) as network:
        await ask(network)
        log.append(deny(What.MODEL, MODEL))
        await refresh(network)
        network.operator.sealed.clear()
        status, code, message = await ask_and_fail(network)
        assert (status, code) == (503, "no_host")
        assert "ModelNotAllowedError" in message
        assert network.operator.sealed == []


async def test_a_denied_gpu_is_dropped_too(
    start_network: StartNetwork, simulated: list[SimulatedHost], make_log: Callable[[list[Entry]], Log]
) -> None:
    gpu_host, cpu_host = simulated[0], simulated[2]
    log = make_log(entries_for(simulated))
    async with start_network([gpu_host, cpu_host], transparency=log.settings) as network:
        await ask(network)
        device = sha256(Certificate.parse(gpu_host.gpus[0].chain[1]).public_key_info).digest()
        log.append(deny(What.PLATFORM, device))
        await refresh(network)
        network.operator.sealed.clear()
        for _ in range(3):
            await ask(network)
        assert sealed_to(network) == {network.enclaves[1].host_id}


async def test_a_client_that_cannot_read_its_log_does_not_start(
    start_network: StartNetwork, tmp_path: Path, simulated: list[SimulatedHost], make_log: Callable[[list[Entry]], Log]
) -> None:
    settings = make_log(entries_for(simulated)).settings
    (tmp_path / "log" / CHECKPOINT).unlink()
    with pytest.raises(RegistryUnavailableError, match="transparency log"):
        async with start_network(transparency=settings):
            pass


async def test_a_log_that_shows_two_pasts_stops_the_client_at_once(
    start_network: StartNetwork, tmp_path: Path, simulated: list[SimulatedHost], make_log: Callable[[list[Entry]], Log]
) -> None:
    log = make_log(entries_for(simulated))
    async with start_network(transparency=log.settings) as network:
        await ask(network)
        log.folder.rename(tmp_path / "honest")
        Log(tmp_path / "log", [allow(What.MODEL, b"x" * 32), *entries_for(simulated)])
        with pytest.raises(RegistryUnavailableError, match="two pasts"):
            await refresh(network)
        with pytest.raises(APIStatusError, match="two pasts"):
            await ask(network)


async def test_a_log_that_fails_for_a_while_leaves_the_last_view_until_it_is_too_old(
    start_network: StartNetwork, simulated: list[SimulatedHost], make_log: Callable[[list[Entry]], Log]
) -> None:
    log = make_log(entries_for(simulated))
    async with start_network(transparency=log.settings) as network:
        (log.folder / CHECKPOINT).unlink()
        with pytest.raises(RegistryUnavailableError, match="transparency log"):
            await refresh(network)
        await ask(network)
        network.clock.ahead = timedelta(seconds=network.config.registry_age_max_s) + RENEW_BEFORE
        with pytest.raises(RegistryUnavailableError, match="last read"):
            network.sidecar._registry.view()


def test_settings_pin_the_log_and_its_witnesses(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", [])
    key = log.settings.trust.key.encode()
    config = load_config(write(tmp_path, transparency={"log": "log", "key": key}))
    assert config.transparency == LogSettings(place=str(tmp_path / "log"), trust=log.settings.trust)
    assert load_config(write(tmp_path)).transparency is None


KEY_TEXT = "example.org/log+00000000+AQAA"


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"log": "log"},
        {"log": "log", "key": KEY_TEXT},
        {"log": "log", "key": KEY_TEXT, "colour": "red"},
        {"log": "http://log.invalid", "key": KEY_TEXT},
        {"log": "", "key": KEY_TEXT},
        {"log": "log", "key": 5},
        {"log": "log", "key": KEY_TEXT, "age_max_s": "long"},
        {"log": "log", "key": KEY_TEXT, "witnesses": "w"},
    ],
)
def test_a_wrong_setting_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "client.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"transparency": value}))
    with pytest.raises(ConfigError, match=r"transparency|key|URL|https"):
        load_config(path)
