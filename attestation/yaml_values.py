"""Values of configuration files: plain YAML, every key known, every value of its kind."""

from __future__ import annotations

from typing import Any

import yaml

from attestation.errors import PolicyError


def load_yaml(text: str, *, what: str, size_max: int) -> object:
    """Return the plain values of a file; a key given twice is an error.

    Args:
        text: the file.
        what: its name in messages.
        size_max: characters read.

    Raises:
        PolicyError: too large, not YAML, or more than plain values.
    """
    if len(text) > size_max:
        raise PolicyError(f"{what} of {len(text)} characters, at most {size_max} are read")
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  (a SafeLoader that also refuses doubled keys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError(f"{what} is not YAML: {error}") from error


def read_map(value: object, where: str, known: set[str]) -> dict[str, Any]:
    """Return a map that is not empty and has known keys only."""
    if not isinstance(value, dict) or not value:
        raise PolicyError(f"{where} is empty or no map")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise PolicyError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return value


def read_number(value: object, where: str) -> int:
    """Return a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise PolicyError(f"{where}: want a whole number, got {value!r}")
    return value


def read_flag(value: object, where: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise PolicyError(f"{where}: want true or false, got {value!r}")
    return value


def read_texts(value: object, where: str) -> list[str]:
    """Return a list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise PolicyError(f"{where}: want a list of texts (quote hex digits)")
    return value


def read_hexes(value: object, where: str, size: int) -> frozenset[bytes]:
    """Return values written as hex, `size` bytes each."""
    found = set()
    for text in read_texts(value, where):
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b""
        if len(data) != size:
            raise PolicyError(f"{where}: {text!r} is not {size} bytes in hex ({2 * size} digits)")
        found.add(data)
    return frozenset(found)


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML values; a key given twice is an error, not the last one wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return mapping
