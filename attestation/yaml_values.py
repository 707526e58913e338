"""Values of configuration files: plain YAML, every key known, every value of its kind."""

from __future__ import annotations

from typing import Any

import yaml

from attestation.errors import PolicyError

VALUES_MAX = 4096  # keys and values; a YAML reader takes 100 us for each
DEPTH_MAX = 8


def load_yaml(text: str, *, what: str, size_max: int) -> object:
    """Return the plain values of a file; a key given twice, and a value that stands for another, are errors.

    Args:
        text: the file.
        what: its name in messages.
        size_max: characters read.

    Raises:
        PolicyError: too large, too many values, nested too deep, not YAML, or more than plain values.
    """
    if len(text) > size_max:
        raise PolicyError(f"{what} of {len(text)} characters, at most {size_max} are read")
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  (a SafeLoader that also refuses doubled keys)
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # the last two: values that are not of their tag
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
    """Plain YAML values; a key given twice is an error, not the last one wins, and nothing stands for another value.

    Aliases and merge keys can make a short file a huge value, and a value change far from where it is read.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values_left = VALUES_MAX
        self._depth_left = DEPTH_MAX

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401  (as it is above)
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias stands for another value", None)
        self._values_left -= 1
        self._depth_left -= 1
        if min(self._values_left, self._depth_left) < 0:
            what = f"more than {VALUES_MAX} values, or nested deeper than {DEPTH_MAX}"
            raise yaml.composer.ComposerError(None, None, what, None)
        node = super().compose_node(parent, index)
        self._depth_left += 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return mapping
