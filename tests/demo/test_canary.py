"""The scanner finds what it is meant to find; a scan that cannot see would prove nothing."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from chrysalis.demo.canary import CHUNK, scan

CANARY = b"canary-" + os.urandom(8).hex().encode()


def test_a_canary_in_a_file_is_found_even_across_a_read_border(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (CHUNK - 5) + CANARY + b"y" * 100)
    (tmp_path / "clean").write_bytes(b"nothing here")
    result = scan([CANARY], folders=[tmp_path], processes=[])
    assert result.files == 2
    assert result.hits == (f"file {tmp_path / 'log'}",)


def test_a_canary_in_the_memory_of_another_process_is_found() -> None:
    program = "import sys; kept = sys.stdin.readline(); print('ready', flush=True); sys.stdin.readline()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(CANARY + b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"ready\n"
        result = scan([CANARY], folders=[], processes=[psutil.Process(child.pid)])
        child.stdin.write(b"\n")
        child.stdin.close()
    assert len(result.hits) == 1
    assert result.memory_bytes > 0


def test_a_process_that_cannot_be_read_is_reported_not_passed_over_in_silence() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as child:
        gone = psutil.Process(child.pid)
        child.wait()
    result = scan([CANARY], folders=[], processes=[gone])
    assert result.processes == 0
    assert len(result.unreadable) == 1
