"""A model on a host, as Serve sees it: owns the enclave's model life cycle and health. No request passes through it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.enclave_client import CONTROL_VARIABLE, EnclaveControl
from cluster.errors import ConfigError, EnclaveUnreachableError
from serve_apps.loopback import keep_replica_on_loopback


class ModelReplica:
    """Loads one model into the enclave on its node and keeps watching it."""

    async def __init__(self, model_root: bytes) -> None:  # type: ignore[misc]  # Serve awaits it
        keep_replica_on_loopback()
        control = os.environ.get(CONTROL_VARIABLE)
        if not control:
            raise ConfigError(f"no enclave on this node: start it with {CONTROL_VARIABLE} naming the control socket")
        self._model_root = model_root
        self._control = EnclaveControl(Path(control))
        await self._control.load(model_root)

    async def status(self) -> Mapping[str, Any]:
        """What the enclave says about itself to its owner."""
        return await self._control.status()

    async def check_health(self) -> None:
        """Raises when the enclave does not serve the model; Serve then replaces the replica, which loads it again."""
        status = await self._control.status()
        if self._model_root.hex() not in status.get("models", ()):
            raise EnclaveUnreachableError(f"the enclave does not serve {self._model_root.hex()}")
