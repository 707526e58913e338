"""`chrysalis log`: write a transparency log, prove what is in it, verify it.

Exit code 0: done, or everything held; 1: refused; 2: could not tell.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chrysalis.key_access import PasswordFile, Unencrypted, open_signing_key, store_new_key

if TYPE_CHECKING:
    from attestation.transparency.checkpoint import LogTrust

app = typer.Typer(help="The transparency log of allowed and denied values.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of the log; any file server that serves it serves the log.")]
Key = Annotated[Path, typer.Option("--key", help="Key file of the log, see docs/KEYS.md.")]
LogKey = Annotated[str, typer.Option("--log-key", help="Public key of the log, as `log init` prints it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

REFUSED, UNKNOWN = 1, 2


@app.command()
def init(
    folder: Folder,
    key: Key,
    origin: Annotated[str, typer.Option(help="Name of the log, for example example.org/log.")],
    password_file: PasswordFile = None,
    *,
    unencrypted: Unencrypted = False,
    as_json: AsJson = False,
) -> None:
    """Begin an empty log; makes the key if there is none. Prints the public key that readers pin."""
    from attestation.transparency.store import LogStore
    from billing.keys import KeyKind

    with _exit_codes():
        if not key.exists():
            store_new_key(key, os.urandom(32), KeyKind.ED25519, password_file, unencrypted=unencrypted)
        private = open_signing_key(key, password_file, network_id=None)
        with LogStore.create(folder, private, origin=origin, now=_now()) as store:
            _say({"log_key": store.key.encode(), "size": 0}, as_json)


@app.command()
def append(
    folder: Folder,
    key: Key,
    entries: Annotated[Path, typer.Option(help="YAML list of entries, see attestation/transparency/entries_file.py.")],
    password_file: PasswordFile = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Append entries and sign the log with them."""
    from attestation.transparency.entries_file import parse_entries_file
    from attestation.transparency.store import LogStore

    with _exit_codes():
        new = parse_entries_file(entries.read_text(encoding="utf-8"), now=_now())
        with LogStore.open(folder, open_signing_key(key, password_file, network_id=None)) as store:
            checkpoint = store.append(new, now=_now())
    _say({"size": checkpoint.size, "root": checkpoint.root.hex()}, as_json)


@app.command()
def checkpoint(folder: Folder, key: Key, password_file: PasswordFile = None, *, as_json: AsJson = False) -> None:
    """Sign the log as it is, now. Run it daily: readers refuse a checkpoint that is too old."""
    from attestation.transparency.store import LogStore

    with _exit_codes(), LogStore.open(folder, open_signing_key(key, password_file, network_id=None)) as store:
        renewed = store.renew(now=_now())
    _say({"size": renewed.size, "root": renewed.root.hex()}, as_json)


@app.command()
def prove(
    folder: Folder,
    index: Annotated[int | None, typer.Option(help="Prove that the entry at this place is in the log.")] = None,
    since: Annotated[
        Path | None, typer.Option(help="Prove that the log contains the one of this older checkpoint.")
    ] = None,
) -> None:
    """Print a proof as JSON, for `log verify --proof`; needs no key."""
    from attestation.files import read_bounded
    from attestation.transparency.checkpoint import check_entries, parse_checkpoint
    from attestation.transparency.entries import FILE_SIZE_MAX
    from attestation.transparency.note import NOTE_SIZE_MAX, parse_note
    from attestation.transparency.proof import prove_entry, prove_growth
    from attestation.transparency.store import CHECKPOINT, ENTRIES

    if (index is None) == (since is None):
        raise typer.BadParameter("give --index or --since")
    with _exit_codes():
        note = read_bounded(folder / CHECKPOINT, NOTE_SIZE_MAX)
        entries = check_entries(parse_checkpoint(parse_note(note).text), read_bounded(folder / ENTRIES, FILE_SIZE_MAX))
        if since is not None:
            old = read_bounded(since, NOTE_SIZE_MAX)
            proof = prove_growth(old, parse_checkpoint(parse_note(old).text).size, note, entries).to_json()
        else:
            proof = prove_entry(note, entries, index or 0).to_json()
    typer.echo(proof)


@app.command()
def verify(
    log_key: LogKey,
    log: Annotated[str, typer.Option(help="Folder or https URL of a log: verify and list all of it.")] = "",
    policy: Annotated[Path | None, typer.Option(help="Policy whose reference values the log must allow.")] = None,
    proof: Annotated[Path | None, typer.Option(help="A proof that `log prove` printed.")] = None,
    *,
    state: Annotated[Path | None, typer.Option(help="Folder that remembers what was seen before.")] = None,
    age_max_s: Annotated[int, typer.Option(help="Oldest checkpoint accepted, seconds.", min=1)] = 86_400,
    as_json: AsJson = False,
) -> None:
    """Verify a log, a policy against a log, or a proof."""
    from attestation.transparency.checkpoint import LogTrust
    from attestation.transparency.note import NoteKey

    if bool(log) == bool(proof) or (policy and not log):
        raise typer.BadParameter("give --log (and --policy with it) or --proof")
    with _exit_codes():
        trust = LogTrust(key=NoteKey.parse(log_key), age_max_s=age_max_s)
        _say(_verify_proof(proof, trust) if proof else _verify_log(log, policy, trust, state), as_json)


def _verify_proof(path: Path, trust: "LogTrust") -> dict[str, object]:
    from attestation.transparency.entries import describe
    from attestation.transparency.proof import EntryProof, parse_proof

    found = parse_proof(path.read_text(encoding="utf-8"))
    held = found.check(trust, now=_now())
    words = f"has entry {found.index}: {describe(found.entry)}" if isinstance(found, EntryProof) else "only grew"
    return {"outcome": "held", "size": held.size, "root": held.root.hex(), "log": words}


def _verify_log(log: str, policy: Path | None, trust: "LogTrust", state: Path | None) -> dict[str, object]:
    from tempfile import TemporaryDirectory

    from attestation.policy import AppraisalPolicy
    from attestation.transparency.entries import describe
    from attestation.transparency.reader import LogReader, open_source

    with TemporaryDirectory() as scratch:
        if state is not None:
            state.mkdir(parents=True, exist_ok=True)
        reader = LogReader(open_source(log), trust, state or Path(scratch))
        values = reader.read(now=_now())
    if policy is not None:
        values.check_reference(AppraisalPolicy.from_yaml(policy.read_text(encoding="utf-8")).reference)
    return {"outcome": "held", "size": len(reader.entries), "entries": [describe(entry) for entry in reader.entries]}


@contextmanager
def _exit_codes() -> Iterator[None]:
    from attestation.errors import AttestationError, EndorsementFetchError, LogStoreError, PolicyError
    from billing.errors import KeyFileError
    from cluster.errors import ConfigError

    try:
        yield
    except AttestationError as error:
        typer.echo(f"refused: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(REFUSED) from error
    except (LogStoreError, EndorsementFetchError, PolicyError, ConfigError, KeyFileError, OSError, ValueError) as error:
        typer.echo(f"could not tell: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(UNKNOWN) from error


def _say(document: dict[str, object], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    for name, value in document.items():
        for line in value if isinstance(value, list) else [value]:
            typer.echo(f"{name}: {line}")


def _now() -> datetime:
    return datetime.now(UTC)
