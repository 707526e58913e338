"""Logs that cannot carry a prompt: only this package's own sentences come out as they are.

A library may put anything into a log line or an exception: the request it choked on, for instance. So of every other
logger only name, level and place are kept, and of every exception that nobody caught only its type.
"""

import asyncio
import logging
import sys
import threading
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

OWN = "enclave"
WITHHELD = "(the text of another library is withheld)"


def install_logging() -> None:
    """Log to standard error from now on: our own words from INFO, that others had something to say from WARNING."""
    logging.setLogRecordFactory(_record)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger(OWN).setLevel(logging.INFO)
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda failure: _report(failure.exc_type)
    threading.excepthook = lambda failure: _report(failure.exc_type)


def log_type_only(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's handler for what nobody caught."""
    exception = context.get("exception")
    _report(type(exception) if exception is not None else None)


def _record(name: str, level: int, path: str, line: int, message: object, *rest: Any) -> logging.LogRecord:  # noqa: ANN401
    """`rest` is arguments and traceback; a traceback's last line is the exception's text, so none is kept."""
    own = name == OWN or name.startswith(f"{OWN}.")
    return logging.LogRecord(name, level, path, line, message if own else WITHHELD, rest[0] if own else (), None)


def _uncaught(kind: type[BaseException], _: BaseException, __: TracebackType | None) -> None:
    _report(kind)


def _report(kind: type[BaseException] | None) -> None:
    logger.error("unforeseen: %s", kind.__name__ if kind is not None else "unknown")
