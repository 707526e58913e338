"""Keeps Serve's replicas off the network on clusters that live on loopback."""

from collections.abc import Callable
from typing import Any

LOOPBACK = "127.0.0.1"
ANY = "[::]:"


def keep_replica_on_loopback() -> None:
    """Bind this replica's internal gRPC server to loopback if its node has a loopback address.

    Ray Serve 2.60 starts that server in every replica on all addresses, without a setting and without the token. It
    takes pickled calls, so whoever reaches it runs code here. It is started after the deployment's constructor, hence
    the call from constructors. On a cluster over several machines use RAY_USE_TLS=1: then the server asks for a client
    certificate.

    Raises:
        RuntimeError: this version of Ray has no such server where it was; read its code before going on.
    """
    import ray  # noqa: PLC0415  only replicas need them
    from ray.serve._private import replica  # noqa: PLC0415

    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    add_port: Callable[[Any, str], int] | None = getattr(replica, "add_port_to_grpc_server", None)
    if add_port is None:
        raise RuntimeError("ray.serve._private.replica has no add_port_to_grpc_server: this needs Ray 2.60")

    def add_loopback_port(server: object, address: str) -> int:
        return add_port(server, address.replace(ANY, f"{LOOPBACK}:"))

    replica.add_port_to_grpc_server = add_loopback_port
