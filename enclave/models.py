"""The models of this host: which folders it has, and which of them have an engine running."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from enclave.engine import Engine
from enclave.errors import NotFoundError, UnavailableError

logger = logging.getLogger(__name__)

Loader = Callable[[Path], Awaitable[Engine]]
Preparer = Callable[[], Coroutine[Any, Any, None]]
UNLOAD_GRACE_S = 60.0  # for answers that run; no answer goes on for longer after its lease ended


class ModelState(StrEnum):
    """Where a model is in its life."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    RETIRING = "retiring"  # answers, and is not offered any more
    FAILED = "failed"  # it did not load, or its engine died: load it again


class ModelShelf:
    """Loads and unloads engines; the Ray side of the host decides which."""

    def __init__(self, folders: Mapping[bytes, Path], load: Loader, prepare: Preparer | None = None) -> None:
        """`folders` is manifest root -> folder; `load` makes an engine of one, after what `prepare` does."""
        self._folders, self._load, self._prepare = dict(folders), load, prepare
        self._preparing: asyncio.Task[None] | None = None
        self._engines: dict[bytes, Engine] = {}
        self._loading: dict[bytes, asyncio.Task[Engine]] = {}
        self._failed: set[bytes] = set()
        self._retiring: dict[bytes, asyncio.Task[None]] = {}  # each unloads its model when the notice is over
        self._answers: dict[int, int] = {}  # id of an engine -> answers that run in it
        self._idle: dict[int, asyncio.Event] = {}  # of engines that wait for their last answer

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Manifest roots of all models this host has, sorted."""
        return tuple(sorted(self._folders))

    @property
    def serving(self) -> tuple[bytes, ...]:
        """Manifest roots of the models that answer now and go on doing so, sorted."""
        engines = self._engines.items()
        return tuple(sorted(root for root, engine in engines if engine.alive and root not in self._retiring))

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded now, or prepared to be."""
        return bool(self._loading) or (self._preparing is not None and not self._preparing.done())

    def state(self, root: bytes) -> ModelState:
        """Where one of `roots` is in its life."""
        if root in self._loading:
            return ModelState.LOADING
        if root in self._retiring:
            return ModelState.RETIRING
        if root in self._engines:
            return ModelState.LOADED if self._engines[root].alive else ModelState.FAILED
        return ModelState.FAILED if root in self._failed else ModelState.UNLOADED

    def engine(self, root: bytes) -> Engine:
        """The engine that answers for this model.

        Raises:
            NotFoundError: the host does not have the model.
            UnavailableError: it is not loaded now, or its engine died.
        """
        engine = self._engines.get(root)
        if engine is not None:
            if not engine.alive:
                raise worker_lost()
            return engine
        if root in self._folders:
            raise UnavailableError("the model is not loaded now: try again, or try another host", "model_not_loaded")
        raise NotFoundError(
            "this host does not serve the model: take a lease for one that it serves", "model_not_found"
        )

    def prepare(self) -> None:
        """Begin to import the engine's libraries, once, so that the first `load` finds them; returns at once."""
        if self._prepare is not None and self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare())
            self._preparing.add_done_callback(_say_failure)

    async def load(self, root: bytes) -> None:
        """Load a model and return when it answers; one that is loaded already stays as it is.

        One that is retiring is taken back. Others that are retiring make room at once.

        Raises:
            NotFoundError: the host does not have it.
            UnavailableError: it could not be loaded.
        """
        if root not in self._folders:
            raise NotFoundError("this host does not have a model of this root", "model_not_found")
        self._end_notice(root)
        if self.state(root) is ModelState.LOADED:
            return
        for other in [*self._retiring]:
            await self.unload(other)
        if root not in self._loading:
            self._loading[root] = asyncio.create_task(self._start(root))
        try:
            await asyncio.shield(self._loading[root])
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise UnavailableError(f"the model did not load: {error}", "load_failed") from error

    @contextmanager
    def answering(self, engine: Engine) -> Iterator[None]:
        """Hold an engine while an answer runs in it: `unload` waits for the end."""
        self._answers[id(engine)] = self._answers.get(id(engine), 0) + 1
        try:
            yield
        finally:
            self._answers[id(engine)] -= 1
            if not self._answers[id(engine)]:
                del self._answers[id(engine)]
                if id(engine) in self._idle:
                    self._idle[id(engine)].set()

    def retire(self, root: bytes, notice_s: float) -> None:
        """Offer a model no more, so that nobody takes a lease for it here, and unload it after `notice_s`.

        Until then it answers. A model that is not loaded, or retiring already, stays as it is.
        """
        if self.state(root) is ModelState.LOADED:
            self._retiring[root] = asyncio.create_task(self._retire(root, notice_s))

    async def unload(self, root: bytes, grace_s: float = UNLOAD_GRACE_S) -> None:
        """Take no request for a model any more, and end its engine once running answers ended.

        Answers still running after `grace_s` end with an error. A model that is not loaded stays so.
        """
        self._failed.discard(root)
        self._end_notice(root)
        loading = self._loading.get(root)
        if loading is not None:
            await asyncio.wait([loading])
        engine = self._engines.pop(root, None)
        if engine is not None:
            try:
                await self._wait_idle(engine, grace_s)
            finally:
                await engine.close()

    async def close(self) -> None:
        """End all engines."""
        for root in self.roots:
            await self.unload(root, grace_s=0.0)

    async def _retire(self, root: bytes, notice_s: float) -> None:
        await asyncio.sleep(notice_s)
        del self._retiring[root]
        await self.unload(root)

    def _end_notice(self, root: bytes) -> None:
        task = self._retiring.pop(root, None)
        if task is not None:
            task.cancel()

    async def _wait_idle(self, engine: Engine, grace_s: float) -> None:
        if id(engine) not in self._answers:
            return
        idle = self._idle[id(engine)] = asyncio.Event()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(idle.wait(), grace_s)
        finally:
            del self._idle[id(engine)]

    async def _start(self, root: bytes) -> Engine:
        try:
            dead = self._engines.pop(root, None)
            if dead is not None:
                await dead.close()
            engine = await self._load(self._folders[root])
        except BaseException as error:
            self._failed.add(root)
            logger.error("model %s did not load: %s", root.hex()[:16], error)  # noqa: TRY400
            raise
        else:
            self._failed.discard(root)
            self._engines[root] = engine
            logger.info("model %s is loaded", root.hex()[:16])
            return engine
        finally:
            del self._loading[root]


def _say_failure(task: "asyncio.Task[None]") -> None:
    """What could not be prepared is tried again by `load`, which refuses."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the engine's libraries were not imported: %s", type(error).__name__)


def worker_lost() -> UnavailableError:
    """What a client hears when the engine died."""
    return UnavailableError("the engine of this host stopped: try another host", "worker_lost")
