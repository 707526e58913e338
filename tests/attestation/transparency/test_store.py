"""The log on disk, and its readers: crashes lose nothing that was signed, and no past is rewritten unseen."""

from __future__ import annotations

import threading
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import (
    EndorsementFetchError,
    LogBusyError,
    LogProofError,
    LogRewrittenError,
    LogRollbackError,
    LogSplitViewError,
    LogStaleError,
    LogStoreError,
    MalformedEvidenceError,
)
from attestation.merkle_tree import leaf_hash, root_from_path, roots_from_consistency
from attestation.transparency.entries import FILE_SIZE_MAX, What, encode_entry, frame
from attestation.transparency.reader import SEEN, FolderLog, LogReader, open_source
from attestation.transparency.store import CHECKPOINT, ENTRIES, LogStore
from tests.attestation.transparency.logs import (
    EVERY_KIND,
    KEY,
    NOW,
    ORIGIN,
    TRUST,
    allow,
    deny,
    extend_log,
    make_log,
    revoke,
    value,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    make_log(tmp_path / "log", *EVERY_KIND)
    return tmp_path / "log"


@pytest.fixture
def reader(log: Path, tmp_path: Path) -> LogReader:
    return start(log, tmp_path)


def start(log: Path, tmp_path: Path) -> LogReader:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    return LogReader(FolderLog(log), TRUST, state)


def test_a_log_that_is_opened_again_is_the_same(log: Path) -> None:
    with LogStore.open(log, KEY) as store:
        assert store.entries == EVERY_KIND
        assert store.key == TRUST.key
        before = store.checkpoint
        after = store.append([allow("more")], now=NOW)
    assert (before.size, after.size) == (8, 9)


def test_every_entry_and_every_earlier_size_is_proved(log: Path) -> None:
    with LogStore.open(log, KEY) as store:
        before = store.checkpoint
        after = store.append([allow("more"), deny("it")], now=NOW)
        for index, entry in enumerate(store.entries):
            leaf, path = leaf_hash(encode_entry(entry)), store.inclusion(index)
            assert root_from_path(leaf, index=index, size=after.size, path=path) == after.root
        proof = store.consistency(before.size)
    roots = roots_from_consistency(old_size=before.size, new_size=after.size, old_root=before.root, path=proof)
    assert roots == (before.root, after.root)


def test_a_log_cut_anywhere_opens_at_a_beginning_or_says_that_signed_entries_are_gone(log: Path) -> None:
    whole = (log / ENTRIES).read_bytes()
    signed = (log / CHECKPOINT).read_bytes()
    extend_log(log, allow("unsigned one"), allow("unsigned two"))
    longer = (log / ENTRIES).read_bytes()
    (log / CHECKPOINT).write_bytes(signed)  # the crash came before the checkpoint
    for cut in range(len(longer) + 1):
        (log / ENTRIES).write_bytes(longer[:cut])
        if cut < len(whole):
            with pytest.raises(LogRewrittenError):
                LogStore.open(log, KEY)
            continue
        with LogStore.open(log, KEY) as store:
            kept = [encode_entry(entry) for entry in store.entries]
        assert longer.startswith(frame(kept))
        assert (log / ENTRIES).read_bytes() == frame(kept)
        assert len(kept) in {8, 9, 10}


def test_entries_that_were_appended_before_a_crash_are_signed_with_the_next(log: Path, reader: LogReader) -> None:
    with (log / ENTRIES).open("ab") as file:
        file.write(frame([encode_entry(allow("late"))]) + b"\0\0")
    assert value("late") not in reader.read(now=NOW).allowed[What.MEASUREMENT]
    extend_log(log, allow("later"))
    assert {value("late"), value("later")} <= reader.read(now=NOW).allowed[What.MEASUREMENT]


def test_a_rewritten_past_is_not_opened(log: Path) -> None:
    other = [encode_entry(allow("other")), *(encode_entry(entry) for entry in EVERY_KIND[1:])]
    (log / ENTRIES).write_bytes(frame(other))
    with pytest.raises(LogRewrittenError, match="not the one that was signed"):
        LogStore.open(log, KEY)


def test_two_cannot_write_at_a_time(log: Path) -> None:
    with LogStore.open(log, KEY), pytest.raises(LogBusyError):
        LogStore.open(log, KEY)
    LogStore.open(log, KEY).close()


def test_a_log_is_not_begun_over_another(log: Path) -> None:
    with pytest.raises(LogStoreError, match="cannot begin"):
        LogStore.create(log, KEY, origin=ORIGIN, now=NOW)


def test_a_log_of_another_key_is_not_opened(log: Path) -> None:
    with pytest.raises(LogStoreError, match="another key"):
        LogStore.open(log, Ed25519PrivateKey.generate())
    with pytest.raises(LogStoreError):
        LogStore.open(log.parent, KEY)


def test_what_cannot_stand_is_not_appended(log: Path) -> None:
    with LogStore.open(log, KEY) as store:
        with pytest.raises(ValueError, match="nothing stands"):
            store.append([allow("good"), revoke(2)], now=NOW)
        assert len(store.entries) == 8
    assert list((log / ENTRIES).parent.glob(".*")) == []


def test_a_reader_follows_a_growing_log(log: Path, reader: LogReader, tmp_path: Path) -> None:
    assert value("image") in reader.read(now=NOW).allowed[What.MEASUREMENT]
    extend_log(log, deny("image"))
    assert reader.read(now=NOW).denied[What.MEASUREMENT] == {value("image")}
    assert start(log, tmp_path).read(now=NOW).denied[What.MEASUREMENT] == {value("image")}


def test_an_older_log_is_refused_also_after_a_restart(log: Path, reader: LogReader, tmp_path: Path) -> None:
    reader.read(now=NOW)
    old = {name: (log / name).read_bytes() for name in (CHECKPOINT, ENTRIES)}
    extend_log(log, deny("image"))
    reader.read(now=NOW)
    for name, data in old.items():
        (log / name).write_bytes(data)
    for again in (reader, start(log, tmp_path)):
        with pytest.raises(LogRollbackError):
            again.read(now=NOW)


def test_a_log_that_shows_two_pasts_is_refused_for_good_and_the_proof_is_kept(
    log: Path, reader: LogReader, tmp_path: Path
) -> None:
    reader.read(now=NOW)
    seen = (log / CHECKPOINT).read_bytes()
    make_log(tmp_path / "other", allow("secret"), *EVERY_KIND[1:], allow("more"))
    liar = start(tmp_path / "other", tmp_path)
    with pytest.raises(LogSplitViewError, match="two pasts"):
        liar.read(now=NOW)
    proof = {path.name: path.read_bytes() for path in (tmp_path / "state" / "log-split-view").iterdir()}
    assert proof == {
        "seen-before": seen,
        "shown-now": (tmp_path / "other" / CHECKPOINT).read_bytes(),
        "entries-shown-now": (tmp_path / "other" / ENTRIES).read_bytes(),
    }
    assert reader.contradicted
    with pytest.raises(LogSplitViewError, match="the proof is in"):
        reader.read(now=NOW)


def test_a_server_that_alters_entries_is_found_out(log: Path, reader: LogReader) -> None:
    entries = (log / ENTRIES).read_bytes()
    (log / ENTRIES).write_bytes(entries.replace(value("image"), value("other")))
    with pytest.raises(LogProofError):
        reader.read(now=NOW)


def test_a_server_that_withholds_new_checkpoints_is_found_out_in_a_day(log: Path, reader: LogReader) -> None:
    reader.read(now=NOW)
    with pytest.raises(LogStaleError):
        reader.read(now=NOW + timedelta(days=2))
    with LogStore.open(log, KEY) as store:
        store.renew(now=NOW + timedelta(days=2))
    reader.read(now=NOW + timedelta(days=2))


def test_a_log_that_cannot_be_read_is_trouble_and_not_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(EndorsementFetchError):
        start(tmp_path / "nowhere", tmp_path).read(now=NOW)


def test_a_memory_of_what_was_seen_that_is_damaged_is_not_taken_for_a_first_look(
    log: Path, reader: LogReader, tmp_path: Path
) -> None:
    reader.read(now=NOW)
    (tmp_path / "state" / SEEN).write_bytes(b"")
    with pytest.raises(MalformedEvidenceError):
        start(log, tmp_path).read(now=NOW)


def test_a_log_behind_a_file_server_is_read_like_a_folder(log: Path, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(log)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        (tmp_path / "state").mkdir()
        place = f"http://127.0.0.1:{server.server_port}/"
        served = LogReader(open_source(place), TRUST, tmp_path / "state")
        assert value("image") in served.read(now=NOW).allowed[What.MEASUREMENT]
        (log / CHECKPOINT).unlink()
        with pytest.raises(EndorsementFetchError, match="status 404"):
            served.read(now=NOW)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_log_without_end_is_not_read_to_its_end(log: Path, reader: LogReader) -> None:
    asked: list[int] = []

    class Endless(FolderLog):
        def read(self, name: str, size_max: int) -> bytes:
            asked.append(size_max)
            return super().read(name, size_max) if name == CHECKPOINT else bytes(size_max + 1)

    with pytest.raises(MalformedEvidenceError):
        LogReader(Endless(log), TRUST, log).read(now=NOW)
    assert max(asked) <= FILE_SIZE_MAX
