"""The lies a simulated host can be made to tell."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """One way for a host to be wrong or to lie."""

    DEBUG_GUEST = "debug-guest"  # the owner can read the guest's memory
    FOREIGN_MEASUREMENT = "foreign-measurement"  # another image runs
    WRONG_NONCE = "wrong-nonce"  # signs a nonce of its own
    REPLAYED_QUOTE = "replayed-quote"  # an old CPU report under a fresh transcript
    SWAPPED_KEYS = "swapped-keys"  # puts its own HPKE key in after signing
    MISSING_GPU = "missing-gpu"  # leaves out one report
    FOREIGN_GPU = "foreign-gpu"  # one GPU is no vendor's
    SWAPPED_GPU_REPORT = "swapped-gpu-report"  # one report is replaced after signing
    REORDERED_GPUS = "reordered-gpus"  # reports in another order than signed
    DOUBLED_GPU = "doubled-gpu"  # the first GPU also answers for the last
    CC_OFF = "cc-off"  # last GPU outside confidential-computing mode
    CC_DEVTOOLS = "cc-devtools"  # last GPU in developer-tools mode
    STALE_COLLATERAL = "stale-collateral"  # endorsements have expired
    OUT_OF_DATE_TCB = "out-of-date-tcb"  # old firmware
    REVOKED_KEY = "revoked-key"  # the vendor revoked the platform's key

    MEMORY_ALIASES = "memory-aliases"  # SEV-SNP: the firmware did not look for two addresses of one memory cell
    MASKED_CHIP = "masked-chip"  # SEV-SNP: the host hides which processor it is
    LOWER_PRIVILEGE = "lower-privilege"  # SEV-SNP: something in the guest that it does not trust asked for the report

    MISSING_FIRMWARE_EVENT = "missing-firmware-event"  # leaves one event out of the firmware's log
    EDITED_FIRMWARE_EVENT = "edited-firmware-event"  # another digest in the firmware's log
    RENAMED_FIRMWARE_EVENT = "renamed-firmware-event"  # other words in the firmware's log beside the same digest
    NO_FIRMWARE_LOG = "no-firmware-log"  # leaves the firmware's log out
    UNLOGGED_EXTENSION = "unlogged-extension"  # RTMR3 extended, nothing in the log
    UNEXTENDED_ENTRY = "unextended-entry"  # an entry in the log, RTMR3 not extended
    REORDERED_LOG = "reordered-log"  # the log in another order than extended
    SHORTENED_LOG = "shortened-log"  # the log without its last entry
    FOREIGN_LOG = "foreign-log"  # the log of another host
    OTHER_ENGINE = "other-engine"  # logged another engine than the transcript names
    SECOND_ENGINE = "second-engine"  # logged another engine beside the one that the transcript names
    UNNAMED_MODEL = "unnamed-model"  # logged a model that the transcript does not name
    UNLOGGED_MODEL = "unlogged-model"  # the transcript names models that were never logged
    UNALLOWED_BUNDLE = "unallowed-bundle"  # logged a job's code


NEEDS_GPUS = {
    Fault.MISSING_GPU: 1,
    Fault.FOREIGN_GPU: 1,
    Fault.SWAPPED_GPU_REPORT: 1,
    Fault.CC_OFF: 1,
    Fault.CC_DEVTOOLS: 1,
    Fault.REORDERED_GPUS: 2,
    Fault.DOUBLED_GPU: 2,
}

SNP_FAULTS = frozenset({Fault.MEMORY_ALIASES, Fault.MASKED_CHIP, Fault.LOWER_PRIVILEGE})
FIRMWARE_LOG_FAULTS = frozenset(
    {
        Fault.MISSING_FIRMWARE_EVENT,
        Fault.EDITED_FIRMWARE_EVENT,
        Fault.RENAMED_FIRMWARE_EVENT,
        Fault.NO_FIRMWARE_LOG,
    }
)
RUNTIME_LOG_FAULTS = frozenset(
    {
        Fault.UNLOGGED_EXTENSION,
        Fault.UNEXTENDED_ENTRY,
        Fault.REORDERED_LOG,
        Fault.SHORTENED_LOG,
        Fault.FOREIGN_LOG,
        Fault.OTHER_ENGINE,
        Fault.SECOND_ENGINE,
        Fault.UNNAMED_MODEL,
        Fault.UNLOGGED_MODEL,
        Fault.UNALLOWED_BUNDLE,
    }
)
