"""The embedded engine: transformers' continuous batching on any torch device, made safe for many tenants.

The library's batching thread serves everybody and dies of one bad request (an unknown token id, temperature 0,
more tokens than its cache holds, an id used twice). So `check_ask` refuses those before they reach it,
request ids are ours, a refused hand-over is noticed, and every wait looks whether the thread still lives.
"""

import asyncio
import atexit
import itertools
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from enclave.engine.base import Ask, AskError, EngineStopped, Finish, Message, Piece, check_ask
from enclave.engine.prompts import Prompts
from enclave.engine.stops import StopFinder

PAGE = 32  # tokens of one cache block
STEP_TOKENS = 4  # most tokens computed in one step, in contexts
LIVENESS_S = 1.0
CLOSE_S = 10.0
GREEDY_BELOW = 0.01  # lower temperatures overflow in bf16 and differ from greedy in nothing


class TorchEngine:
    """A causal language model of a local folder behind `Engine`."""

    def __init__(self, folder: Path, *, max_running: int = 32, context: int = 512, threads: int = 1) -> None:
        """`threads` is for the whole process, on CPUs: more than one only pays for large models on idle cores."""
        torch.set_num_threads(threads)
        self._prompts = Prompts(folder)
        disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True).to(device)
        ends = model.generation_config.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])
        self._vocabulary = int(model.config.vocab_size)
        self._context = min(context, int(model.config.max_position_embeddings))
        self._numbers = itertools.count()
        self._manager = _start_batching(model, sorted(self._ends), sequences=max_running, context=self._context)
        self._closed = False
        atexit.register(self._stop)  # for a process that ends without closing it

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context

    @property
    def alive(self) -> bool:
        """Whether the batching thread runs and takes requests."""
        status = self._manager.background_thread_status
        return not self._closed and self._manager.is_running() and status.can_accept_new_requests() is None

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt tokens of a conversation."""
        return self._prompts.render(messages)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Prompt tokens of a bare text."""
        return self._prompts.tokenize(text)

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """One piece for each token; see `Engine.answer`."""
        check_ask(ask, vocabulary=self._vocabulary, context=self._context)
        number = f"ask-{next(self._numbers)}"
        results: asyncio.Queue[Any] = asyncio.Queue()
        reader = _AnswerReader(self._prompts, ask, self._ends)
        finished = False
        self._manager.register_result_handler(number, results.put_nowait)
        try:
            self._hand_over(ask, number)
            while not reader.ended:
                result = await self._next_result(results)
                finished = result.is_finished()
                if result.error:
                    raise self._failure()
                yield reader.read(result.generated_tokens, finished=finished)
        finally:
            if not finished:  # a cancelled request gets no last result, which would have removed its handler
                self._manager.cancel_request(number)
                self._manager.output_router.result_handlers.pop(number, None)

    async def close(self) -> None:
        """Stop the batching thread; running answers raise `EngineStopped`."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self._stop)
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._manager.stop(hard_stop=True, timeout=CLOSE_S)

    def _hand_over(self, ask: Ask, number: str) -> None:
        greedy = ask.temperature < GREEDY_BELOW
        taken = self.alive and self._manager.add_request(
            list(ask.prompt),
            request_id=number,
            max_new_tokens=ask.max_tokens,
            streaming=True,
            temperature=1.0 if greedy else float(ask.temperature),
            top_k=1 if greedy else self._vocabulary,
            top_p=float(ask.top_p),
        )
        if not taken:
            raise EngineStopped("the batching thread is gone")

    async def _next_result(self, results: asyncio.Queue[Any]) -> Any:  # noqa: ANN401  the library's untyped output
        while True:
            try:
                return await asyncio.wait_for(results.get(), LIVENESS_S)
            except TimeoutError:
                if not self.alive:
                    raise EngineStopped("the batching thread is gone") from None

    def _failure(self) -> Exception:
        """What a failed result means: the end of the engine, or of this answer only."""
        if self.alive:
            return AskError("the engine could not answer this request", code="engine_error")
        return EngineStopped("the batching thread is gone")


class _AnswerReader:
    """Turns the growing token list of one answer into pieces of text."""

    def __init__(self, prompts: Prompts, ask: Ask, ends: frozenset[int]) -> None:
        self._tokenizer, self._ends = prompts.tokenizer.backend_tokenizer, ends
        self._decoder, self._stops = DecodeStream(skip_special_tokens=True), StopFinder(ask.stop)
        self._seen = 0
        self.ended = False

    def read(self, tokens: Sequence[int], *, finished: bool) -> Piece:
        """The piece that the new tokens make; incomplete characters wait for the next one."""
        fresh, self._seen = tokens[self._seen :], len(tokens)
        decoded = "".join(self._decoder.step(self._tokenizer, token) or "" for token in fresh)
        text, stopped = self._stops.feed(decoded)
        finish: Finish | None = None
        if stopped or (finished and tokens[-1] in self._ends):
            finish = "stop"
        elif finished:
            finish = "length"
        if finished and not stopped:
            text += self._stops.rest()
        self.ended = finish is not None
        return Piece(text=text, output_tokens=self._seen, finish=finish)


def _start_batching(model: Any, ends: list[int], *, sequences: int, context: int) -> Any:  # noqa: ANN401  untyped
    """A running batching manager whose cache holds `sequences` whole contexts, whatever they contain."""
    # These three values only make the samplers exist; every request brings its own.
    sampling = GenerationConfig(do_sample=True, temperature=0.7, top_k=50, top_p=0.9, eos_token_id=ends)
    batching = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=sequences * -(-context // PAGE),
        max_batch_tokens=STEP_TOKENS * context,
        max_requests_per_batch=sequences,
        per_request_processors=True,
        drop_unsupported_processors=False,
        allow_block_sharing=False,  # its prefix cache knows no salt: one account could time another's prompts
    )
    manager = model.init_continuous_batching(generation_config=sampling, continuous_batching_config=batching)
    starter = threading.Thread(target=manager.start, daemon=True)  # what it starts inherits this: the thread must not
    starter.start()  # keep a process alive whose main part has failed
    starter.join()
    return manager
