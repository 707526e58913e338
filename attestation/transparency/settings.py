"""The `transparency:` part of a settings file: which log, and how far it is believed.

    transparency:
      log: https://log.example.org        # or a folder; http to loopback only
      key: example.org/log+0a1b2c3d+AQ... # as `chrysalis log init` printed it
      age_max_s: 86400                    # a checkpoint that nobody renewed for longer is refused
      witnesses: [...]                    # cosigner keys of others
      witnesses_min: 1                    # how many of them must have cosigned

Without it, no log is asked and the registry contract alone says what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attestation.transparency.checkpoint import AGE_MAX_S, LogTrust
from attestation.transparency.note import NoteKey
from attestation.transparency.reader import LogReader, open_source

_KEYS = {"log", "key", "age_max_s", "witnesses", "witnesses_min"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Where a log is, and what its reader pins."""

    place: str  # URL or absolute path
    trust: LogTrust

    def reader(self, state: Path) -> LogReader:
        """Return a reader that remembers what it saw in the folder `state`, which is made."""
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return LogReader(open_source(self.place), self.trust, state)


def parse_log_settings(value: object, base: Path) -> LogSettings:
    """Read the settings; a relative folder is relative to `base`.

    Raises:
        ValueError: a key missing, unknown, or of the wrong kind.
    """
    if not isinstance(value, dict) or not {"log", "key"} <= value.keys() <= _KEYS:
        raise ValueError(f"transparency needs log and key, and may have {', '.join(sorted(_KEYS - {'log', 'key'}))}")
    place, key, witnesses = value["log"], value["key"], value.get("witnesses", [])
    if not isinstance(place, str) or not isinstance(key, str) or not place:
        raise ValueError("transparency.log and transparency.key must be text")
    if not isinstance(witnesses, list) or not all(isinstance(item, str) for item in witnesses):
        raise ValueError("transparency.witnesses must be a list of keys")
    numbers = {"age_max_s": value.get("age_max_s", AGE_MAX_S), "witnesses_min": value.get("witnesses_min", 0)}
    if any(type(number) is not int for number in numbers.values()):
        raise ValueError("transparency.age_max_s and witnesses_min must be whole numbers")
    place = place if "://" in place else str(base / place)
    open_source(place)
    trust = LogTrust(key=NoteKey.parse(key), witnesses=tuple(map(NoteKey.parse, witnesses)), **numbers)
    return LogSettings(place=place, trust=trust)
