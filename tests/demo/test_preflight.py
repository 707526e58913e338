"""What stops the demo before anything is started, and what the sentence says."""

import importlib.util
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from chrysalis.demo import preflight
from chrysalis.demo.preflight import check_machine
from chrysalis.demo.run import MODEL
from cluster.errors import ConfigError

Memory = namedtuple("Memory", "available")
BASE = 29000


def check(**changes: object) -> None:
    values = {"engine": "torch", "base_port": BASE, "model": MODEL, "folder": None}
    check_machine(**{**values, **changes})


def test_a_machine_with_everything_may_run_the_demo() -> None:
    check()


def test_too_little_memory_stops_the_demo_and_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(available=3 << 30))
    with pytest.raises(ConfigError, match=r"3\.0 GiB of memory are free, the demo needs 5: close other programs"):
        check()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    with pytest.raises(ConfigError, match="missing Python packages: torch; run `make install`"):
        check()


def test_a_work_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"c{tmp_path.name[-6:]}"
    folder.mkdir()
    (folder / "kept").touch()
    try:
        with pytest.raises(ConfigError, match="is not empty"):
            check(folder=folder)
        assert (folder / "kept").exists()
    finally:
        (folder / "kept").unlink()
        folder.rmdir()


def test_a_work_folder_too_deep_for_sockets_is_refused_before_it_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    with pytest.raises(ConfigError, match="too long"):
        check(folder=folder)
    assert not folder.exists()


def test_a_clone_without_the_model_is_told_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make demo-model"):
        check(model=tmp_path)
