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
    ALTERED_GPU_FIRMWARE = (
        "altered-gpu-firmware"  # last GPU runs firmware that no manifest describes, debug firmware say
    )
    MIXED_MODES = "mixed-modes"  # last GPU in the mode of several with encrypted links
    GPU_OF_A_SET = "gpu-of-a-set"  # the GPUs, in protected PCIe, without any switch

    MISSING_SWITCH = "missing-switch"  # leaves out one switch report
    UNNAMED_SWITCH = "unnamed-switch"  # one switch is never asked, and not named
    EXTRA_SWITCH = "extra-switch"  # one genuine switch too many
    FOREIGN_SWITCH = "foreign-switch"  # one switch is no vendor's
    OTHER_SWITCH = "other-switch"  # one switch is genuine, and of another machine
    DOUBLED_SWITCH = "doubled-switch"  # the first switch also answers for the last
    SWAPPED_SWITCH_REPORT = "swapped-switch-report"  # one switch report is replaced after signing
    REORDERED_SWITCHES = "reordered-switches"  # switch reports in another order than signed
    OPEN_SWITCH = "open-switch"  # last switch can be given other routes
    ALTERED_SWITCH_FIRMWARE = "altered-switch-firmware"  # last switch runs firmware that no manifest describes
    GPU_NAMES_OTHER_SWITCH = "gpu-names-other-switch"  # a link of the last GPU leads to another switch
    SWITCH_NAMES_OTHER_GPU = "switch-names-other-gpu"  # a port of the last switch leads to another GPU
    UNUSED_SWITCHES = "unused-switches"  # the GPUs each on its own, although there are switches
    UNNAMED_GPU = "unnamed-gpu"  # the last GPU of a complete machine is never asked, and not named
    GPU_AS_SWITCH = "gpu-as-switch"  # a GPU's report in the place of the last switch's

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


SWITCH_FAULTS = frozenset(
    {
        Fault.MISSING_SWITCH,
        Fault.UNNAMED_SWITCH,
        Fault.EXTRA_SWITCH,
        Fault.FOREIGN_SWITCH,
        Fault.OTHER_SWITCH,
        Fault.DOUBLED_SWITCH,
        Fault.SWAPPED_SWITCH_REPORT,
        Fault.REORDERED_SWITCHES,
        Fault.OPEN_SWITCH,
        Fault.ALTERED_SWITCH_FIRMWARE,
        Fault.GPU_NAMES_OTHER_SWITCH,
        Fault.SWITCH_NAMES_OTHER_GPU,
        Fault.UNUSED_SWITCHES,
        Fault.UNNAMED_GPU,
        Fault.GPU_AS_SWITCH,
    }
)

NEEDS_GPUS = {
    Fault.ALTERED_GPU_FIRMWARE: 1,
    Fault.GPU_OF_A_SET: 1,
    Fault.MIXED_MODES: 1,
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
