"""Key files on the disk: private or refused, whole or not there, and never lost."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest

from billing import key_files
from billing.errors import (
    ExposedKeyFileError,
    KeyFileError,
    KeyFileExistsError,
    KeyFileUnreadableError,
    MalformedKeyFileError,
    PasswordNeededError,
    PlainKeyRefusedError,
    WeakPasswordError,
    WrongPasswordError,
)
from billing.key_files import (
    KeySource,
    create_key_file,
    read_key_file,
    read_password_file,
    read_seed,
    replace_key_file,
)
from billing.keys import KdfCost, SealedKey, seal_key

SEED = b"\xa7" * 32
PASSWORD = b"correct horse"
SEALED = seal_key(SEED, PASSWORD, cost=KdfCost(memory_kib=19_456, iterations=2, lanes=1)).encode()
# Made for this test; the seed was computed apart: PBKDF2-HMAC-SHA-512 as TON's wallets do
WORDS = (
    "square promote mind duck process sick alert garage twice setup produce glimpse "
    "wood truly vanish sign damp leisure absorb crowd dish focus flag setup"
)
WORDS_SEED = "7914bacc5f4cc17b5f9044735b01a30ef2854ba1b1122fac296aef76172d4b5b"


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.fixture
def source(tmp_path: Path) -> KeySource:
    write(tmp_path / "password", PASSWORD + b"\n")
    return KeySource(file=write(tmp_path / "key", SEALED), password_file=tmp_path / "password", plain_allowed=False)


def test_a_program_opens_its_key_with_the_password_beside_it(source: KeySource) -> None:
    assert source.secret() == SEED
    assert source.signing_key().private_bytes_raw() == SEED


def test_a_key_source_says_where_and_never_what(source: KeySource) -> None:
    assert pickle.loads(pickle.dumps(source)) == source
    assert SEED.hex() not in repr(source) and PASSWORD.decode() not in repr(source)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("name", ["key", "password"])
def test_what_others_can_read_is_refused_with_the_cure(source: KeySource, name: str, mode: int) -> None:
    (source.file.parent / name).chmod(mode)
    if name == "password" and mode == 0o640 and os.getuid() == 0:
        pytest.skip("a file of root that its group may read is a systemd credential")
    with pytest.raises(ExposedKeyFileError, match="chmod 600"):
        source.secret()


def test_a_systemd_credential_may_show_the_groups_bit_and_a_key_may_not(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a file of root")
    assert read_password_file(write(tmp_path / "credential", PASSWORD, 0o440)) == PASSWORD
    with pytest.raises(ExposedKeyFileError):
        read_key_file(write(tmp_path / "key", SEALED, 0o440))


def test_a_password_comes_through_a_pipe(tmp_path: Path) -> None:
    read, written = os.pipe()
    os.write(written, PASSWORD + b"\n")
    os.close(written)
    try:
        assert read_password_file(Path(f"/dev/fd/{read}")) == PASSWORD
    finally:
        os.close(read)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", WeakPasswordError), (b"a\nb", MalformedKeyFileError), (b"x" * 5000, MalformedKeyFileError)],
)
def test_what_is_no_password_is_refused(tmp_path: Path, data: bytes, error: type[KeyFileError]) -> None:
    with pytest.raises(error):
        read_password_file(write(tmp_path / "password", data))


def test_a_sealed_key_without_a_password_file_is_refused(source: KeySource) -> None:
    with pytest.raises(PasswordNeededError):
        KeySource(file=source.file).secret()


def test_another_password_is_one_clear_error(source: KeySource) -> None:
    assert source.password_file is not None
    source.password_file.write_bytes(b"another one")
    with pytest.raises(WrongPasswordError):
        source.secret()


def test_a_plain_key_is_for_tests_and_says_so_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "key", SEED.hex().encode() + b"\n")
    with caplog.at_level(logging.WARNING):
        assert KeySource(file=file).secret() == SEED
    assert "not encrypted" in caplog.text and SEED.hex() not in caplog.text
    with pytest.raises(PlainKeyRefusedError):
        KeySource(file=file, plain_allowed=False).secret()


def test_a_plain_key_where_a_password_was_promised_is_refused(source: KeySource) -> None:
    """Otherwise whoever can write the file could put a key of his own there, without any password."""
    write(source.file, SEED.hex().encode())
    with pytest.raises(PlainKeyRefusedError):
        KeySource(file=source.file, password_file=source.password_file).secret()


@pytest.mark.parametrize("data", [b"", b"short", b"zz" * 32, b"ab" * 33, b"x" * 5000, b"\xff" * 64])
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(MalformedKeyFileError) as refusal:
        read_key_file(write(tmp_path / "key", data))
    assert not data or data.decode(errors="replace") not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileUnreadableError, match="nowhere"):
        read_key_file(tmp_path / "nowhere")


@pytest.mark.parametrize("setting", [7, None, {}, {"file": ""}, {"file": 1}, {"file": "a", "pasword_file": "b"}, [1]])
def test_a_setting_that_is_no_key_is_refused(tmp_path: Path, setting: object) -> None:
    with pytest.raises(ValueError, match="path"):
        KeySource.parse(setting, tmp_path, plain_allowed=True)


def test_a_setting_is_a_path_or_two(tmp_path: Path) -> None:
    assert KeySource.parse("a", tmp_path, plain_allowed=True) == KeySource(file=tmp_path / "a")
    both = KeySource.parse({"file": "a", "password_file": "/b"}, tmp_path, plain_allowed=False)
    assert both == KeySource(file=tmp_path / "a", password_file=Path("/b"), plain_allowed=False)


def test_a_new_file_is_private_from_its_first_moment_and_never_takes_anothers_place(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        create_key_file(tmp_path / "key", SEALED)
    finally:
        os.umask(old)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFileExistsError):
        create_key_file(tmp_path / "key", b"other")
    assert (tmp_path / "key").read_bytes() == SEALED
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_key_is_replaced_in_one_step_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "key", SEALED)

    def refuse(data: bytes) -> None:
        raise RuntimeError("it does not open")

    with pytest.raises(RuntimeError):
        replace_key_file(file, b"damaged", check=refuse)
    assert file.read_bytes() == SEALED

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_files.os, "fsync", disk_full)
    with pytest.raises(KeyFileUnreadableError, match="No space left"):
        replace_key_file(file, b"new", check=lambda _: None)
    assert file.read_bytes() == SEALED
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    monkeypatch.undo()
    replace_key_file(file, b"new", check=lambda _: None)
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_words_of_a_wallet_give_its_key(tmp_path: Path) -> None:
    assert read_seed(write(tmp_path / "words", WORDS.encode())).hex() == WORDS_SEED
    assert read_seed(write(tmp_path / "hex", SEED.hex().encode())) == SEED
    mistyped = WORDS.split()
    mistyped[3], mistyped[4] = mistyped[4], mistyped[3]
    with pytest.raises(MalformedKeyFileError) as refusal:
        read_seed(write(tmp_path / "mistyped", " ".join(mistyped).encode()))
    assert mistyped[0] not in str(refusal.value)


def test_what_is_read_is_what_was_made(source: KeySource) -> None:
    found = read_key_file(source.file)
    assert isinstance(found, SealedKey)
    assert found.encode() == SEALED
