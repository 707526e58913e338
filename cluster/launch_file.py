"""`cluster.yaml` and what it needs, read strictly before `ray up` gets to see it.

Ray itself finds most of these mistakes on the third machine, or never. Read for the provider `local`: machines that
exist and are reached by ssh. All problems are reported at once, each with what to do.
"""

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from cluster.certificates import check_certificate
from cluster.errors import ConfigError
from cluster.launch_form import SECRET_MOUNT, SETTINGS_MOUNT, TLS_FOLDER, form_problems, read_launch_file

TOKEN_LENGTH_MIN = 32  # characters
_SETTINGS: Mapping[str, tuple[str, str]] = {  # what ray.env must say, and why
    "RAY_AUTH_MODE": ("token", "otherwise whoever reaches a port of Ray runs code on every machine"),
    "RAY_AUTH_TOKEN_PATH": (f"{SECRET_MOUNT}/token", "that is where cluster.yaml puts the token"),
    "RAY_USE_TLS": ("1", "otherwise the token crosses the network in clear"),
    "RAY_TLS_SERVER_CERT": (f"{TLS_FOLDER}/node.crt", "`chrysalis cluster certs` installs it there"),
    "RAY_TLS_SERVER_KEY": (f"{TLS_FOLDER}/node.key", "`chrysalis cluster certs` installs it there"),
    "RAY_TLS_CA_CERT": (f"{TLS_FOLDER}/ca.crt", "`chrysalis cluster certs` installs it there"),
    "RAY_enable_autoscaler_v2": ("0", "version 2 counts the head as a host, and starts one host too few"),
    "RAY_gcs_storage": ("rocksdb", "otherwise a restart of the head forgets every actor"),
}
_TEMPORARY = ("/tmp", "/run", "/dev/shm", "/var/tmp")  # noqa: S108  refused, not used


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFile:
    """What `cluster.yaml` says, checked for its form; `problems` looks at the files it names."""

    folder: Path
    name: str
    head: str
    hosts: tuple[str, ...]
    ssh_user: str
    ssh_key: Path
    mounts: Mapping[str, Path]

    @classmethod
    def load(cls, path: Path) -> "LaunchFile":
        """Read it; raises ConfigError with one line for each problem."""
        values = read_launch_file(path)
        if problems := list(form_problems(values)):
            raise ConfigError("\n".join(problems))
        provider, auth = values["provider"], values["auth"]
        return cls(
            folder=path.resolve().parent,
            name=values["cluster_name"],
            head=provider["head_ip"],
            hosts=tuple(provider["worker_ips"]),
            ssh_user=auth["ssh_user"],
            ssh_key=Path(auth["ssh_private_key"]).expanduser(),
            mounts={target: Path(source).expanduser() for target, source in values["file_mounts"].items()},
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every machine, the head first."""
        return (self.head, *self.hosts)

    @property
    def tls_folder(self) -> Path:
        """Where `chrysalis cluster certs` keeps CA and certificates: beside the file."""
        return self.folder / "tls"

    def mount(self, target: str) -> Path:
        """The local folder that is copied to `target`."""
        return self.folder / self.mounts[target]

    def problems(self, *, now: datetime) -> Iterator[str]:
        """What is wrong with the files it names, a line each; nothing when `ray up` may run."""
        yield from _private_file(self.ssh_key, "auth.ssh_private_key")
        yield from self._token()
        yield from self._settings()
        for address in self.addresses:
            try:
                check_certificate(self.tls_folder, address, now=now)
            except ConfigError as error:
                yield str(error)
        for target in self.mounts.keys() - {SETTINGS_MOUNT, SECRET_MOUNT}:
            if not self.mount(target).exists():
                yield f"file_mounts: {self.mount(target)} does not exist"

    def _token(self) -> Iterator[str]:
        folder = self.mount(SECRET_MOUNT)
        token = folder / "token"
        found = list(_private_file(token, "the cluster's token"))
        yield from found
        if found:
            return
        if len(token.read_text().strip()) < TOKEN_LENGTH_MIN:
            yield f"{token} has less than {TOKEN_LENGTH_MIN} characters: remove it, `chrysalis cluster certs` makes one"
        if others := sorted(path.name for path in folder.iterdir() if path != token):
            yield f"{folder} is copied to every machine and holds {', '.join(others)} too: only token may lie there"

    def _settings(self) -> Iterator[str]:
        path = self.mount(SETTINGS_MOUNT) / "ray.env"
        try:
            settings = parse_settings(path.read_text())
        except OSError as error:
            yield f"cannot read {path} ({error.strerror}): every start command reads it"
            return
        except ConfigError as error:
            yield f"{path}: {error}"
            return
        for name, (value, reason) in _SETTINGS.items():
            if settings.get(name) != value:
                yield f"{path} must say {name}={value}: {reason}"
        for name in ("RAY_TMPDIR", "RAY_gcs_storage_path"):
            place = settings.get(name, "")
            if not place.startswith("/") or any(PurePosixPath(place).is_relative_to(one) for one in _TEMPORARY):
                yield f"{path} must name a folder for {name} that outlives a reboot, as /var/lib/chrysalis"
        if "RAY_AUTH_TOKEN" in settings:
            yield f"{path} holds the token itself: name its file by RAY_AUTH_TOKEN_PATH"


def parse_settings(text: str) -> dict[str, str]:
    """NAME=VALUE lines, as a shell reads them when no value needs quotes; raises ConfigError for anything else."""
    settings: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)=([A-Za-z0-9_./:,@%+-]*)", line)
        if match is None:
            raise ConfigError(f"line {number} is not NAME=VALUE without quotes, spaces or $")
        settings[match[1]] = match[2]
    return settings


def _private_file(path: Path, what: str) -> Iterator[str]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        yield f"{what}: {path} cannot be read ({error.strerror})"
        return
    if mode & 0o077:
        yield f"{what}: {path} has mode {mode:04o}, others could read it: chmod 600 {path}"
