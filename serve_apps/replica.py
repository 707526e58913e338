"""A model on a host, as Serve sees it: owns the enclave's model life cycle and health. No request passes through it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.enclave_client import CONTROL_VARIABLE, EnclaveControl
from cluster.errors import ConfigError
from cluster.model_keeper import ModelKeeper
from serve_apps.loopback import keep_replica_on_loopback


class ModelReplica:
    """Loads one model into the enclave on its node and keeps watching it."""

    async def __init__(self, model_root: bytes) -> None:  # type: ignore[misc]  # Serve awaits it
        keep_replica_on_loopback()
        control = os.environ.get(CONTROL_VARIABLE)
        if not control:
            raise ConfigError(f"no enclave on this node: start it with {CONTROL_VARIABLE} naming the control socket")
        self._control = EnclaveControl(Path(control))
        self._keeper = ModelKeeper(self._control, model_root)
        await self._keeper.load()

    async def status(self) -> Mapping[str, Any]:
        """What the enclave says about itself to its owner."""
        return await self._control.status()

    async def check_health(self) -> None:
        """Raises when the enclave is away for long or refuses the model; Serve then replaces the replica."""
        await self._keeper.check()
