"""External messages at the door: whom they address, and the limits that the network sets them.

Source: ton/validator/impl/external-message.cpp (`ExtMessageQ::create_ext_message`); mc-config.h, `SizeLimitsConfig`.
"""

from __future__ import annotations

from billing.ton.devnet.boc import parse_one
from billing.ton.devnet.errors import (
    MalformedCellError,
    MessageTooDeepError,
    MessageTooLargeError,
    NotAnExternalError,
)
from billing.ton.devnet.messages import AccountId, external_destination

SIZE_MAX = 65_535  # bytes
DEPTH_MAX = 512  # references from the root down to the deepest cell


def check_external(boc: bytes) -> AccountId:
    """Return whom an external message addresses.

    Raises:
        MessageTooLargeError, MessageTooDeepError: over a limit.
        MalformedCellError: not a bag of cells, not a message, or one with pruned parts.
        NotAnExternalError: another kind of message.
    """
    if len(boc) > SIZE_MAX:
        raise MessageTooLargeError(len(boc), SIZE_MAX)
    message = parse_one(boc)
    if message.mask:
        raise MalformedCellError("an external message has all its cells: a pruned branch stands in it")
    if message.depth() > DEPTH_MAX:
        raise MessageTooDeepError(message.depth(), DEPTH_MAX)
    to = external_destination(message)
    if to is None:
        raise NotAnExternalError("only inbound external messages enter here")
    return to
