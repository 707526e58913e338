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
│   ├── UnknownReviewError          a verdict credits a copy whose receipt the books do not have
│   ├── VerdictConflictError        the unit or a copy of it has another verdict, which is final
│   ├── VerdictRefusedError         the verdict refuses what it may not
│   ├── VerdictLateError            a copy that the verdict refuses was paid already
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
│   ├── JournalMovedError           the books were moved away from here
│   ├── BooksDifferError            a copy of books is not what was copied
│   └── CorruptJournalError         the stored chain of checksums does not hold
├── StatementError
│   ├── StatementMismatchError      what was fetched is not what was asked for, or its sums and receipts do not hold
│   ├── StatementRefusedError       the operator's gateway gives none
│   ├── StatementTooLongError       one answer cannot carry it: ask for a shorter period
│   ├── NoStatementError            the books know nothing of this party
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

from billing.errors.chain import (
    ChainError,
    ChainsDisagreeError,
    ChainUnreachableError,
    MessageRejectedError,
    ProofRejectedError,
    SendOutcomeUnknownError,
    StaleChainError,
    UnknownOperatorError,
    WrongContractError,
    WrongNetworkError,
)
from billing.errors.channel import (
    ChannelEndingError,
    ChannelError,
    ChannelMismatchError,
    ChannelRefusesError,
    ChannelTermsError,
    CreditExceededError,
    OverbilledError,
    StaleDepositError,
    VoucherNeededError,
    VoucherNotCoveredError,
    VoucherNotLaterError,
)
from billing.errors.journal import (
    BooksDifferError,
    CorruptJournalError,
    JournalBusyError,
    JournalError,
    JournalLostError,
    JournalMovedError,
    JournalPlaceError,
)
from billing.errors.keys import (
    ExposedKeyFileError,
    KeyFileError,
    KeyFileExistsError,
    KeyFileUnreadableError,
    MalformedKeyFileError,
    PasswordNeededError,
    PlainKeyRefusedError,
    WeakPasswordError,
    WrongPasswordError,
)
from billing.errors.ledger import (
    EntryConflictError,
    InsufficientFundsError,
    LeaseClosedError,
    LeaseExpiredError,
    LeaseOpenError,
    LedgerError,
    OverdraftError,
    PriceMismatchError,
    ReceiptConflictError,
    ReceiptMismatchError,
    SliceExceededError,
    UnbalancedEntryError,
    UnknownLeaseError,
    UnknownPayoutError,
    UnknownReviewError,
    VerdictConflictError,
    VerdictLateError,
    VerdictRefusedError,
)
from billing.errors.root import BadSignatureError, BillingError, MalformedRecordError
from billing.errors.settlement import (
    BooksRolledBackError,
    MissingEntitlementsError,
    NothingToClaimError,
    PrematureExpiryError,
    SecondWriterError,
    SettlementError,
    StaleClaimError,
    WrongBatchStateError,
)
from billing.errors.statement import (
    MissingPriceError,
    NoStatementError,
    PriceFileError,
    StatementError,
    StatementMismatchError,
    StatementRefusedError,
    StatementTooLongError,
)
from billing.errors.transfer import (
    BadAddressError,
    BadAmountError,
    BadRequestFileError,
    BalanceTooLowError,
    DeadRequestError,
    PendingTransferError,
    TransferError,
    TransferSkippedError,
)

__all__ = [
    "BadAddressError",
    "BadAmountError",
    "BadRequestFileError",
    "BadSignatureError",
    "BalanceTooLowError",
    "BillingError",
    "BooksDifferError",
    "BooksRolledBackError",
    "ChainError",
    "ChainUnreachableError",
    "ChainsDisagreeError",
    "ChannelEndingError",
    "ChannelError",
    "ChannelMismatchError",
    "ChannelRefusesError",
    "ChannelTermsError",
    "CorruptJournalError",
    "CreditExceededError",
    "DeadRequestError",
    "EntryConflictError",
    "ExposedKeyFileError",
    "InsufficientFundsError",
    "JournalBusyError",
    "JournalError",
    "JournalLostError",
    "JournalMovedError",
    "JournalPlaceError",
    "KeyFileError",
    "KeyFileExistsError",
    "KeyFileUnreadableError",
    "LeaseClosedError",
    "LeaseExpiredError",
    "LeaseOpenError",
    "LedgerError",
    "MalformedKeyFileError",
    "MalformedRecordError",
    "MessageRejectedError",
    "MissingEntitlementsError",
    "MissingPriceError",
    "NoStatementError",
    "NothingToClaimError",
    "OverbilledError",
    "OverdraftError",
    "PasswordNeededError",
    "PendingTransferError",
    "PlainKeyRefusedError",
    "PrematureExpiryError",
    "PriceFileError",
    "PriceMismatchError",
    "ProofRejectedError",
    "ReceiptConflictError",
    "ReceiptMismatchError",
    "SecondWriterError",
    "SendOutcomeUnknownError",
    "SettlementError",
    "SliceExceededError",
    "StaleChainError",
    "StaleClaimError",
    "StaleDepositError",
    "StatementError",
    "StatementMismatchError",
    "StatementRefusedError",
    "StatementTooLongError",
    "TransferError",
    "TransferSkippedError",
    "UnbalancedEntryError",
    "UnknownLeaseError",
    "UnknownOperatorError",
    "UnknownPayoutError",
    "UnknownReviewError",
    "VerdictConflictError",
    "VerdictLateError",
    "VerdictRefusedError",
    "VoucherNeededError",
    "VoucherNotCoveredError",
    "VoucherNotLaterError",
    "WeakPasswordError",
    "WrongBatchStateError",
    "WrongContractError",
    "WrongNetworkError",
    "WrongPasswordError",
]
