"""Where the chain lives between runs: one SQLite file, one transaction for each cut.

A cut is on disk before anybody is told of it, so a process killed at any point comes back with the last block it
announced, and with the messages that were still queued. The file is locked while a devnet runs on it.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from billing.ton.devnet.blocks import BASECHAIN, MASTERCHAIN, BlockId, Head, Moment
from billing.ton.devnet.boc import encode_boc, parse_one
from billing.ton.devnet.cells import Cell
from billing.ton.devnet.errors import CorruptStoreError, StoreBusyError, StoreFailedError
from billing.ton.devnet.messages import Account, AccountId, Parcel, parcel, parse_account
from billing.ton.devnet.proofs import master_state_proof
from billing.ton.devnet.snapshot import Cut

_FORMAT = 2
_EMPTY_BLOCKS_KEPT = 2000  # older blocks without transactions are forgotten

_SCHEMA = """
create table if not exists meta (key text primary key, value blob not null) without rowid;
create table if not exists accounts (
    workchain integer not null, id blob not null, boc blob not null, primary key (workchain, id)) without rowid;
create table if not exists transactions (
    workchain integer not null, id blob not null, lt integer not null, seqno integer not null,
    hash blob not null, boc blob not null, primary key (workchain, id, lt));
create index if not exists transactions_by_block on transactions (workchain, seqno, id, lt);
create table if not exists blocks (
    workchain integer not null, seqno integer not null, root_hash blob not null, file_hash blob not null,
    start_lt integer not null, end_lt integer not null, utime integer not null, transactions integer not null,
    boc blob not null, key_proof blob, primary key (workchain, seqno));
create index if not exists key_blocks on blocks (seqno) where key_proof is not null;
create table if not exists queue (place integer primary key, boc blob not null);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTransaction:
    """A transaction as it is kept: its name, its block's number and its bag of cells."""

    account: AccountId
    lt: int
    hash: bytes
    seqno: int
    boc: bytes


class Store:
    """The state folder, exclusively held."""

    def __init__(self, database: sqlite3.Connection, lock: IO[bytes], path: Path) -> None:
        self._database = database
        self._lock = lock
        self._path = path

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open or create the store in a folder.

        Raises:
            StoreBusyError: another process holds it.
            CorruptStoreError: the file is not one of this program.
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # the keys of lite-server and validator are in it
        lock = (folder / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise StoreBusyError(str(folder)) from None
        path = folder / "chain.sqlite"
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = normal")
            database.executescript(_SCHEMA)
            store = cls(database, lock, path)
            store._check_format()
        except (sqlite3.DatabaseError, CorruptStoreError) as error:
            database.close()
            lock.close()
            if isinstance(error, CorruptStoreError):
                raise
            raise CorruptStoreError(str(path), str(error)) from error
        return store

    def close(self) -> None:
        """Release the folder."""
        self._database.close()
        self._lock.close()

    def get(self, key: str) -> bytes | None:
        """Read a setting of this chain."""
        row = self._database.execute("select value from meta where key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        """Write a setting of this chain."""
        self._database.execute("insert or replace into meta values (?, ?)", (key, value))

    def save(self, cut: Cut) -> None:
        """Write a cut, all or nothing."""
        database, snapshot = self._database, cut.snapshot
        try:
            database.execute("begin immediate")
            database.executemany(
                "insert or replace into accounts values (?, ?, ?)",
                [(name.workchain, name.id, account.boc) for name, account in cut.changed.items() if account.exists],
            )
            database.executemany(
                "delete from accounts where workchain = ? and id = ?",
                [(name.workchain, name.id) for name, account in cut.changed.items() if not account.exists],
            )
            database.executemany(
                "insert into transactions values (?, ?, ?, ?, ?, ?)",
                [
                    (done.account.workchain, done.account.id, done.lt, snapshot.seqno, done.cell.hash(), done.boc)
                    for done in cut.transactions
                ],
            )
            self._save_blocks(cut)
            database.execute("delete from queue")
            database.executemany("insert into queue (boc) values (?)", [(message.boc,) for message in cut.queue])
            database.execute("commit")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                database.execute("rollback")
            raise StoreFailedError(str(self._path), str(error)) from error

    def _save_blocks(self, cut: Cut) -> None:
        moment = cut.snapshot.moment
        key_proof = encode_boc(master_state_proof(cut.snapshot)) if cut.is_key else None
        for workchain, name in cut.snapshot.ids.items():
            count = sum(done.account.workchain == workchain for done in cut.transactions)
            self._database.execute(
                "insert into blocks values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(workchain, name.seqno, name.root_hash, name.file_hash),
                    *(moment.start_lt, moment.end_lt, moment.now, count),
                    *(cut.bocs[workchain], key_proof if workchain == MASTERCHAIN else None),
                ),
            )
        old = cut.snapshot.seqno - _EMPTY_BLOCKS_KEPT
        self._database.execute(
            "delete from blocks where seqno = ? and not exists "
            "(select 1 from blocks as other where other.seqno = ? and "
            "(other.transactions > 0 or other.key_proof is not null))",
            (old, old),
        )

    def head(self, workchain: int) -> tuple[BlockId, int, Cell] | None:
        """Return name, end lt and block cell of the newest block, or None before the first."""
        row = self._database.execute(
            "select seqno, root_hash, file_hash, end_lt, boc from blocks where workchain = ? "
            "order by seqno desc limit 1",
            (workchain,),
        ).fetchone()
        if row is None:
            return None
        name = BlockId(workchain=workchain, seqno=row[0], root_hash=row[1], file_hash=row[2])
        return name, row[3], parse_one(row[4])

    def heads(self) -> dict[int, Head] | None:
        """Return the heads to continue from, or None for a new chain."""
        found: dict[int, Head] = {}
        for workchain in (MASTERCHAIN, BASECHAIN):
            head = self.head(workchain)
            if head is None:
                return None
            name, end_lt, block = head
            new_state = block.refs[2].refs[1]  # the update's new side, pruned: its hash and depth are all that counts
            found[workchain] = Head(id=name, end_lt=end_lt, state=new_state)
        return found

    def moment(self, global_id: int) -> Moment | None:
        """Return when the newest block was cut (without its seed), or None before the first."""
        row = self._database.execute(
            "select seqno, utime, start_lt, end_lt from blocks where workchain = ? order by seqno desc limit 1",
            (MASTERCHAIN,),
        ).fetchone()
        if row is None:
            return None
        return Moment(global_id=global_id, seqno=row[0], now=row[1], start_lt=row[2], end_lt=row[3], seed=b"")

    def key_blocks(self) -> list[Head]:
        """Return the key blocks, ascending; of their states only the hash is known."""
        rows = self._database.execute(
            "select seqno, root_hash, file_hash, end_lt, boc from blocks where workchain = ? "
            "and key_proof is not null order by seqno",
            (MASTERCHAIN,),
        )
        return [
            Head(
                id=BlockId(workchain=MASTERCHAIN, seqno=row[0], root_hash=row[1], file_hash=row[2]),
                end_lt=row[3],
                state=parse_one(row[4]).refs[2].refs[1],
            )
            for row in rows
        ]

    def key_proof(self, seqno: int) -> bytes | None:
        """Return the proof of a key block's masterchain state that was kept with it; None for any other block."""
        row: tuple[bytes | None] | None = self._database.execute(
            "select key_proof from blocks where workchain = ? and seqno = ?", (MASTERCHAIN, seqno)
        ).fetchone()
        return row[0] if row else None

    def accounts(self) -> Iterator[tuple[AccountId, Account]]:
        """Yield every account."""
        for workchain, account, boc in self._database.execute("select workchain, id, boc from accounts"):
            yield AccountId(workchain, account), parse_account(boc)

    def queue(self) -> list[Parcel]:
        """Return the messages still waiting, in order."""
        found = [
            parcel(parse_one(boc), boc) for (boc,) in self._database.execute("select boc from queue order by place")
        ]
        return [message for message in found if message is not None]

    def transactions(self, account: AccountId, lt: int, count: int) -> list[StoredTransaction]:
        """Return up to `count` transactions of an account from this lt backwards, newest first."""
        rows = self._database.execute(
            "select lt, hash, seqno, boc from transactions where workchain = ? and id = ? and lt <= ? "
            "order by lt desc limit ?",
            (account.workchain, account.id, lt, count),
        )
        return [StoredTransaction(account=account, lt=row[0], hash=row[1], seqno=row[2], boc=row[3]) for row in rows]

    def block_transactions(self, workchain: int, seqno: int) -> list[StoredTransaction]:
        """Return all transactions of a block by account and lt."""
        rows = self._database.execute(
            "select id, lt, hash, boc from transactions where workchain = ? and seqno = ? order by id, lt",
            (workchain, seqno),
        )
        return [
            StoredTransaction(account=AccountId(workchain, row[0]), lt=row[1], hash=row[2], seqno=seqno, boc=row[3])
            for row in rows
        ]

    def block(self, workchain: int, seqno: int) -> tuple[BlockId, bytes] | None:
        """Return name and bag of cells of a block."""
        return self._find_block("workchain = ? and seqno = ?", workchain, seqno)

    def block_name(self, workchain: int, seqno: int) -> BlockId | None:
        """Return the name of a block without reading its body."""
        row = self._database.execute(
            "select root_hash, file_hash from blocks where workchain = ? and seqno = ?", (workchain, seqno)
        ).fetchone()
        return row and BlockId(workchain=workchain, seqno=seqno, root_hash=row[0], file_hash=row[1])

    def block_by_lt(self, workchain: int, lt: int) -> tuple[BlockId, bytes] | None:
        """Return the first block that ends at or after a logical time."""
        return self._find_block("workchain = ? and end_lt >= ? order by seqno", workchain, lt)

    def block_by_time(self, workchain: int, utime: int) -> tuple[BlockId, bytes] | None:
        """Return the last block made at or before a unix time."""
        return self._find_block("workchain = ? and utime <= ? order by seqno desc", workchain, utime)

    def _find_block(self, condition: str, workchain: int, value: int) -> tuple[BlockId, bytes] | None:
        query = "select seqno, root_hash, file_hash, boc from blocks where " + condition + " limit 1"  # noqa: S608  # literals
        row = self._database.execute(query, (workchain, value)).fetchone()
        if row is None:
            return None
        return BlockId(workchain=workchain, seqno=row[0], root_hash=row[1], file_hash=row[2]), bytes(row[3])

    def check(self, states_hold: bool) -> None:
        """Refuse a folder whose accounts do not give the states of its newest blocks.

        Raises:
            CorruptStoreError: they do not.
        """
        if not states_hold:
            raise CorruptStoreError(str(self._path), "the accounts are not those of the last block")

    def _check_format(self) -> None:
        version = self.get("format")
        if version is None:
            self.put("format", str(_FORMAT).encode())
        elif version != str(_FORMAT).encode():
            raise CorruptStoreError(str(self._path), f"format {version!r}, this program writes {_FORMAT}")
