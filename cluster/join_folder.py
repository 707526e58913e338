"""The folder of a host that joined: Ray's token, key and certificate while it is in, and nothing afterwards.

/run/chrysalis/join by default, in memory: a machine that loses power has lost them. One supervisor at a time holds its
lock. What a killed one left behind, processes and files, is removed by the next one, before it asks for anything.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from cluster.certificates import CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY, write_private
from cluster.errors import ConfigError
from cluster.join_client import Grant
from cluster.processes import kill_marked

TOKEN, MARK, LOCK = "token", "run", "lock"
_SECRETS = (TOKEN, NODE_KEY, NODE_CERTIFICATE, CA_CERTIFICATE)


class JoinFolder:
    """Use as a context manager: entering cleans up, leaving removes what was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigError(
                f"another `chrysalis join` runs in {self.path}: end it, or name another --folder"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot use {self.path}: {error.strerror}; name another --folder") from error
        self._clean()
        return self

    def __exit__(self, *_: object) -> None:
        self._clean()
        os.close(self._lock)

    def note_run(self, mark: str) -> None:
        """Remember the mark of the processes that are being started."""
        write_private(self.path / MARK, mark.encode())

    def write(self, grant: Grant) -> None:
        """Store token, key and certificates, mode 0600."""
        credentials = grant.credentials
        write_private(self.path / TOKEN, credentials.token.encode())
        write_private(self.path / NODE_KEY, grant.key)
        write_private(self.path / NODE_CERTIFICATE, credentials.certificate.encode())
        write_private(self.path / CA_CERTIFICATE, grant.ca)

    def wipe(self) -> None:
        """Remove token, key and certificates."""
        for name in _SECRETS:
            (self.path / name).unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """What Ray has to know of it."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.path / TOKEN),
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(self.path / NODE_CERTIFICATE),
            "RAY_TLS_SERVER_KEY": str(self.path / NODE_KEY),
            "RAY_TLS_CA_CERT": str(self.path / CA_CERTIFICATE),
        }

    def _clean(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            mark = (self.path / MARK).read_text()
            if mark:
                kill_marked(mark)
        self.wipe()
        (self.path / MARK).unlink(missing_ok=True)
