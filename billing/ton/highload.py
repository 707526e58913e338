"""Highload wallet v3, the operator's treasury: one signed external message pays up to 128 payees.

The wallet's code is the published one (github.com/ton-blockchain/highload-wallet-contract-v3), carried by pytoniq. Each
message has a query id, valid from `created_at` for `timeout_s`; while a message can live, the wallet takes no second
one of its id, so a resend of the same bytes changes nothing. The external message makes the wallet send itself an
internal one whose body lists the payments; the transaction of that second message pays.

The query ids of settlement count the batches the wallet has taken. So two writers with copies of one journal sign under
one id, the wallet executes one of their messages, and the other writer finds it in the history and stops.

Pure: keys, times and ids are arguments, and nothing here asks the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq.contract.wallets.highload_v3 import HIGHLOAD_V3_WALLET_CODE
from pytoniq_core import Address, Cell, begin_cell
from pytoniq_core.tlb.account import StateInit

from billing.batch import Batch, SignedMessage
from billing.books import Books
from billing.claim_proof import ClaimProof, format_address
from billing.errors import NothingToClaimError, WrongContractError
from billing.money import Nanotons
from billing.ton.cells import lookup
from billing.ton.outgoing import (
    IGNORE_ERRORS,
    PAY_FEES_APART,
    OutMessage,
    action_list,
    encode_external,
    external_message,
    internal_header,
)
from billing.ton.proofs import AccountState, AccountStatus
from billing.ton.sender import last_taken
from billing.ton.transaction import Transaction

__all__ = ["HighloadWallet", "number_of", "query_id_of", "subwallet_id_of", "treasury_wallet"]

CODE_HASH = bytes.fromhex("11acad7955844090f283bf238bc1449871f783e7cc0979408d3f4859483e8525")
OP_INTERNAL_TRANSFER = 0xAE42E5A4
ACTIONS_MAX = 254  # the wallet itself refuses more
PAYOUTS_MAX = 128  # a batch; beyond this it saves under 3 % of its fees and grows past 8.5 KB
QUERY_BITS = 1023  # bit numbers 0 to 1022 of each shift
SHIFTS = 8192  # 13 bits
SETTLEMENT_SHIFTS = SHIFTS // 2  # query ids of settlement; the others are free for the holder of the key
BACKDATE_S = 10  # so that no message is younger than a transaction its signer cannot see yet
TIMEOUT_S = 600  # how long a signed message stays valid; a lost one is replaced after this and a margin
ACTION_FEE = Nanotons(1_000_000)  # attached for each payment: 0.00066 is spent, the rest stays in the wallet
TRANSFER_FEE = Nanotons(20_000_000)  # attached once, likewise


def subwallet_id_of(network_id: int) -> int:
    """The treasury's subwallet id on a network, 32 bits.

    The signed bytes of this wallet name no network, so one key on two networks needs two ids: else a message signed
    for one could be replayed on the other.
    """
    digest = sha256(b"chrysalis/1 treasury" + network_id.to_bytes(4, "big", signed=True)).digest()
    return int.from_bytes(digest[:4], "big")


def query_id_of(number: int) -> int:
    """The query id of the settlement message of this number: 13 bits of shift, 10 of bit number.

    Comes round after 4,190,208 messages, when the wallet has long forgotten the first one.
    """
    shift, bit = divmod(number % (SETTLEMENT_SHIFTS * QUERY_BITS), QUERY_BITS)
    return shift << 10 | bit


def number_of(query_id: int) -> int:
    """The number of the settlement message with this query id."""
    return (query_id >> 10) * QUERY_BITS + (query_id & 1023)


@dataclass(frozen=True, kw_only=True)
class HighloadWallet:
    """The address and message format of one wallet: public key (Ed25519, 32 bytes), subwallet id, timeout."""

    public_key: bytes
    subwallet_id: int
    timeout_s: int = TIMEOUT_S
    payouts_max: int = PAYOUTS_MAX

    def __post_init__(self) -> None:
        if HIGHLOAD_V3_WALLET_CODE.hash != CODE_HASH:
            raise RuntimeError("pytoniq carries another highload wallet code than the one tested: install 0.1.43")
        if len(self.public_key) != 32 or not 5 < self.timeout_s < 1 << 22:
            raise ValueError("public_key has 32 bytes, timeout_s is above 5 and below 2^22")

    @cached_property
    def state_init(self) -> StateInit:
        """Code and data the account starts with."""
        data = (
            begin_cell()
            .store_bytes(self.public_key)
            .store_uint(self.subwallet_id, 32)
            .store_bit(0)  # old queries
            .store_bit(0)  # queries
            .store_uint(0, 64)  # last clean time
            .store_uint(self.timeout_s, 22)
            .end_cell()
        )
        return StateInit(code=HIGHLOAD_V3_WALLET_CODE, data=data)

    @cached_property
    def address(self) -> Address:
        """Where the wallet lives: basechain, hash of code and data."""
        return Address((0, self.state_init.serialize().hash))

    def sign(
        self,
        messages: Sequence[OutMessage],
        *,
        key: Ed25519PrivateKey,
        query_id: int,
        created_at: int,
        after_lt: int,
        deploy: bool = False,
    ) -> SignedMessage:
        """The one external message that makes the wallet send `messages`.

        Args:
            messages: 1 to 254.
            key: the wallet's private key.
            query_id: 23 bits, from `query_id_of`.
            created_at: unix seconds of chain time; the wallet refuses one in its future.
            after_lt: logical time of the wallet's last transaction, kept beside the bytes for looking them up.
            deploy: attach code and data, for the wallet's first message.
        """
        if not 0 < len(messages) <= ACTIONS_MAX:
            raise ValueError(f"a batch has 1 to {ACTIONS_MAX} messages, got {len(messages)}")
        transfer = self._transfer(messages, query_id)
        order = (
            begin_cell()
            .store_uint(self.subwallet_id, 32)
            .store_ref(transfer)
            .store_uint(PAY_FEES_APART | IGNORE_ERRORS, 8)
            .store_uint(query_id, 23)
            .store_uint(created_at, 64)
            .store_uint(self.timeout_s, 22)
            .end_cell()
        )
        body = begin_cell().store_bytes(key.sign(order.hash)).store_ref(order).end_cell()
        message = external_message(self.address, body, self.state_init if deploy else None)
        boc = encode_external(message)
        return SignedMessage(
            query_id=query_id,
            created_at=created_at,
            timeout_s=self.timeout_s,
            boc=boc,
            message_hash=message.hash,
            after_lt=after_lt,
        )

    def sign_batch(
        self,
        batch: Batch,  # noqa: ARG002 - Sender
        messages: Sequence[OutMessage],
        *,
        key: Ed25519PrivateKey,
        state: AccountState,
        books: Books,
    ) -> SignedMessage:
        """Sign a batch under the query id after the last one taken; see `billing.ton.sender.Sender`."""
        last = last_taken(books, self.address)
        return self.sign(
            messages,
            key=key,
            query_id=query_id_of(0 if last is None else number_of(last.query_id) + 1),
            created_at=state.head.time - BACKDATE_S,
            after_lt=state.last_lt,
            deploy=state.status is not AccountStatus.ACTIVE,
        )

    def is_void(self, message: SignedMessage, state: AccountState) -> bool:  # noqa: ARG002 - Sender
        """A message of this wallet can be executed until it expires."""
        return False

    def is_settlement(self, taken: Transaction) -> bool:
        """See `billing.ton.sender.Sender`: by the query id in the signed order."""
        message = taken.incoming
        if message is None or message.internal:
            return False
        order = message.body.refs[0].begin_parse()  # the wallet took it, so it has this layout
        query_id = order.skip_bits(32 + 8).load_uint(23)
        return bool(query_id >> 10 < SETTLEMENT_SHIFTS)

    def claim_proof(self, payee: bytes, state: AccountState) -> ClaimProof:  # noqa: ARG002 - Sender
        """Nobody can claim from a wallet. Raises NothingToClaimError."""
        raise NothingToClaimError(format_address(payee), "the treasury is a highload wallet, only a vault takes claims")

    def paying(self, taken: Transaction, recent: Sequence[Transaction]) -> Transaction | None:
        """The wallet pays in the transaction of its message to itself."""
        if not taken.outgoing:  # it could not even afford that one
            return taken
        transfer = taken.outgoing[0].hash
        return next((t for t in recent if t.incoming and t.incoming.hash == transfer), None)

    def funds_needed(self, messages: Sequence[OutMessage]) -> Nanotons:
        """What the wallet must hold before the batch is sent: all amounts, and fees with room to spare."""
        return Nanotons(self._attached(messages) + TRANSFER_FEE)

    def is_processed(self, state: AccountState, query_id: int) -> bool:
        """Whether the wallet's proved state remembers this query id.

        It remembers for at least `timeout_s` and at most three times as long; False later proves nothing.

        Raises:
            WrongContractError: the account is no such wallet.
        """
        if state.status in {AccountStatus.ABSENT, AccountStatus.UNINITIALISED}:
            return False
        if state.code is None or state.data is None or state.code.hash != CODE_HASH:
            raise WrongContractError(str(state.address), "not a highload wallet v3")
        data = state.data.begin_parse().skip_bits(256 + 32)
        dictionaries = [data.load_ref() for _ in range(2) if data.load_bit()]
        return any(_has_query(dictionary, query_id) for dictionary in dictionaries)

    def _attached(self, messages: Sequence[OutMessage]) -> int:
        return sum(message.amount + ACTION_FEE for message in messages) + TRANSFER_FEE

    def _transfer(self, messages: Sequence[OutMessage], query_id: int) -> Cell:
        """The internal message of the wallet to itself, with the payments in its body."""
        head = internal_header(self.address, self._attached(messages), bounce=False)
        return (
            head.store_bit(0)  # no state init
            .store_bit(0)  # body inline: the root cell of a message costs no forward fee
            .store_uint(OP_INTERNAL_TRANSFER, 32)
            .store_uint(query_id, 64)
            .store_ref(action_list(messages))
            .end_cell()
        )


def treasury_wallet(public_key: bytes, network_id: int, *, timeout_s: int = TIMEOUT_S) -> HighloadWallet:
    """The operator's wallet on a network."""
    return HighloadWallet(public_key=public_key, subwallet_id=subwallet_id_of(network_id), timeout_s=timeout_s)


def _has_query(dictionary: Cell, query_id: int) -> bool:
    shift, bit = query_id >> 10, query_id & 1023
    leaf = lookup(dictionary, shift, 13)
    if leaf is None:
        return False
    bits = leaf.load_ref().begin_parse()
    return bool(bits.skip_bits(bit).preload_bit())
