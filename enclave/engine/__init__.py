"""Engines: what turns prompt tokens into answer text inside the enclave.

Importing this package loads neither torch nor vLLM; `load_engine` does when it is asked for one of them.
"""

from enclave.engine.base import Ask, AskError, Engine, EngineStopped, Finish, Message, Piece, check_ask
from enclave.engine.load import ENGINES, EngineMissingError, engine_versions, import_engine, load_engine

__all__ = [
    "ENGINES",
    "Ask",
    "AskError",
    "Engine",
    "EngineMissingError",
    "EngineStopped",
    "Finish",
    "Message",
    "Piece",
    "check_ask",
    "engine_versions",
    "import_engine",
    "load_engine",
]
