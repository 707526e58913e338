"""The relay as the operator's settings say: the one that runs is taken over, else one is started with its last hosts.

It needs no Ray: a service manager calls this before Ray's head starts, the relay's actor when it starts.
"""

import time

from cluster.config import NetworkConfig, read_secret
from cluster.relay import RelayError, RelayProcess
from cluster.relay_routes import ROUTES_FILE, read_routes

NOTE_FILE = "relay.json"  # in the operator's `state`
PAUSE_S = 0.1


def open_relay(config: NetworkConfig, *, patience_s: float = 0.0) -> RelayProcess:
    """The relay, which outlives this process: taken over as it runs, or started with its last hosts.

    Args:
        config: says where it listens, a fixed port, as leases name it, and what it lets through.
        patience_s: how long to wait for another one to let go of the port.

    Raises:
        ConfigError: the address or the ticket key of the settings cannot be used.
        RelayError: the port is taken, or HAProxy is missing or does not start.
    """
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    note, key, limits = config.state / NOTE_FILE, read_secret(config.ticket_key), config.relay_limits
    found = RelayProcess.take_over(note, config.relay, key, limits=limits)
    if found is not None:
        return found
    hosts = read_routes(config.state / ROUTES_FILE)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return RelayProcess(config.relay, key, limits=limits, expose=config.expose_relay, note=note, hosts=hosts)
        except RelayError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_S)
