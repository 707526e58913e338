"""Keys and passwords stand in their files and in the memory of who uses them, and nowhere else."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from chrysalis.demo.canary import scan
from tests.billing.ton.world import CLIENT_KEY
from tests.chrysalis import operator_process
from tests.chrysalis.conftest import PASSWORD, Desk
from tests.chrysalis.operator_process import MODEL

BASE_PORT = 29_600
RAYS_OWN = {"gcs_server", "raylet"}  # arguments of actors pass them, and they need no key


def forms(secret: bytes) -> list[bytes]:
    """What a secret looks like when somebody prints it."""
    encoded = (base64.b64encode(secret), base64.urlsafe_b64encode(secret))
    hexadecimal = (secret.hex().encode(), secret.hex().upper().encode())
    return list(dict.fromkeys((secret, *hexadecimal, *(text.rstrip(b"=") for text in encoded))))


SECRETS = [*forms(CLIENT_KEY.private_bytes_raw()), *forms(PASSWORD.encode())]


def told(secrets: list[bytes], *places: bytes) -> list[bytes]:
    return [secret for secret in secrets if any(secret in place for place in places)]


def read_proc(pid: int) -> Iterator[bytes]:
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{pid}/{name}").read_bytes()


def family(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return [pid]


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Callable[[], bytes]]:
    """Everything that argument lists and environments of a process and its children showed while it ran."""
    seen: set[bytes] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for one in family(pid):
                seen.update(read_proc(one))
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: b"\n".join(seen)
    finally:
        stop.set()
        thread.join()


def run(*words: object) -> tuple[bytes, bytes]:
    """Run the command as a process; what it printed, and what /proc showed of it."""
    argv = [sys.executable, "-m", "chrysalis", *map(str, words)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        with watched(process.pid) as seen:
            printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, printed.decode()
    assert b"chrysalis" in seen()
    return printed, seen()


def test_the_search_finds_what_is_there() -> None:
    """Otherwise the tests below would prove nothing."""
    word = CLIENT_KEY.private_bytes_raw().hex()
    argv = [sys.executable, "-c", "input()", word]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process, watched(process.pid) as seen:
        time.sleep(0.2)
        process.communicate(b"\n")
    assert told(SECRETS, seen()) == [word.encode()]


def test_no_command_shows_a_key_or_a_password(desk: Desk, payer: Path) -> None:
    network, password = ("--network", desk.path("network.yaml")), ("--password-file", desk.path("password"))
    seed, request, signed = desk.path("seed"), desk.path("request"), desk.path("signed")
    seed.write_text(CLIENT_KEY.private_bytes_raw().hex())
    seed.chmod(0o600)
    to = ("--to", "0:" + "51" * 32, "--amount", "0.1", "--yes")
    for words in (
        ("wallet", "import", desk.path("copy.key"), "--from", seed, *password),
        ("wallet", "show", payer, *network),
        ("wallet", "send", "--key", payer, *to, *network, *password),
        ("wallet", "send", "--key", payer, *to, *network, "--offline", request),
        ("wallet", "sign", request, "--key", payer, "--to", signed, "--yes", *password),
        ("wallet", "send", signed, "--yes", *network),
        ("wallet", "rotate-password", payer, *password, "--new-password-file", desk.path("password")),
    ):
        assert told(SECRETS, *run(*words)) == [], words
    files = [path for path in desk.folder.iterdir() if path not in {seed, desk.path("password")}]
    assert len(files) > 4
    assert told(SECRETS, *(path.read_bytes() for path in files)) == []


def test_a_failing_command_shows_neither(desk: Desk, payer: Path) -> None:
    desk.path("wrong").write_text(PASSWORD[:-1])
    desk.path("wrong").chmod(0o600)
    argv = ["wallet", "send", "--key", payer, "--to", "0:" + "51" * 32, "--amount", "0.1", "--yes"]
    result = desk.run(*argv, "--password-file", desk.path("wrong"), password=False)
    assert (result.exit_code, "WrongPasswordError" in result.stderr) == (1, True)
    assert told([*SECRETS, PASSWORD[:-1].encode()], result.output.encode()) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not MODEL.exists(), reason="the demo model is not built: run `make demo-model`")
def test_an_operator_and_a_client_with_sealed_keys_show_none_of_them() -> None:
    """Arguments, environments and files of the whole network, logs too; and Ray's own memory, where arguments go."""
    folder = Path(tempfile.mkdtemp(prefix="chs-", dir="/tmp"))
    argv = [sys.executable, "-m", "tests.chrysalis.operator_process", str(BASE_PORT), str(folder / "n")]
    log = folder / "printed"
    try:
        with (
            log.open("wb") as printed,
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, text=True) as process,
            watched(process.pid) as seen,
        ):
            assert process.stdin is not None and process.stdout is not None
            ready = next(json.loads(line) for line in process.stdout if line.startswith('{"'))
            if "ready" not in ready:
                process.wait(30)  # it writes why after it has cleaned up
                pytest.fail(log.read_text()[-3000:])
            settings, wallet = folder / "n" / "client" / "client.yaml", folder / "n" / "client" / "wallet.key"
            password = ("--password-file", folder / "n" / "client" / "password")
            paid = run("deposit", "1", "--key", wallet, "--network", settings, *password, "--yes")
            assert _available(process, ready["account"]) == 10**9
            secrets = {Path(file).name: forms(bytes.fromhex(secret)) for file, secret in ready["secrets"].items()}
            assert set(secrets) == {"operator.key", "treasury.key", "ticket.key", "wallet.key"}
            everything = [*itertools.chain(*secrets.values()), *forms(operator_process.PASSWORD.encode())]
            of_haproxy = secrets["ticket.key"]  # it checks tickets, and takes the key from its environment: LIMITS.md
            shown = {pid: list(read_proc(pid)) for pid in ready["pids"]}
            assert len(shown) > 10
            for pid, places in shown.items():
                assert set(told(everything, *places)) <= (set(of_haproxy) if _is_named(pid, {"haproxy"}) else set())
            assert told([secret for secret in everything if secret not in of_haproxy], seen(), *paid) == []
            ray = [psutil.Process(pid) for pid in ready["pids"] if _is_named(pid, RAYS_OWN)]
            result = scan(everything, folders=[], processes=ray)
            assert (result.hits, result.unreadable, result.processes > 1) == ((), (), True)
            process.stdin.close()
            assert '"left": []' in process.stdout.read()
        allowed = {Path(file).parent / "password" for file in ready["secrets"]}
        files = [path for path in folder.rglob("*") if path.is_file() and path not in allowed]
        assert len(files) > 20
        assert [path for path in files if told(everything, path.read_bytes())] == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _available(process: subprocess.Popen[str], account: str) -> int:
    assert process.stdin is not None and process.stdout is not None
    for _ in range(300):
        process.stdin.write(account + "\n")
        process.stdin.flush()
        if available := json.loads(process.stdout.readline())["available"]:
            return available
        time.sleep(0.1)
    raise AssertionError("the deposit was never booked")


def _is_named(pid: int, names: set[str]) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).name() in names
    return False
