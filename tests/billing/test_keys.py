"""Key files: what is sealed opens with its password only, and a hostile file can ask for nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.errors import BillingError, MalformedKeyFileError, WeakPasswordError, WrongPasswordError
from billing.keys import (
    KdfCost,
    KeyKind,
    SealedKey,
    normalise_password,
    open_key,
    parse_key,
    public_key_of,
    seal_key,
)

SEED = bytes(range(32))
PASSWORD = b"correct horse"
CHEAP = KdfCost(memory_kib=19_456, iterations=2, lanes=1)
SEALED = seal_key(SEED, PASSWORD, cost=CHEAP, salt=b"s" * 16, nonce=b"n" * 12)
FILE = SEALED.encode()
VECTOR = "e25ddd66416c22346adaa98900fd31ef785e054613b3998165f00a8ceaffa6c51ed0e84813fcbacfb218dea056fa2f8f"


def changed(path: str, value: Any) -> bytes:
    document = json.loads(FILE)
    *folders, name = path.split(".")
    place = document
    for folder in folders:
        place = place[folder]
    place[name] = value
    return json.dumps(document).encode()


def parsed(data: bytes) -> SealedKey:
    key = parse_key(data)
    assert key is not None
    return key


def test_a_sealed_key_opens_with_its_password() -> None:
    assert open_key(parsed(FILE), PASSWORD) == SEED
    assert parsed(FILE) == SEALED
    assert SEED.hex() not in FILE.decode()


def test_the_format_stays_what_it_is() -> None:
    """Files of the first version open for ever; the bytes were computed by hand from the layout in docs/KEYS.md."""
    assert SEALED.sealed.hex() == VECTOR


def test_a_secret_shows_nothing_of_itself() -> None:
    key = seal_key(SEED, PASSWORD, kind=KeyKind.SECRET, cost=CHEAP)
    assert key.public_key == b""
    assert open_key(key, PASSWORD) == SEED


def test_two_files_of_one_key_have_nothing_in_common() -> None:
    first, second = (seal_key(SEED, PASSWORD, cost=CHEAP) for _ in range(2))
    assert (first.salt, first.nonce, first.sealed) != (second.salt, second.nonce, second.sealed)
    assert first.salt != second.salt and first.sealed != second.sealed


@pytest.mark.parametrize("password", [b"correct horsf", b"correct hors", b"correct horse ", b"Correct horse"])
def test_another_password_opens_nothing(password: bytes) -> None:
    with pytest.raises(WrongPasswordError):
        open_key(SEALED, password)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("kind", "secret"),
        ("public_key", public_key_of(b"x" * 32).hex()),
        ("kdf.salt", "00" * 16),
        ("kdf.iterations", 3),
        ("kdf.lanes", 2),
        ("kdf.memory_kib", 20_000),
        ("cipher.nonce", "00" * 12),
        ("sealed", "00" * 48),
        ("sealed", ("01" if FILE.hex()[:2] != "01" else "02") + SEALED.sealed.hex()[2:]),
    ],
)
def test_no_field_can_be_changed(path: str, value: Any) -> None:
    data = changed(path, value)
    if path == "kind":  # a secret names no public key
        data = json.dumps(json.loads(data) | {"public_key": ""}).encode()
    with pytest.raises(WrongPasswordError):
        open_key(parsed(data), PASSWORD)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("kdf.memory_kib", 64 << 20, id="64-GiB"),
        pytest.param("kdf.memory_kib", 2**63, id="all-there-is"),
        pytest.param("kdf.memory_kib", 8, id="too-cheap"),
        pytest.param("kdf.memory_kib", 65536.0, id="float"),
        pytest.param("kdf.memory_kib", True, id="bool"),
        pytest.param("kdf.iterations", 1_000_000, id="for-ever"),
        pytest.param("kdf.iterations", 1, id="one-pass"),
        pytest.param("kdf.lanes", 256, id="lanes"),
        pytest.param("kdf.lanes", 0, id="no-lanes"),
        pytest.param("kdf.name", "scrypt", id="other-kdf"),
        pytest.param("cipher.name", "none", id="other-cipher"),
        pytest.param("kdf.salt", "00", id="short-salt"),
        pytest.param("kdf.extra", 1, id="unknown-field"),
        pytest.param("chrysalis_key", 2, id="later-version"),
        pytest.param("kind", "rsa", id="unknown-kind"),
        pytest.param("public_key", "", id="no-public-key"),
        pytest.param("sealed", "zz" * 48, id="no-hex"),
        pytest.param("sealed", 7, id="no-text"),
    ],
)
def test_what_is_out_of_bounds_is_refused_before_anything_is_computed(path: str, value: Any, monkeypatch) -> None:
    monkeypatch.setattr("billing.keys.Argon2id", None)
    with pytest.raises(MalformedKeyFileError):
        parse_key(changed(path, value))


def test_a_field_that_stands_twice_is_refused() -> None:
    with pytest.raises(MalformedKeyFileError, match="twice"):
        parse_key(FILE.replace(b'"kind": "ed25519"', b'"kind": "secret", "kind": "ed25519"'))


def test_a_file_that_names_another_public_key_is_refused_even_with_the_password(monkeypatch) -> None:
    monkeypatch.setattr("billing.keys.public_key_of", lambda _: b"p" * 32)
    lying = seal_key(SEED, PASSWORD, cost=CHEAP)
    monkeypatch.undo()
    with pytest.raises(MalformedKeyFileError, match="public_key"):
        open_key(lying, PASSWORD)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.integers(0, len(FILE) - 1).map(lambda i: FILE[:i] + b"\x7b" + FILE[i + 1 :]))
def test_the_parser_raises_nothing_but_its_error(data: bytes) -> None:
    try:
        key = parse_key(data)
    except MalformedKeyFileError:
        return
    assert key is None or parse_key(key.encode()) == key


@pytest.mark.parametrize("data", [b"{" * 3000, b'{"a":' * 700, b"{}", b"{" + b" " * 5000 + b"}", b'{"kdf": NaN}'])
def test_json_that_is_made_to_hurt_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedKeyFileError):
        parse_key(data)


def test_a_password_is_the_same_from_every_keyboard_and_line_end() -> None:
    composed, decomposed = "pässwörter".encode(), "pa\u0308sswo\u0308rter".encode()
    assert normalise_password(composed + b"\n") == normalise_password(decomposed + b"\r\n") == composed


@pytest.mark.parametrize("text", [b"", b"\n", b"two\nlines", b"nul\0", b"\xff\xfe bytes", b"x" * 1025])
def test_what_is_no_password_is_refused(text: bytes) -> None:
    with pytest.raises((WeakPasswordError, ValueError)) as refusal:
        normalise_password(text)
    assert not text.strip() or text.decode(errors="replace") not in str(refusal.value)


def test_a_short_password_seals_nothing() -> None:
    with pytest.raises(WeakPasswordError):
        seal_key(SEED, b"1234567", cost=CHEAP)


def test_errors_say_nothing_of_key_or_password() -> None:
    for error in (WrongPasswordError(), WeakPasswordError(8), MalformedKeyFileError("why")):
        assert isinstance(error, BillingError)
        assert PASSWORD.decode() not in str(error)
