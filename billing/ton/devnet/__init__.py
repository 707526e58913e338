"""A TON network of one process: real TVM, real prices, real blocks and proofs, behind a real lite-server protocol.

One validator signs every masterchain block, so clients may start from the first key block at trust level 0. What a
live network has and this one has not: shard splits, message queues and message descriptions inside blocks (messages
run in the block that sends them, or wait in the devnet's own queue), a list of old masterchain blocks in its state,
libraries, elections. See docs/DEVNET.md.
"""

from billing.ton.devnet.admin import DevnetAdmin, DevnetStatus
from billing.ton.devnet.faults import Fault, FaultKind
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.node import NETWORK_ID, DevnetNode, Minted
from billing.ton.devnet.server import BLOCK_INTERVAL_S, LOOPBACK, Devnet, running_devnet, serve_devnet

__all__ = [
    "BLOCK_INTERVAL_S",
    "LOOPBACK",
    "NETWORK_ID",
    "AccountId",
    "Devnet",
    "DevnetAdmin",
    "DevnetNode",
    "DevnetStatus",
    "Fault",
    "FaultKind",
    "Minted",
    "running_devnet",
    "serve_devnet",
]
