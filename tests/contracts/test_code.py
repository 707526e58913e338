"""The committed code is what the sources compile to."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from pytoniq_core import Cell

from contracts import load_code, load_hash

CONTRACTS = Path(__file__).parents[2] / "contracts"


NAMES = ("channel", "registry", "vault")


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_hash_is_that_of_the_committed_code(name: str) -> None:
    assert Cell.one_from_boc(load_code(name)).hash == load_hash(name)


def test_a_contract_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FileNotFoundError):
        load_code("no-such-contract")


def test_the_committed_code_is_what_the_sources_compile_to() -> None:
    node = shutil.which("node")
    if node is None or not (CONTRACTS / "node_modules" / "@ton-community" / "func-js").is_dir():
        pytest.skip("needs node and: cd contracts && npm install --no-package-lock")
    done = subprocess.run(
        [node, "compile.mjs", "--check"], cwd=CONTRACTS, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"same": True, "hashes": {name: load_hash(name).hex() for name in NAMES}}
