"""The on-chain contracts: FunC sources, the code compiled from them, and its hash."""

from importlib.resources import files

__all__ = ["load_code", "load_hash"]


def load_code(name: str) -> bytes:
    """The compiled code of a contract as a bag of cells.

    Args:
        name: ``channel``, ``registry`` or ``vault``.

    Raises:
        FileNotFoundError: there is no contract of this name.
    """
    return files(__name__).joinpath(f"{name}.boc").read_bytes()


def load_hash(name: str) -> bytes:
    """The hash of a contract's code cell, 32 bytes, as the compiler printed it.

    Raises:
        FileNotFoundError: there is no contract of this name.
    """
    return bytes.fromhex(files(__name__).joinpath(f"{name}.hash").read_text().strip())
