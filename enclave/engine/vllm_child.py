"""What vLLM's own processes do first. They hold prompts, so they are hardened as the enclave is, and die with it.

vLLM computes in processes of its own, which it starts with spawn: neither the enclave's settings against tracing nor
its guarded logs reach them, and killed outright, the enclave would leave them behind with prompts in memory. vLLM
calls every `vllm.general_plugins` entry point at the start of each process; ours (pyproject.toml) is `harden_child`.
"""

import os
import signal

from enclave.logs import install_logging
from enclave.process import die_with_parent, harden

ENCLAVE_PID = "CHRYSALIS_ENCLAVE_PID"  # set by VllmEngine; absent when vLLM runs for somebody else


def harden_child() -> None:
    """Harden this process if an enclave started it; the enclave itself, and vLLM used otherwise, are left alone.

    Raises:
        StartError: the kernel refused, or the parent is gone already.
    """
    enclave = os.environ.get(ENCLAVE_PID)
    if enclave is None or int(enclave) == os.getpid():
        return
    die_with_parent(os.getppid(), with_signal=signal.SIGKILL)
    harden()
    install_logging()
