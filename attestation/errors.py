"""Why evidence is refused, and what stops us from asking.

AttestationError                    asked, and no: nothing the evidence claims may be used
├── MalformedEvidenceError          the bytes are not what the format says
├── UntrustedRootError              the chain ends in a root the policy does not pin
├── EvidenceSignatureError          a signature or a certificate chain does not verify
├── EndorsementMismatchError        the certificate is for another chip, key or firmware than the report
├── EndorsementExpiredError         collateral, CRL or certificate outside its validity
├── EndorsementRollbackError        a signed list older than one of its series already seen
├── RevokedError                    a certificate, key or platform is revoked or denied
├── TcbStatusError                  firmware is older than the policy allows, or its status is unknown
├── GuestPolicyError                debug, migration, VMPL or other guest settings that weaken it
├── PlatformSettingsError           the machine's settings are not what the policy requires, or cannot be told
├── SigningKeyError                 a genuine key of a kind the policy does not accept signed the report
├── IdentityBlockError              the guest's ID block is not by a key, or for an image, the policy names
├── MeasurementNotAllowedError      the image is not one of the reference values
├── EventLogMismatchError           a log does not explain its registers, or names other things than the transcript
├── EventNotAllowedError            the runtime log names an image configuration or a job's code nobody allowed
├── FreshnessError                  the nonce is not ours, or not in the tree that was signed
├── BindingMismatchError            the CPU report does not name this transcript
├── TlsKeyUnboundError              the attested receipt key did not sign this TLS key and time
├── HostMismatchError               the evidence holds, and is of another host than the one asked for
├── GpuBindingError                 GPUs or switches missing, foreign, doubled, reordered or answering another nonce
├── GpuStateError                   confidential computing off, developer tools, debug, wrong or mixed modes
├── TopologyError                   GPUs and switches do not make up an allowed set, or name others than each other
├── RimMismatchError                GPU or switch measurements without a pinned reference, or against it
├── ModelNotAllowedError            a model manifest root is not one of the reference values
├── EngineNotAllowedError           the engine is not one of those that the policy names
├── RevocationUnknownError          the vendor's responder does not know the certificate, or was not asked
├── TierError                       the evidence holds, and is worth less than the policy requires
└── TransparencyError               the log is refused, or does not allow what is in use
    ├── LogSignatureError           the checkpoint is not signed by the pinned log, or by too few witnesses
    ├── LogStaleError               nobody vouched for the checkpoint lately
    ├── LogProofError               entries or a proof do not lead to the signed root
    ├── LogRollbackError            the checkpoint is of a smaller log than one seen before
    ├── LogSplitViewError           two signed checkpoints contradict each other
    └── NotInLogError               a value in use is not in the log, or was revoked or denied there
LogStoreError                       the files of a log of ours cannot be used
├── LogBusyError                    another process writes to it
└── LogRewrittenError               they contradict the checkpoint that was signed over them
FloorFileError                      the file of what was seen before is damaged; a person must decide
EndorsementFetchError               could not ask a vendor's service, and nothing usable is kept (retry may help)
PolicyError                         the policy itself is unusable (a mistake on our side)
AttesterError                       the local hardware could not make evidence (retry may help)
├── NoRegisterError                 it has no runtime register, so nothing would prove what is to be logged
└── RestartNeededError              runtime log and register differ: only restarting the guest helps
SealedStateError                    state on disk is refused; it is not what this image wrote
├── MalformedSealedStateError       the bytes are not what the layout says
├── ForeignSealError                another image, configuration or chip sealed it
├── SealedStateAlteredError         altered, cut, moved, or taken from another file
└── SealedStateRollbackError        older than the newest the caller knows of
EnvelopeError                       a sealed request or answer is refused
├── MalformedEnvelopeError          the bytes are not what the layout says, or end too early
├── NotRecipientError               no wrap is for this host
├── EnvelopeAuthenticationError     altered, or sealed with another key
├── AccountSignatureError           the account in the header did not sign it
├── EnvelopeExpiredError            past the time its header or lease names
├── LeaseUnknownError               the host has not seen the lease's grant
├── SessionUnknownError             the host does not know the session
├── ReplayError                     received before
└── SessionLimitError               more leases, sessions or requests than a host remembers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from attestation.verdict import Check


class AttestationError(Exception):
    """The evidence is refused; nothing it claims may be used.

    Attributes:
        message: got and expected, in words.
        checks: every check that ran, the failed one last; empty below `attestation.verify`.
    """

    def __init__(self, message: str, checks: tuple[Check, ...] = ()) -> None:
        super().__init__(message, checks)
        self.message = message
        self.checks = checks

    def __str__(self) -> str:
        return self.message

    def with_checks(self, checks: tuple[Check, ...]) -> Self:
        """Return the same refusal carrying these checks."""
        return type(self)(self.message, checks)


class MalformedEvidenceError(AttestationError):
    """The bytes are not what the format says."""


class UntrustedRootError(AttestationError):
    """The certificate chain ends in a root the policy does not pin."""


class EvidenceSignatureError(AttestationError):
    """A signature or a certificate chain does not verify."""


class EndorsementMismatchError(AttestationError):
    """The vendor's certificate is for another chip, key or firmware than the report's."""


class EndorsementExpiredError(AttestationError):
    """Collateral, a revocation list or a certificate is outside its validity."""


class EndorsementRollbackError(AttestationError):
    """Collateral or a revocation list is valid, and older than one of its series already seen."""


class RevokedError(AttestationError):
    """A certificate, key or platform is revoked or on the policy's deny-list."""


class TcbStatusError(AttestationError):
    """Firmware is older than the policy allows, or its status is unknown."""


class GuestPolicyError(AttestationError):
    """The guest runs with settings that open it: debug, migration, wrong privilege level."""


class PlatformSettingsError(AttestationError):
    """The machine's settings are not what the policy requires, or the report cannot tell them."""


class SigningKeyError(AttestationError):
    """A genuine key signed the report, of a kind the policy does not accept."""


class IdentityBlockError(AttestationError):
    """The guest's ID block is not signed by a key, or not for an image, that the policy names."""


class MeasurementNotAllowedError(AttestationError):
    """The guest's image is not one of the reference values."""


class EventLogMismatchError(AttestationError):
    """A log does not replay to its registers, or names other things than the transcript does."""


class EventNotAllowedError(AttestationError):
    """The runtime log names an image configuration or a job's code that the policy does not allow."""


class FreshnessError(AttestationError):
    """The nonce is not ours, or is not in the tree that was signed."""


class BindingMismatchError(AttestationError):
    """The CPU report does not name this transcript."""


class TlsKeyUnboundError(AttestationError):
    """The receipt key in the evidence did not sign the TLS key and the time of its certificate."""


class HostMismatchError(AttestationError):
    """The evidence holds, and is of another host than the one that was asked for."""


class GpuBindingError(AttestationError):
    """GPUs or switches are missing, foreign, doubled, reordered, or answer another nonce."""


class GpuStateError(AttestationError):
    """A GPU has confidential computing off, developer tools on, or another mode than required; or a switch is open."""


class TopologyError(AttestationError):
    """GPUs and switches do not make up an allowed topology, or name others than each other."""


class RimMismatchError(AttestationError):
    """GPU or switch measurements have no pinned reference manifest, or differ from it."""


class ModelNotAllowedError(AttestationError):
    """A model manifest root is not one of the reference values."""


class EngineNotAllowedError(AttestationError):
    """The enclave's engine is not one of those that the policy names."""


class TierError(AttestationError):
    """The evidence holds, and is worth less than the policy requires."""


class RevocationUnknownError(AttestationError):
    """The vendor's responder does not know the certificate, or the policy wants an answer and there is none."""


class TransparencyError(AttestationError):
    """The transparency log is refused, or does not allow what is in use."""


class LogSignatureError(TransparencyError):
    """The checkpoint is not signed by the pinned log, or by fewer witnesses than wanted."""


class LogStaleError(TransparencyError):
    """Log or witnesses vouched for the checkpoint too long ago, or in the future."""


class LogProofError(TransparencyError):
    """Entries, or an inclusion or consistency proof, do not lead to the signed root."""


class LogRollbackError(TransparencyError):
    """The checkpoint is of a smaller log than one seen before."""


class LogSplitViewError(TransparencyError):
    """Two checkpoints that the log signed contradict each other: it shows different pasts."""


class NotInLogError(TransparencyError):
    """A value in use is not in the log, or was revoked or denied there."""


class LogStoreError(Exception):
    """The files of a log of ours cannot be used."""


class LogBusyError(LogStoreError):
    """Another process writes to the log."""


class LogRewrittenError(LogStoreError):
    """The log's files contradict the checkpoint that was signed over them."""


class EndorsementFetchError(Exception):
    """A vendor's service could not be asked, and nothing usable is kept; asking again may help."""


class FloorFileError(Exception):
    """The file that says how new vendors' lists have been cannot be used; forgetting it is a person's decision."""


class PolicyError(ValueError):
    """The appraisal policy is unusable: unknown key, empty, or mixing trust domains."""


class AttesterError(Exception):
    """The local hardware could not make evidence; asking again may help."""


class NoRegisterError(AttesterError):
    """The hardware has no runtime register: nothing would prove what is to be logged; another kind of host can."""


class RestartNeededError(AttesterError):
    """The guest's runtime log and its register differ, or may: only restarting the guest helps."""


class SealedStateError(Exception):
    """State on disk is refused: it is not what this image, configuration and chip wrote last."""


class MalformedSealedStateError(SealedStateError):
    """The bytes are not what the layout says."""


class ForeignSealError(SealedStateError):
    """Another image, configuration or chip sealed it, or this one for another purpose."""


class SealedStateAlteredError(SealedStateError):
    """A record was altered, cut, moved, or taken from another file."""


class SealedStateRollbackError(SealedStateError):
    """The state is older than the newest one the caller knows of."""


class EnvelopeError(Exception):
    """A sealed request or answer is refused; none of its content may be used."""


class MalformedEnvelopeError(EnvelopeError):
    """The bytes are not what the layout says, or end too early."""


class NotRecipientError(EnvelopeError):
    """No wrap of the request is for this host."""


class EnvelopeAuthenticationError(EnvelopeError):
    """Bytes were altered, or sealed with another key."""


class AccountSignatureError(EnvelopeError):
    """The account named in the header did not sign the request or the session's opening."""


class EnvelopeExpiredError(EnvelopeError):
    """The request came after the time that its header or its lease names."""


class LeaseUnknownError(EnvelopeError):
    """The host has not seen the grant of this lease."""


class SessionUnknownError(EnvelopeError):
    """The host does not know the session: it restarted, or never received the opening."""


class ReplayError(EnvelopeError):
    """The request was received before, or is older than the session's window."""


class SessionLimitError(EnvelopeError):
    """More leases, sessions or single requests than a host remembers."""
