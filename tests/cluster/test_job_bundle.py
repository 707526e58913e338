"""Bundles: the same files give the same bytes, and nothing that could reach out of the folder travels."""

import io
import os
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from cluster.errors import BundleError, BundleRefusedError
from cluster.job_bundle import check_approved, make_bundle


def fill(folder: Path, order: list[str]) -> Path:
    folder.mkdir()
    for name in order:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return folder


NAMES = ["b.py", "a/z.txt", "a/b.txt", "é.txt"]


def test_the_same_files_give_the_same_bytes_whenever_and_in_whatever_order_they_were_made(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", NAMES), fill(tmp_path / "two", NAMES[::-1])
    os.utime(two / "b.py", (1, 1))
    (two / "b.py").chmod(0o600)
    (two / "__pycache__").mkdir()
    (two / "__pycache__" / "b.pyc").write_text("x")
    assert make_bundle(one) == make_bundle(two)
    bundle = make_bundle(one)
    assert bundle.digest == sha256(bundle.data).digest()
    with zipfile.ZipFile(io.BytesIO(bundle.data)) as archive:
        assert archive.namelist() == sorted(NAMES)
        assert archive.read("a/z.txt") == b"text of a/z.txt"
    (one / "b.py").chmod(0o755)
    assert make_bundle(one) != bundle
    (two / "b.py").write_text("other")
    assert make_bundle(two) != bundle


def test_a_link_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    for number, target in enumerate(("/etc/passwd", "b.py", "nothing", "..", "a")):
        folder = fill(tmp_path / f"{number}", NAMES)
        (folder / "link").symlink_to(target)
        with pytest.raises(BundleError, match="link is a link"):
            make_bundle(folder)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", NAMES)
    os.mkfifo(folder / "pipe")
    with pytest.raises(BundleError, match="pipe is not a file"):
        make_bundle(folder)


@pytest.mark.parametrize("name", ["a\\..\\b", "new\nline", "\udcff"])
def test_a_name_that_another_program_reads_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    folder = fill(tmp_path / "x", ["a"])
    (folder / name).write_text("x")
    with pytest.raises(BundleError, match="cannot be a name in a bundle"):
        make_bundle(folder)


def test_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", ["a"])
    with (folder / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="more than the 67108864 bytes of a bundle, at large"):
        make_bundle(folder)


def test_no_folder_and_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="set working_dir"):
        make_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match="has no files"):
        make_bundle(tmp_path)


def test_code_that_governance_did_not_approve_is_refused_by_name() -> None:
    check_approved(b"a" * 32, frozenset({b"a" * 32}))
    for approved in (frozenset({b"b" * 32}), frozenset()):
        with pytest.raises(
            BundleRefusedError, match=f"{(b'a' * 32).hex()} is not among the {len(approved)} job_bundles"
        ):
            check_approved(b"a" * 32, approved)
