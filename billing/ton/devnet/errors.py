"""Why the devnet says no.

DevnetError (a BillingError)
├── MalformedCellError      bytes that are not a bag of cells, or cells of another layout than expected
├── MessageTooLargeError    an external message over the network's size limit
├── MessageTooDeepError     an external message whose cells are nested deeper than the network's limit
├── NotAnExternalError      a message sent to the lite-server that is not an inbound external one
├── UnknownBlockError       a block id this chain never had, or whose state is no longer kept
├── StoreBusyError          another process runs on this state folder
├── StoreFailedError        the disk did not take a block; the devnet stops
├── SocketPathError         the state folder's path is too long for a unix socket
├── DevnetNotRunningError   nobody listens on the admin socket
└── CorruptStoreError       the stored accounts do not give the state the last block committed to

A refusal by the contract itself is `billing.ton.emulator.ExternalNotAcceptedError`.
"""

from __future__ import annotations

from billing.errors import BillingError


class DevnetError(BillingError):
    """The devnet refuses; nothing on the chain changed."""


class MalformedCellError(DevnetError):
    """The bytes or cells do not have the layout they should."""


class MessageTooLargeError(DevnetError):
    """An external message over the size limit, as real lite-servers refuse it."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"external message too large: {self.size} bytes, at most {self.limit}; send several smaller ones"


class MessageTooDeepError(DevnetError):
    """An external message nested too deeply, as real lite-servers refuse it."""

    def __init__(self, depth: int, limit: int) -> None:
        super().__init__(depth, limit)
        self.depth = depth
        self.limit = limit

    def __str__(self) -> str:
        return f"external message too deep: {self.depth} cells below one another, at most {self.limit}; make it flatter"


class NotAnExternalError(DevnetError):
    """Only inbound external messages enter through a lite-server."""


class UnknownBlockError(DevnetError):
    """The named block is not one of this chain, or its state is gone."""


class StoreBusyError(DevnetError):
    """Another process runs on this state folder."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is used by another devnet: stop that one, or choose another --state folder"


class DevnetNotRunningError(DevnetError):
    """Nobody listens on the admin socket."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no devnet answers on {self.path}: start it (chrysalis devnet run), or give its --state folder"


class CorruptStoreError(DevnetError):
    """The state folder does not hold what its last block committed to."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path} is damaged ({self.why}): delete the folder to start a new chain"


class StoreFailedError(DevnetError):
    """The disk did not take a block, so what is in memory must not be served."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path} could not be written ({self.why}): make room, then start the devnet again"


class SocketPathError(DevnetError):
    """Unix sockets have short paths."""

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(path, limit)
        self.path = path
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.path} is longer than the {self.limit} bytes a unix socket may have: choose a shorter --state"
