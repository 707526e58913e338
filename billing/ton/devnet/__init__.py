"""A TON network of one process: real TVM, real prices, real blocks and proofs, behind a real lite-server protocol.

What a live network has and this one has not: validators (blocks are unsigned: connect with trust level 1), shard
splits, message queues and message descriptions inside blocks (messages run in the block that sends them, or wait in
the devnet's own queue), key blocks, libraries, elections.
"""

from billing.ton.devnet.admin import DevnetAdmin, DevnetStatus
from billing.ton.devnet.faults import Fault, FaultKind
from billing.ton.devnet.messages import AccountId
from billing.ton.devnet.node import NETWORK_ID, DevnetNode, Minted
from billing.ton.devnet.server import Devnet, running_devnet

__all__ = [
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
]
