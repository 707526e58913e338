"""Which root of each model name is in use, on disk: one JSON file, replaced as a whole."""

import json
from collections.abc import Mapping
from pathlib import Path

from billing.durable_file import replace_file
from cluster.errors import ConfigError
from cluster.rollout import Versions, encode_versions, parse_versions

MODEL_BOOK = "models.json"  # in the operator's state folder


class ModelBook:
    """The file. The models actor writes it; the registry reads it at its start."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Versions]:
        """What was saved last, by name; nothing when there is no file. ConfigError when it cannot be read."""
        try:
            values = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read {self._path}: {error}; restore it, or remove it and roll out anew"
            ) from error
        try:
            return {one.name: one for one in map(parse_versions, values)}
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self._path}: {error}; restore it, or remove it and roll out anew") from error

    def save(self, models: Mapping[str, Versions]) -> None:
        """Write all of them; they are on disk when this returns."""
        values = [encode_versions(one) for _, one in sorted(models.items())]
        replace_file(self._path, json.dumps(values, indent=1).encode())
