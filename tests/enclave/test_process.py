"""The enclave as a process of its own: what it imports, prints, logs, and how it dies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from enclave.control import bind_control
from tests.enclave.support import CHAT, OPERATOR_KEY, Client, connect, hang_up, http, post

ROOT = Path(__file__).resolve().parent.parent.parent
CANARY = "canary-4f1d9c-chrysalis"


def settings(tmp_path: Path, **changes: Any) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    path = tmp_path / "enclave.yaml"
    values = {
        "listen": "127.0.0.1:0",
        "control": str(tmp_path / "control"),
        "state": str(tmp_path / "state"),
        "payee": "0:" + "00" * 32,
        "operator_key": "00" * 32,
        "models": [{"path": "model"}],
        "engine": "torch",
        "hardware": {"none": True},
    }
    path.write_text(yaml.safe_dump(values | changes))
    return path


def run_to_end(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def running(*arguments: str, stderr: Any = None) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "the enclave ended before it listened"
            yield process, json.loads(line)
        finally:
            process.kill()


def test_the_enclave_imports_neither_ray_nor_an_engine_nor_the_chain() -> None:
    code = (
        "import sys, enclave.__main__; "
        "bad = {'ray', 'torch', 'transformers', 'vllm', 'pytoniq', 'billing.ton', 'attestation.simulate', 'aiohttp',"
        " 'fastapi', 'starlette'} & set(sys.modules); print(sorted(bad))"
    )
    done = run_to_end("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_it_starts_answers_and_stops_when_asked(tmp_path: Path) -> None:
    with running("-m", "enclave", "--config", str(settings(tmp_path))) as (process, line):
        assert line.keys() == {"host_id", "address", "control"}
        assert len(bytes.fromhex(line["host_id"])) == 8
        answer = asyncio.run(post(line["address"], "/evidence", bytes(32)))
        assert answer.status == 200
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "CoreDumping:\t0" in status
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert [row.split()[4:6] for row in limits.splitlines() if "core file" in row] == [["0", "0"]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not Path(line["control"]).exists()


def test_nobody_but_root_can_read_its_memory(tmp_path: Path) -> None:
    with running("-m", "enclave", "--config", str(settings(tmp_path))) as (process, _):
        # PR_SET_DUMPABLE=0 hands the process's own entries in /proc to root; ptrace needs the same right
        assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0
        code = f"import os; os.setgid(65534); os.setuid(65534); open('/proc/{process.pid}/mem', 'rb')"
        if os.getuid() == 0:
            assert "PermissionError" in run_to_end("-c", code).stderr


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    config = settings(tmp_path)
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'enclave', '--parent-death', '--config', {str(config)!r}],"
        " stdout=subprocess.PIPE, text=True)\n"
        "print(p.pid, p.stdout.readline(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[0])
        parent.kill()
        parent.wait()
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the enclave outlived its parent")


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "echo"}, "engine must be one of"),
        ({"models": [{"path": "nowhere"}]}, "not a folder"),
        ({"models": [{"path": "model"}, {"path": "model"}]}, "name each once"),
        ({"hardware": {"simulated": "nowhere"}}, "simulated hardware"),
        ({"listen": "203.0.113.1:1"}, "cannot listen on 203.0.113.1:1"),
    ],
)
def test_a_wrong_start_ends_with_one_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    done = run_to_end("-m", "enclave", "--config", str(settings(tmp_path, **change)))
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("enclave: ")


def test_a_second_enclave_on_the_same_paths_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with running("-m", "enclave", "--config", str(config)) as (_, line):
        done = run_to_end("-m", "enclave", "--config", str(config))
        assert done.returncode == 1 and "in use by another enclave" in done.stderr
        assert Path(line["control"]).is_socket()
    bind_control(Path(line["control"])).close()  # a killed one leaves its socket, which does not block the next


async def test_no_prompt_reaches_a_log_or_a_file(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    arguments = ("--state", str(tmp_path / "state"), "--debug", "--delay-ms", "1")
    key = OPERATOR_KEY.public_key().public_bytes_raw().hex()
    with (
        log.open("wb") as stderr,
        running("bench/echo_enclave.py", *arguments, "--operator-key", key, stderr=stderr) as (
            process,
            line,
        ),
    ):
        client = remote_client(line)
        for body in canary_bodies():
            sealed = client.seal(body)
            answer = client.open(sealed, (await client.send(sealed.data)).body)
            assert answer.finished
        for data in (CANARY.encode(), http("/sealed", CANARY.encode()), f"GET /{CANARY} HTTP/1.1\r\n\r\n".encode()):
            reader, writer = await connect(line["address"])
            writer.write(data + b"\r\n\r\n")
            await reader.read(10)
            await hang_up(writer)
        reader, writer = await connect(line["address"])
        writer.write(http("/sealed", client.seal(said(f"{CANARY} " * 200) | {"stream": True}).data))
        await reader.read(10)
        await hang_up(writer)
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert process.stdout is not None
        assert CANARY not in process.stdout.read()
    logged = log.read_text()
    assert CANARY not in logged and "Traceback" not in logged
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()


def said(text: str) -> dict[str, Any]:
    return CHAT | {"messages": [{"role": "user", "content": text}]}


def canary_bodies() -> list[Any]:
    return [
        said(CANARY),
        said(CANARY) | {"stream": True},
        said(CANARY) | {"temperature": 9},
        said(CANARY) | {CANARY: 1},
        said(CANARY) | {"model": [CANARY]},
        said(CANARY + "\ud800"),
        said(CANARY + "\x1f"),
        said(CANARY * 2000),
        (CANARY + "{").encode(),
        CANARY.encode() + b"\xff",
    ]


def remote_client(line: dict[str, Any]) -> Client:
    """A client of an enclave in another process, which runs by the real clock."""
    keys = SimpleNamespace(
        hpke=SimpleNamespace(public=bytes.fromhex(line["hpke"])), receipt_public=bytes.fromhex(line["receipt_key"])
    )
    enclave: Any = SimpleNamespace(
        host_id=bytes.fromhex(line["host_id"]), address=line["address"], service=SimpleNamespace(keys=keys)
    )
    return Client(enclave, expires=int(time.time()) + 600)
