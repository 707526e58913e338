"""The relay as an actor: owns the HAProxy process and its admin socket, and keeps its host map as the registry says."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import ray

from cluster.config import NetworkConfig
from cluster.relay import RelayCounters, RelaySilentError
from cluster.relay_routes import ROUTES_FILE, write_routes
from cluster.relay_service import open_relay
from cluster.reputation import HostCounts

TAKE_OVER_S = 5.0
SILENCES_MAX = 3  # of cluster.relay.COMMAND_S each
T = TypeVar("T")


class RelayActor:
    """One HAProxy and its host map.

    Restart is normal: HAProxy outlives this actor and Ray's head, and is taken over with its map and connections. One
    that died is replaced, and the new one begins with the hosts that were last known, from a list on disk. Whoever owns
    the fleet pushes the whole map, at every change and with every health round; pushing the same map twice changes
    nothing.
    """

    def __init__(self, config_path: str) -> None:
        """Take over the HAProxy that runs, or start it where the settings say."""
        self._config = NetworkConfig.load(Path(config_path))
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._silences, self._routes = 0, dict[bytes, str]()
        self._relay = open_relay(self._config, patience_s=TAKE_OVER_S if restarted else 0.0)

    def address(self) -> str:
        """IP:PORT that clients send to."""
        return self._relay.address

    def set_hosts(self, hosts: dict[bytes, str], only: bool = True) -> str:
        """Make these hosts (id -> IP:PORT) reachable, and `only` these. Returns `address`.

        A HAProxy that is dead, or did not answer SILENCES_MAX times in a row, is replaced first.
        """
        if not self._relay.alive() or self._silences >= SILENCES_MAX:
            self._relay.kill()
            self._relay = open_relay(self._config, patience_s=TAKE_OVER_S)
            self._silences = 0
        routes = self._hear(lambda: self._relay.set_hosts(hosts, only=only))
        if routes != self._routes:
            write_routes(self._config.state / ROUTES_FILE, routes)
            self._routes = routes
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
