"""Keeps one model loaded in the enclave beside it, also when the enclave ends and begins anew."""

import asyncio
import time
from collections.abc import Callable

from cluster.enclave_client import EnclaveControl
from cluster.errors import EnclaveUnreachableError

GRACE_S = 60.0  # how long an enclave may be away: its service manager starts it again, and nobody else can


class ModelKeeper:
    """Watches one enclave by its control socket."""

    def __init__(
        self, control: EnclaveControl, model_root: bytes, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._control, self._root, self._clock = control, model_root, clock
        self._seen = clock()
        self._loading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Load the model and return once it serves."""
        await self._control.load(self._root)
        self._seen = self._clock()

    async def check(self) -> None:
        """Look once; a model that the enclave lost is loaded again, behind this call.

        Raises:
            EnclaveUnreachableError: the enclave has not answered for GRACE_S.
            EnclaveControlError: it does not load the model, and says why; the next call tries anew.
        """
        try:
            status = await self._control.status()
        except EnclaveUnreachableError:
            if self._clock() - self._seen > GRACE_S:
                raise
            return
        self._seen = self._clock()
        if self._loading is not None and self._loading.done():
            ended, self._loading = self._loading, None
            ended.result()
        elif self._loading is None and self._root.hex() not in status.get("models", ()):
            self._loading = asyncio.create_task(self._load_again())

    async def _load_again(self) -> None:
        try:
            await self._control.load(self._root)
        except EnclaveUnreachableError:
            return  # it ended once more: the next look tells

    async def close(self) -> None:
        """Load nothing any more."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
