"""The relay as an actor: owns the HAProxy process and its admin socket, and keeps its host map as the registry says."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import ray

from cluster.config import NetworkConfig, read_secret
from cluster.relay import RelayCounters, RelayError, RelayProcess, RelaySilentError
from cluster.relay_config import RelayLimits
from cluster.reputation import HostCounts

TAKE_OVER_S = 5.0
PAUSE_S = 0.1
SILENCES_MAX = 3  # of cluster.relay.COMMAND_S each
T = TypeVar("T")


class RelayActor:
    """One HAProxy and its host map.

    Restart is normal: HAProxy outlives this actor and Ray's head, and is taken over with its map and connections. One
    that died is replaced; the new one begins with an empty map and answers 404 for every host until `set_hosts` is
    called. So whoever owns the fleet pushes the whole map, at every change and with every health round; pushing the
    same map twice changes nothing.
    """

    def __init__(self, config_path: str, limits: RelayLimits | None = None) -> None:
        """Take over the HAProxy that runs, or start it where the settings say: a fixed port, as leases name it."""
        config = NetworkConfig.load(Path(config_path))
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        listen, self._note = config.relay, config.state / "relay.json"
        self._ticket_key, self._limits, self._expose = read_secret(config.ticket_key), limits, config.expose_relay
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._silences = 0
        found = RelayProcess.take_over(self._note, listen, self._ticket_key, limits=limits)
        self._relay = found or self._start(listen, patience_s=TAKE_OVER_S if restarted else 0.0)

    def address(self) -> str:
        """IP:PORT that clients send to."""
        return self._relay.address

    def set_hosts(self, hosts: dict[bytes, str], only: bool = True) -> str:
        """Make these hosts (id -> IP:PORT) reachable, and `only` these. Returns `address`.

        A HAProxy that is dead, or did not answer SILENCES_MAX times in a row, is replaced first.
        """
        if not self._relay.alive() or self._silences >= SILENCES_MAX:
            self._relay.kill()
            self._relay = self._start(self._relay.address, patience_s=TAKE_OVER_S)
            self._silences = 0
        self._hear(lambda: self._relay.set_hosts(hosts, only=only))
        return self._relay.address

    def hosts(self) -> dict[str, str]:
        """Hosts reachable now: id (hex) -> IP:PORT."""
        return self._relay.hosts()

    def counters(self) -> RelayCounters:
        """What went through since HAProxy started."""
        return self._relay.counters()

    def outcomes(self) -> dict[bytes, HostCounts]:
        """How requests to each host ended since HAProxy started."""
        return self._hear(self._relay.outcomes)

    def stop(self) -> None:
        """End HAProxy."""
        self._relay.stop()

    def _hear(self, command: Callable[[], T]) -> T:
        """What a command of the registry's rounds gives; counts how often in a row HAProxy was silent."""
        try:
            answer = command()
        except RelaySilentError:
            self._silences += 1
            raise
        self._silences = 0
        return answer

    def _start(self, listen: str, *, patience_s: float) -> RelayProcess:
        """A new HAProxy; with patience, it waits for the one it follows to let go of the port."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return RelayProcess(listen, self._ticket_key, limits=self._limits, expose=self._expose, note=self._note)
            except RelayError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(PAUSE_S)
