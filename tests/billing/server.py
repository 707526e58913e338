"""A real PostgreSQL server for tests: in a folder of its own, on a unix socket only, as a user without rights."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

PASSWORD = "only for tests"
START_S = 30.0


def find_programs() -> Path | None:
    """The folder of initdb and postgres, None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


class Server:
    """`initdb` and a running `postgres`; it refuses to run as root, so root gives it to another user."""

    def __init__(self, programs: Path) -> None:
        memory = Path("/dev/shm")  # its syncs cost nothing: the suite shares a disk
        place = memory if os.access(memory, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="chrysalis-pg-", dir=place))  # short: a socket's path is limited
        self._programs, self._databases = programs, 0
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self.password_file = self.folder / "password"
        self.password_file.write_text(PASSWORD + "\n")
        self.password_file.chmod(0o600)
        if self._user is not None:
            for path in (self.folder, self.password_file):
                os.chown(path, self._user, -1)
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *settings: str) -> None:
        """Run it, made first if need be; returns when it answers."""
        if not self._data.exists():
            arguments = ["--auth=scram-sha-256", "--username=ledger", f"--pwfile={self.password_file}", "--no-sync"]
            self._run("initdb", "--pgdata", str(self._data), *arguments)
        options = [
            part
            for setting in ("listen_addresses=", f"unix_socket_directories={self.folder}", *settings)
            for part in ("-c", setting)
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options], stdout=log, stderr=log, user=self._user
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut does: no checkpoint, its own recovery at the next start."""
        assert self._process is not None
        family = [*psutil.Process(self._process.pid).children(), self._process]
        for process in family:
            with suppress(psutil.NoSuchProcess):  # some end by themselves when another one does
                process.kill()
        self._process.wait()
        psutil.wait_procs(family[:-1])
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End it at once, sessions included."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(3)  # immediate shutdown: everything here is thrown away
            self._process.wait(START_S)

    def remove(self) -> None:
        """End it and delete its files."""
        self.stop()
        shutil.rmtree(self.folder)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of the superuser."""
        return psycopg.connect(
            host=str(self.folder), dbname=database, user="ledger", password=PASSWORD, autocommit=True
        )

    def new_database(self) -> str:
        """The URL of an empty database, without the password."""
        self._databases += 1
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE books{self._databases}")
        return f"postgresql://ledger@/books{self._databases}?host={self.folder}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self._programs / program, *arguments], check=True, capture_output=True, user=self._user)
