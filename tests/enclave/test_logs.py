"""Nothing a library says can carry a prompt into a log."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CANARY = "canary-77aa-chrysalis"

SCRIPT = f"""
import asyncio, logging, threading, warnings
from enclave.logs import install_logging, log_type_only
install_logging()
logging.getLogger("enclave.service").info("an own sentence about %s", "an id")
logging.getLogger("enclave").warning("another one")
other = logging.getLogger("some.library")
other.info("{CANARY}")
other.warning("the prompt was %r", "{CANARY}", extra={{"prompt": "{CANARY}"}}, stack_info=True)
own_handler = logging.getLogger("library.with.handler")
own_handler.addHandler(logging.StreamHandler())
own_handler.error("{CANARY}")
try:
    raise ValueError("{CANARY}")
except ValueError:
    other.exception("{CANARY}")
    logging.getLogger("enclave.service").exception("own words")
def fail(): raise RuntimeError("{CANARY}")
thread = threading.Thread(target=fail, name="{CANARY[:3]}")
thread.start(); thread.join()
class Leak:
    def __del__(self): raise KeyError("{CANARY}")
Leak()
async def loop():
    asyncio.get_running_loop().set_exception_handler(log_type_only)
    task = asyncio.create_task(asyncio.to_thread(fail))
    await asyncio.sleep(0.1)
    del task
    import gc; gc.collect()
asyncio.run(loop())
raise OSError("{CANARY}")
"""


def test_only_own_sentences_come_out() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert CANARY not in said and "Traceback" not in said
    assert "an own sentence about an id" in said and "another one" in said and "own words" in said
    assert said.count("the text of another library is withheld") == 3 + 1  # its own handler and ours
    for kind in ("RuntimeError", "KeyError", "OSError"):
        assert f"unforeseen: {kind}" in said
    assert done.returncode == 1
