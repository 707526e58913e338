"""Why billing says no, and why it could not ask.

BillingError                        asked, and the answer is no; asking again changes nothing
├── MalformedRecordError            bytes that are not a grant, receipt, lease request or journal record
├── BadSignatureError               the signature is not by the key that had to sign
├── LedgerError
│   ├── InsufficientFundsError      the account holds less than the hold needs
│   ├── UnknownLeaseError           no hold was ever placed for this lease
│   ├── LeaseClosedError            the hold has ended already
│   ├── LeaseOpenError              the hold may not end yet
│   ├── LeaseExpiredError           too late for this lease
│   ├── ReceiptConflictError        the request was already paid for by another receipt
│   ├── ReceiptMismatchError        the receipt names another account, host, model or payee than the grant
│   ├── PriceMismatchError          the price is not what tariff and usage give
│   ├── SliceExceededError          the host's credit slice does not cover the price
│   ├── UnknownPayoutError          the batch holds no such unpaid payout
│   ├── EntryConflictError          the entry id was used for something else
│   ├── UnbalancedEntryError        the postings do not sum to zero
│   └── OverdraftError              an account that may not go below zero would
├── ChannelError                    about a payment channel
│   ├── ChannelMismatchError        the voucher is for another payment channel
│   ├── VoucherNotLaterError        a voucher of the same or more was seen already
│   ├── VoucherNotCoveredError      the deposit cannot pay it, whatever the client does meanwhile
│   ├── CreditExceededError         neither vouchers nor credit cover what is asked
│   ├── OverbilledError             the operator asks for more than the bill and what may be paid ahead
│   ├── StaleDepositError           the deposit was proved too long ago: the client may have taken it since
│   ├── VoucherNeededError          served up to the last voucher; a higher one has to be signed
│   ├── ChannelEndingError          the payment channel is being closed, or is closed
│   ├── ChannelTermsError           the operator takes no payment channel of these terms
│   └── ChannelRefusesError         the contract would refuse what is asked; nothing was sent
├── JournalError
│   ├── JournalBusyError            another process has the journal open
│   ├── JournalLostError            the database does not answer, or has another writer by now
│   ├── JournalPlaceError           where the books are to be kept is not usable as it was named
│   └── CorruptJournalError         the stored chain of checksums does not hold
├── StatementError
│   ├── PriceFileError              the file of prices is not one, or does not say what is asked
│   └── MissingPriceError           the file has no price for a day with a movement
├── SettlementError
│   ├── WrongBatchStateError        the event does not fit the batch's state
│   ├── PrematureExpiryError        the old message could still be executed
│   ├── BooksRolledBackError        the chain knows a later epoch than the books
│   ├── SecondWriterError           the treasury executed what these books never signed
│   ├── NothingToClaimError         the vault's root in force entitles this payee to nothing
│   ├── StaleClaimError             the claim proof is not for the root in force
│   └── MissingEntitlementsError    the leaves behind the vault's root are not in the operator's folder
├── KeyFileError                    about a file that holds a key, or a password
│   ├── MalformedKeyFileError       it is not of the format
│   ├── ExposedKeyFileError         others can read it
│   ├── KeyFileUnreadableError      it is not there, or cannot be written
│   ├── KeyFileExistsError          a key stands there already, and is never overwritten
│   ├── WrongPasswordError          the password does not open it
│   ├── WeakPasswordError           the password is too short
│   ├── PasswordNeededError         it is sealed, and nothing says where its password is
│   └── PlainKeyRefusedError        it is not encrypted where it has to be
├── TransferError                   about a transfer that somebody asked for
│   ├── BadAddressError             no address, or one of another network
│   ├── BadAmountError              no amount that can be sent
│   ├── BalanceTooLowError          the wallet holds less than amount and fees
│   ├── BadRequestFileError         the request file is damaged, out of date, or for another wallet or network
│   │   └── DeadRequestError        it was not executed, and never can be
│   ├── PendingTransferError        an earlier transfer of this wallet has not been seen to its end
│   └── TransferSkippedError        the wallet took the message, and did not make the transfer
├── ProofRejectedError              a chain answer whose proof does not hold
├── ChainsDisagreeError             two lite-servers show different blocks of one number
├── WrongContractError              the account is not the contract it should be
├── UnknownOperatorError            the registry names no such operator
├── WrongNetworkError               the lite-server serves another network
└── MessageRejectedError            the chain refused the message

ChainError                          could not ask; retry may help
├── ChainUnreachableError           no answer from the lite-server
├── StaleChainError                 the newest block it shows is too old, or older than one seen before
└── SendOutcomeUnknownError         sent, but whether it arrived is not known: look before any resend

Arguments are handed to `super().__init__` whole and the text is built in `__str__`, so that every error crosses a
process boundary by pickling.
"""

from __future__ import annotations


class BillingError(Exception):
    """The request is refused; the books are unchanged."""


class MalformedRecordError(BillingError):
    """The bytes do not form the record they should be."""

    def __init__(self, record: str, why: str) -> None:
        super().__init__(record, why)
        self.record = record
        self.why = why

    def __str__(self) -> str:
        return f"malformed {self.record}: {self.why}"


class BadSignatureError(BillingError):
    """The record is not signed by the key that had to sign it."""

    def __init__(self, record: str, signer: str) -> None:
        super().__init__(record, signer)
        self.record = record
        self.signer = signer

    def __str__(self) -> str:
        return f"the {self.record} is not signed by key {self.signer}"


class LedgerError(BillingError):
    """The ledger refuses the entry."""


class InsufficientFundsError(LedgerError):
    """The account holds less than what is asked of it."""

    def __init__(self, account: str, available: int, needed: int) -> None:
        super().__init__(account, available, needed)
        self.account = account
        self.available = available
        self.needed = needed

    def __str__(self) -> str:
        return (
            f"{self.account} has {self.available} nanoton, {self.needed} needed: "
            f"deposit at least {self.needed - self.available} more"
        )


class _LeaseError(LedgerError):
    """A refusal about one lease, named in hex."""

    text = "{lease}"

    def __init__(self, lease: str) -> None:
        super().__init__(lease)
        self.lease = lease

    def __str__(self) -> str:
        return self.text.format(lease=self.lease)


class UnknownLeaseError(_LeaseError):
    """No hold was ever placed for this lease."""

    text = "no hold exists for lease {lease}: take a lease first"


class LeaseClosedError(_LeaseError):
    """The lease's hold has ended; its rest went back to the client."""

    text = "the hold of lease {lease} has ended already: take a new lease"


class LeaseOpenError(LedgerError):
    """The hold may not end yet: its hosts may still hold unposted receipts."""

    def __init__(self, lease: str, until: int) -> None:
        super().__init__(lease, until)
        self.lease = lease
        self.until = until

    def __str__(self) -> str:
        return f"lease {self.lease} may be released from unix time {self.until} on, not before"


class LeaseExpiredError(LedgerError):
    """The lease expired before this happened."""

    def __init__(self, lease: str, expired_at: int, at: int) -> None:
        super().__init__(lease, expired_at, at)
        self.lease = lease
        self.expired_at = expired_at
        self.at = at

    def __str__(self) -> str:
        return f"lease {self.lease} ended at unix time {self.expired_at}, this is of {self.at}: take a new lease"


class ReceiptConflictError(LedgerError):
    """One request is paid once; this is a second, different receipt for it."""

    def __init__(self, request_hash: str) -> None:
        super().__init__(request_hash)
        self.request_hash = request_hash

    def __str__(self) -> str:
        return f"request {self.request_hash} was already paid for by another receipt"


class ReceiptMismatchError(LedgerError):
    """The receipt does not belong to the lease it names."""

    def __init__(self, field: str, got: str, expected: str) -> None:
        super().__init__(field, got, expected)
        self.field = field
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the receipt's {self.field} is {self.got}, its lease has {self.expected}"


class PriceMismatchError(LedgerError):
    """The price is not the one that tariff, coefficient and usage give."""

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(got, expected)
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the receipt asks {self.got} nanoton, tariff and usage give {self.expected}"


class SliceExceededError(LedgerError):
    """The host's credit slice does not cover the price."""

    def __init__(self, host: str, left: int, price: int) -> None:
        super().__init__(host, left, price)
        self.host = host
        self.left = left
        self.price = price

    def __str__(self) -> str:
        return f"host {self.host} has {self.left} nanoton left of its slice, the receipt asks {self.price}"


class UnknownPayoutError(LedgerError):
    """The batch has no such payout that is neither paid nor requeued."""

    def __init__(self, batch: str, payee: str) -> None:
        super().__init__(batch, payee)
        self.batch = batch
        self.payee = payee

    def __str__(self) -> str:
        return f"batch {self.batch} holds no open payout to {self.payee}"


class EntryConflictError(LedgerError):
    """The id names an entry with other content."""

    def __init__(self, entry: str) -> None:
        super().__init__(entry)
        self.entry = entry

    def __str__(self) -> str:
        return f"entry id {self.entry} was used for other content"


class UnbalancedEntryError(LedgerError):
    """Postings that create or destroy money."""

    def __init__(self, entry: str, total: int) -> None:
        super().__init__(entry, total)
        self.entry = entry
        self.total = total

    def __str__(self) -> str:
        return f"the postings of {self.entry} sum to {self.total}, they must sum to 0"


class OverdraftError(LedgerError):
    """An account that may not go below zero would."""

    def __init__(self, entry: str, account: str, balance: int) -> None:
        super().__init__(entry, account, balance)
        self.entry = entry
        self.account = account
        self.balance = balance

    def __str__(self) -> str:
        return f"{self.entry} would leave {self.account} at {self.balance} nanoton"


class ChannelError(BillingError):
    """The payment channel's rules refuse it."""


class ChannelMismatchError(ChannelError):
    """The voucher is for another payment channel, or another network."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(got, expected)
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the voucher is for payment channel {self.got}, this is {self.expected}"


class VoucherNotLaterError(ChannelError):
    """A voucher of the same or more was seen already."""

    def __init__(self, total: int, seen: int) -> None:
        super().__init__(total, seen)
        self.total = total
        self.seen = seen

    def __str__(self) -> str:
        return f"the voucher is of {self.total} nanoton in all, one of {self.seen} was seen before"


class VoucherNotCoveredError(ChannelError):
    """The deposit cannot pay the voucher, whatever the client does meanwhile."""

    def __init__(self, total: int, covered: int) -> None:
        super().__init__(total, covered)
        self.total = total
        self.covered = covered

    def __str__(self) -> str:
        return (
            f"the voucher is of {self.total} nanoton in all, the payment channel covers {self.covered}: "
            f"deposit at least {self.total - self.covered} more"
        )


class CreditExceededError(ChannelError):
    """Neither vouchers nor credit cover what is asked."""

    def __init__(self, asked: int, left: int) -> None:
        super().__init__(asked, left)
        self.asked = asked
        self.left = left

    def __str__(self) -> str:
        return (
            f"{self.asked} nanoton asked, vouchers and credit cover {self.left} more: "
            f"sign a voucher of at least {self.asked - self.left} more"
        )


class OverbilledError(ChannelError):
    """The operator asks for a voucher above the bill and what may be paid ahead."""

    def __init__(self, asked: int, payable: int) -> None:
        super().__init__(asked, payable)
        self.asked = asked
        self.payable = payable

    def __str__(self) -> str:
        return f"a voucher of {self.asked} nanoton in all is asked, receipts and advance come to {self.payable}"


class StaleDepositError(ChannelError):
    """The deposit was proved too long ago: the client may have taken it since."""

    def __init__(self, good_until: int, now: int) -> None:
        super().__init__(good_until, now)
        self.good_until = good_until
        self.now = now

    def __str__(self) -> str:
        return (
            f"the deposit was safe until unix time {self.good_until}, it is {self.now}: read the payment channel again"
        )


class VoucherNeededError(ChannelError):
    """The client was served up to its last voucher."""

    def __init__(self, asked: int, signed: int) -> None:
        super().__init__(asked, signed)
        self.asked = asked
        self.signed = signed

    def __str__(self) -> str:
        return f"vouchers of {self.signed} nanoton in all are used up or held: sign one of at least {self.asked} in all"


class ChannelEndingError(ChannelError):
    """The client has announced to close the payment channel, or it is closed."""

    def __init__(self, channel: str, status: str) -> None:
        super().__init__(channel, status)
        self.channel = channel
        self.status = status

    def __str__(self) -> str:
        return f"payment channel {self.channel} is {self.status}: cancel that, or open another one with a new nonce"


class ChannelTermsError(ChannelError):
    """The operator does not take this payment channel, whatever is deposited in it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the operator takes no voucher of this payment channel: {self.why}"


class ChannelRefusesError(ChannelError):
    """The contract would refuse what is asked; nothing was sent."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the payment channel would refuse this: {self.why}"


class JournalError(BillingError):
    """The journal cannot be used as it is."""


class JournalBusyError(JournalError):
    """Another process has the journal open."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is open in another process: stop that one first, two writers would lose entries"


class JournalLostError(JournalError):
    """The writer has lost its journal; whether the last records were written is not known."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(place, why)
        self.place = place
        self.why = why

    def __str__(self) -> str:
        return f"the journal in {self.place} is lost ({self.why}): open it anew, the books are what it says then"


class JournalPlaceError(JournalError):
    """The address of a journal is not one, or what it needs is missing."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(place, why)
        self.place = place
        self.why = why

    def __str__(self) -> str:
        return f"books cannot be kept in {self.place}: {self.why}"


class CorruptJournalError(JournalError):
    """The journal's chain of checksums breaks, or its file is damaged."""

    def __init__(self, path: str, after: int, why: str) -> None:
        super().__init__(path, after, why)
        self.path = path
        self.after = after
        self.why = why

    def __str__(self) -> str:
        return (
            f"{self.path} is damaged after record {self.after} ({self.why}): restore a backup, "
            "or call repair_journal to keep the valid prefix"
        )


class StatementError(BillingError):
    """The statement cannot be made as it was asked for."""


class PriceFileError(StatementError):
    """The file of prices is not one."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(line, why)
        self.line = line
        self.why = why

    def __str__(self) -> str:
        return f"the file of prices, line {self.line}: {self.why}"


class MissingPriceError(StatementError):
    """A day has movements and no price."""

    def __init__(self, currency: str, day: str) -> None:
        super().__init__(currency, day)
        self.currency = currency
        self.day = day

    def __str__(self) -> str:
        return f"there is no price in {self.currency} of {self.day}: add it, nothing is guessed"


class SettlementError(BillingError):
    """The settlement batch refuses the event."""


class WrongBatchStateError(SettlementError):
    """The event does not fit the batch's state."""

    def __init__(self, batch: str, state: str, event: str) -> None:
        super().__init__(batch, state, event)
        self.batch = batch
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"batch {self.batch} is {self.state}: {self.event} does not fit"


class PrematureExpiryError(SettlementError):
    """The batch's message could still be executed, or was not looked for everywhere."""

    def __init__(self, batch: str, why: str) -> None:
        super().__init__(batch, why)
        self.batch = batch
        self.why = why

    def __str__(self) -> str:
        return f"batch {self.batch} is not proved to be dead: {self.why}; paying it again could pay twice"


class BooksRolledBackError(SettlementError):
    """The registry holds an epoch these books never anchored: they are an old copy, or not the operator's only ones."""

    def __init__(self, chain_epoch: int, books_epoch: int) -> None:
        super().__init__(chain_epoch, books_epoch)
        self.chain_epoch = chain_epoch
        self.books_epoch = books_epoch

    def __str__(self) -> str:
        return (
            f"epoch {self.chain_epoch} is anchored on the chain, these books end at {self.books_epoch}: "
            "paying from an old copy could pay twice; restore the newest journal"
        )


class SecondWriterError(SettlementError):
    """The treasury executed a settlement message that these books never signed: somebody else writes with its key."""

    def __init__(self, message_hash: str, lt: int) -> None:
        super().__init__(message_hash, lt)
        self.message_hash = message_hash
        self.lt = lt

    def __str__(self) -> str:
        return (
            f"the treasury executed message {self.message_hash} (logical time {self.lt}), which these books never "
            "signed: they are an old copy, or another program pays with the same key. Nothing is booked or sent; stop "
            "the other one and restore the newest journal. If the key was stolen, replace it first, then write this "
            "hash into settlement.acknowledged: its payments are then booked as the operator's own"
        )


class NothingToClaimError(SettlementError):
    """The vault's root in force entitles this payee to nothing, or the treasury takes no claims."""

    def __init__(self, payee: str, why: str) -> None:
        super().__init__(payee, why)
        self.payee = payee
        self.why = why

    def __str__(self) -> str:
        return f"{self.payee} has nothing to claim: {self.why}"


class MissingEntitlementsError(SettlementError):
    """The leaves behind the vault's root are not in the operator's folder."""

    def __init__(self, root: str, folder: str) -> None:
        super().__init__(root, folder)
        self.root = root
        self.folder = folder

    def __str__(self) -> str:
        return (
            f"{self.folder} lacks the entitlements of root {self.root}: restore it, or let the next order anchor anew"
        )


class StaleClaimError(SettlementError):
    """The claim proof leads to another root than the one in force."""

    def __init__(self, root: str, in_force: str) -> None:
        super().__init__(root, in_force)
        self.root = root
        self.in_force = in_force

    def __str__(self) -> str:
        return (
            f"the proof is for root {self.root}, the vault holds {self.in_force}: fetch a newer proof; "
            "what the old one promised was either paid out since or stands in the new one"
        )


class KeyFileError(BillingError):
    """A key cannot be had from its file."""


class MalformedKeyFileError(KeyFileError):
    """The file is not of the format; the text never shows what it holds."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"not a key file of docs/KEYS.md: {self.why}"


class ExposedKeyFileError(KeyFileError):
    """Others can read the file."""

    def __init__(self, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self.path = path
        self.mode = mode

    def __str__(self) -> str:
        return f"{self.path} has mode {self.mode}, others could read it: run chmod 600 {self.path}"


class KeyFileUnreadableError(KeyFileError):
    """The file is not there, or cannot be read or written."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


class KeyFileExistsError(KeyFileError):
    """Something stands where a new key should go; keys are never overwritten."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} exists, and keys are never overwritten: choose another name"


class WrongPasswordError(KeyFileError):
    """The password is another one, or the file was changed; the two cannot be told apart."""

    def __str__(self) -> str:
        return "the password does not open this key file (or the file is damaged): try again, or use a copy"


class WeakPasswordError(KeyFileError):
    """The password is too short."""

    def __init__(self, size_min: int) -> None:
        super().__init__(size_min)
        self.size_min = size_min

    def __str__(self) -> str:
        return f"a password has at least {self.size_min} bytes: use several words"


class PasswordNeededError(KeyFileError):
    """The file is sealed, and nothing says where its password is."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is protected by a password: name its password_file (--password-file)"


class PlainKeyRefusedError(KeyFileError):
    """The file is not encrypted, where money is real or a password was named."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is not encrypted: run chrysalis wallet rotate-password {self.path}"


class TransferError(BillingError):
    """The transfer that was asked for cannot be made."""


class BadAddressError(TransferError):
    """The text is no address, or one of another network."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(text, why)
        self.text = text
        self.why = why

    def __str__(self) -> str:
        return f"{self.text[:80]!r} cannot be used as an address: {self.why}"


class BadAmountError(TransferError):
    """The text is no amount that can be sent."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(text, why)
        self.text = text
        self.why = why

    def __str__(self) -> str:
        return f"{self.text[:40]!r} cannot be used as an amount: {self.why}"


class BalanceTooLowError(TransferError):
    """The wallet holds less than amount and fees."""

    def __init__(self, balance: int, amount: int, fee: int) -> None:
        super().__init__(balance, amount, fee)
        self.balance = balance
        self.amount = amount
        self.fee = fee

    def __str__(self) -> str:
        return (
            f"the wallet holds {self.balance} nanoton, {self.amount} and fees of up to {self.fee} are needed: "
            f"send at least {self.amount + self.fee - self.balance} more to it"
        )


class BadRequestFileError(TransferError):
    """A request file is damaged, out of date, or for another wallet or network."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the request file cannot be used: {self.why}"


class DeadRequestError(BadRequestFileError):
    """The request was not executed, and never can be; its money may be sent by a new one."""


class PendingTransferError(TransferError):
    """An earlier transfer of this wallet has not been seen to its end; another one might pay twice."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"an earlier transfer of this wallet is not finished: run chrysalis wallet send {self.path}, "
            "which sends the same bytes again or finds what became of them"
        )


class TransferSkippedError(TransferError):
    """The wallet took the message, and left out a transfer: it held too little by then."""

    def __init__(self, transaction: str, made: int, asked: int) -> None:
        super().__init__(transaction, made, asked)
        self.transaction = transaction
        self.made = made
        self.asked = asked

    def __str__(self) -> str:
        return (
            f"transaction {self.transaction} made {self.made} of {self.asked} transfers: "
            "the rest of the money is still in the wallet; send what is missing again"
        )


class ProofRejectedError(BillingError):
    """A chain answer whose proof does not hold."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why

    def __str__(self) -> str:
        return f"the proof of {self.what} does not hold: {self.why}"


class ChainsDisagreeError(BillingError):
    """Two lite-servers show different blocks of one number: one of them lies, or they serve two networks."""

    def __init__(self, seqno: int, first: str, second: str) -> None:
        super().__init__(seqno, first, second)
        self.seqno = seqno
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"masterchain block {self.seqno} is {self.first} for the first lite-server, {self.second} for the second: "
            "nothing is booked or sent; find out which of them is right before going on"
        )


class MessageRejectedError(BillingError):
    """The chain refused the message; it has no effect."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the chain refused the message: {self.why}"


class ChainError(Exception):
    """The chain could not be asked; retry may help."""


class ChainUnreachableError(ChainError):
    """No usable answer from the lite-server."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why

    def __str__(self) -> str:
        return f"{self.what}: the lite-server gave no answer ({self.why})"


class SendOutcomeUnknownError(ChainError):
    """A message was sent and whether it arrived is not known."""

    def __init__(self, message_hash: str, why: str) -> None:
        super().__init__(message_hash, why)
        self.message_hash = message_hash
        self.why = why

    def __str__(self) -> str:
        return f"message {self.message_hash} may or may not have arrived ({self.why}): look on the chain first"


class WrongContractError(BillingError):
    """The account is not the contract it should be, or not on this network."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why

    def __str__(self) -> str:
        return f"{self.address} is not the expected contract ({self.why}): check the configured address"


class UnknownOperatorError(BillingError):
    """The registry names no such operator, or several, or one that does not do what is asked of it."""

    def __init__(self, why: str, known: tuple[str, ...]) -> None:
        super().__init__(why, known)
        self.why = why
        self.known = known

    def __str__(self) -> str:
        return f"{self.why}; the registry names: {'; '.join(self.known) or 'nobody'}"


class WrongNetworkError(BillingError):
    """The lite-server serves another network than the configuration names."""

    def __init__(self, got: int, expected: int) -> None:
        super().__init__(got, expected)
        self.got = got
        self.expected = expected

    def __str__(self) -> str:
        return f"the lite-server serves network {self.got}, the configuration names {self.expected}: check both"


class StaleChainError(ChainError):
    """The newest block the lite-server shows cannot be the newest one."""

    def __init__(self, seqno: int, why: str) -> None:
        super().__init__(seqno, why)
        self.seqno = seqno
        self.why = why

    def __str__(self) -> str:
        return f"masterchain block {self.seqno} is not current ({self.why}): ask another lite-server or check the clock"
