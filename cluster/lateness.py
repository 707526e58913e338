"""How late this process is itself: who is late must not call others silent."""

import asyncio

STEP_S = 0.1


class Lateness:
    """Measures by how much the event loop came late, as when the machine is overloaded or the process was stopped."""

    def __init__(self) -> None:
        self._worst_s = 0.0
        self._due: float | None = None

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._due = loop.time() + STEP_S
            await asyncio.sleep(STEP_S)
            self._worst_s = max(self._worst_s, loop.time() - self._due)

    def take(self) -> float:
        """The worst since the last call, seconds; what is overdue now included."""
        worst, self._worst_s = self._worst_s, 0.0
        return worst if self._due is None else max(worst, asyncio.get_running_loop().time() - self._due)
