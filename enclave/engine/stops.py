"""Stop strings in streamed text: what may still become one is held back until it is decided."""


class StopFinder:
    """Passes an answer through piece by piece and cuts it before the first stop string.

    When several stop strings occur, the one that begins first wins.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held = stops, ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that may be shown now, and whether a stop string was found; after that, nothing more may be fed."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            ready, self._held = self._held[: min(places)], ""
            return ready, True
        shown = len(self._held) - self._undecided()
        ready, self._held = self._held[:shown], self._held[shown:]
        return ready, False

    def rest(self) -> str:
        """What was held back, for an answer that ended without a stop string."""
        ready, self._held = self._held, ""
        return ready

    def _undecided(self) -> int:
        """Length of the longest tail that is the beginning of a stop string."""
        starts = (stop[:size] for stop in self._stops for size in range(1, len(stop)))
        return max((len(start) for start in starts if self._held.endswith(start)), default=0)
