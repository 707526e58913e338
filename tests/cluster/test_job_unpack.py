"""Bundles on the host: nothing is read that is too large or another, nothing is written outside the job's folder."""

import io
import stat
import zipfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BundleError
from cluster.job_bundle import BUNDLE_MAX, make_bundle
from cluster.job_unpack import BUNDLE_NAME, read_bundle, unpack_bundle, wrap_bundle
from tests.cluster.test_job_bundle import NAMES, fill

REGULAR = stat.S_IFREG | 0o644


def archive_of(*entries: tuple[str, int], data: bytes = b"x", method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, mode in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, method
            archive.writestr(info, data)
    return packed.getvalue()


def test_a_bundle_comes_out_as_it_went_in(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", NAMES)
    (folder / "b.py").chmod(0o755)
    bundle = make_bundle(folder)
    out = tmp_path / "out"
    out.mkdir()
    assert unpack_bundle(bundle.data, out) == len(NAMES)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == set(NAMES)
    assert (out / "a" / "z.txt").read_text() == "text of a/z.txt"
    modes = {name: (out / name).stat().st_mode & 0o777 for name in ("b.py", "é.txt")}
    assert modes == {"b.py": 0o700, "é.txt": 0o600}
    assert make_bundle(out) == bundle


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "a/../../out",
        "/etc/out",
        "a//b",
        "./a",
        "a/.",
        "..",
        "",
        "a\\..\\b",
        "new\nline",
        "a/",
        "C:\\x",
        "a\0b",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    with pytest.raises(BundleError):
        unpack_bundle(archive_of(("first", REGULAR), (name, REGULAR)), folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["job"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, 0])
def test_a_link_or_a_device_is_refused_before_anything_is_written(tmp_path: Path, kind: int) -> None:
    data = archive_of(("first", REGULAR), ("link", kind | 0o777), data=b"/etc/passwd")
    with pytest.raises(BundleError, match="only plain files can travel"):
        unpack_bundle(data, tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = archive_of(("a", REGULAR), ("a", REGULAR))
    with pytest.raises(BundleError, match="twice"):
        unpack_bundle(data, tmp_path)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(BundleError, match="cannot unpack"):
        unpack_bundle(archive_of(*((name, REGULAR) for name in names)), tmp_path)


def test_an_archive_that_grows_when_it_is_unpacked_is_refused(tmp_path: Path) -> None:
    bomb = archive_of(("a", REGULAR), data=bytes(BUNDLE_MAX + 1), method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    with pytest.raises(BundleError, match="more than"):
        unpack_bundle(bomb, tmp_path)
    with pytest.raises(BundleError, match="packed otherwise"):
        unpack_bundle(archive_of(("a", REGULAR), method=zipfile.ZIP_DEFLATED), tmp_path)


@given(data=st.data())
def test_damaged_archives_are_refused_or_stay_inside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = archive_of(("a", REGULAR), ("b/c", REGULAR))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 : data.draw(st.integers(at, len(good)))]
    around = tmp_path_factory.mktemp("around")
    folder = around / "job"
    folder.mkdir()
    with suppress(BundleError):
        unpack_bundle(bad, folder)
    assert [path.name for path in around.iterdir()] == ["job"]


def test_a_bundle_is_read_only_when_it_is_the_one_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / BUNDLE_NAME
    path.write_bytes(b"code")
    assert read_bundle(path, sha256(b"code").digest()) == b"code"
    with pytest.raises(BundleError, match=r"the job was started for .* submit it again"):
        read_bundle(path, sha256(b"other").digest())
    with pytest.raises(BundleError, match="submit the job again"):
        read_bundle(tmp_path / "nothing", bytes(32))


def test_two_gibibytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / BUNDLE_NAME
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(BundleError, match="at most 67108864 bytes: let the job fetch large files itself"):
        read_bundle(path, bytes(32))


def test_a_link_in_place_of_the_bundle_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"code")
    (tmp_path / BUNDLE_NAME).symlink_to("real")
    with pytest.raises(BundleError):
        read_bundle(tmp_path / BUNDLE_NAME, sha256(b"code").digest())


def test_what_ray_unpacks_is_the_closed_bundle_and_nothing_else(tmp_path: Path) -> None:
    bundle = make_bundle(fill(tmp_path / "in", NAMES))
    with zipfile.ZipFile(io.BytesIO(wrap_bundle(bundle))) as archive:
        assert archive.namelist() == [BUNDLE_NAME]
        assert archive.read(BUNDLE_NAME) == bundle.data
    assert wrap_bundle(bundle) == wrap_bundle(bundle)
