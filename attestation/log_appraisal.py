"""Whether the logs of a TDX guest explain its registers, and whether what they say was loaded is allowed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from hmac import compare_digest

from attestation.ccel import parse_ccel, replay_ccel
from attestation.errors import EventLogMismatchError, EventNotAllowedError
from attestation.eventlog import EMPTY_REGISTER, EventKind, LogEvent, replay
from attestation.evidence import SnpEvidence, TdxEvidence
from attestation.policy import AppraisalPolicy
from attestation.transcript import Transcript
from attestation.verdict import CheckLog

_RUNTIME, _FIRMWARE, _REPLAY = "event log of rtmr3", "event log of the firmware", "event log replay"
_CONFIG, _BUNDLES = "event log image configuration", "event log job bundles"
_ENGINE, _MODELS = "event log engine", "event log models"


def check_logs(
    evidence: TdxEvidence | SnpEvidence | None,
    rtmrs: tuple[bytes, bytes, bytes, bytes] | None,
    transcript: Transcript,
    policy: AppraisalPolicy,
    log: CheckLog,
) -> None:
    """Check both logs against the registers of a genuine quote, then what they say.

    1. The runtime log replays to RTMR3: nothing was extended that it does not name, and the other way round.
    2. The firmware's log is the one that the runtime log names, and replays to RTMR0, RTMR1 and RTMR2.
    3. Image configurations and job bundles are allowed.
    4. Engine and models are those of the transcript, no more and no fewer.

    Other hardware has no such registers and its evidence no logs; the checks then say that nothing was looked at.

    Args:
        evidence: the CPU's, with the logs; None on an open host.
        rtmrs: RTMR0 to RTMR3 of the quote, signature checked, 48 bytes each; None without a quote.
        transcript: what the quote binds.
        policy: what may be loaded.
        log: gets the checks.

    Raises:
        EventLogMismatchError, EventNotAllowedError, MalformedEvidenceError.
    """
    if not isinstance(evidence, TdxEvidence) or rtmrs is None:
        for name in (_RUNTIME, _FIRMWARE, _CONFIG, _BUNDLES, _ENGINE, _MODELS):
            log.skip(name, why="a runtime register")
        return
    _check_runtime_log(evidence.log, rtmrs[3], log)  # (1)
    _check_firmware_log(evidence, rtmrs, policy, log)  # (2)
    _check_image_configs(_digests(evidence.log, EventKind.IMAGE_CONFIG), policy, log)  # (3)
    _check_job_bundles(_digests(evidence.log, EventKind.JOB_BUNDLE), policy, log)
    _check_same(_ENGINE, _digests(evidence.log, EventKind.ENGINE), {transcript.engine}, log)  # (4)
    _check_same(_MODELS, _digests(evidence.log, EventKind.MODEL), set(transcript.models), log)


def _check_runtime_log(events: Sequence[LogEvent], register: bytes, log: CheckLog) -> None:
    want = replay(events)
    log.require(
        _RUNTIME,
        compare_digest(register, want),
        seen=f"rtmr3 {register.hex()[:32]}",
        required=f"{want.hex()[:32]}: the replay of the log's {len(events)} events",
        error=EventLogMismatchError,
    )


def _check_firmware_log(
    evidence: TdxEvidence, rtmrs: tuple[bytes, bytes, bytes, bytes], policy: AppraisalPolicy, log: CheckLog
) -> None:
    """A log that was sent must hold. One that the guest has read and that is not here, somebody took away."""
    sent = {hashlib.sha384(evidence.ccel).digest()} if evidence.ccel else set()
    _check_same(_FIRMWARE, sent, _digests(evidence.log, EventKind.FIRMWARE_LOG), log)
    if not evidence.ccel and not policy.require_firmware_log:
        log.skip(_REPLAY, why="a firmware log, which the policy does not require")
        return
    log.require(
        "event log presence",
        bool(evidence.ccel),
        seen=f"{len(evidence.ccel)} bytes",
        required="a log, by the policy",
        error=EventLogMismatchError,
    )
    (*replayed, rest), counts = _replay_firmware(evidence.ccel)
    for number, want in enumerate(replayed):
        count = counts[number]
        log.require(
            f"{_REPLAY} to rtmr{number}",
            compare_digest(rtmrs[number], want),
            seen=f"rtmr{number} {rtmrs[number].hex()[:32]}",
            required=f"{want.hex()[:32]}: the replay of {count} events",
            error=EventLogMismatchError,
        )
    log.require(
        f"{_REPLAY} to rtmr3",
        rest == EMPTY_REGISTER,
        seen=f"{counts[3]} events of the firmware's log for rtmr3",
        required="none",
        error=EventLogMismatchError,
    )


@lru_cache(maxsize=16)  # hosts of one image and machine type send the same bytes; the answer depends on them alone
def _replay_firmware(ccel: bytes) -> tuple[tuple[bytes, bytes, bytes, bytes], tuple[int, ...]]:
    """Return the registers after a firmware log, and how many events it has for each."""
    events = parse_ccel(ccel)
    return replay_ccel(events), tuple(sum(event.rtmr == number for event in events) for number in range(4))


def _check_image_configs(seen: set[bytes], policy: AppraisalPolicy, log: CheckLog) -> None:
    if not policy.image_configs:
        log.skip(_CONFIG, why="a policy that names image configurations")
        return
    log.require(
        _CONFIG,
        bool(seen) and seen <= policy.image_configs,
        seen=_list(seen),
        required=f"one or more, each among {len(policy.image_configs)} allowed",
        error=EventNotAllowedError,
    )


def _check_job_bundles(seen: set[bytes], policy: AppraisalPolicy, log: CheckLog) -> None:
    log.require(
        _BUNDLES,
        seen <= policy.job_bundles,
        seen=_list(seen),
        required=f"each among {len(policy.job_bundles)} allowed",
        error=EventNotAllowedError,
    )


def _check_same(name: str, seen: set[bytes], want: set[bytes], log: CheckLog) -> None:
    log.require(name, seen == want, seen=_list(seen), required=f"exactly {_list(want)}", error=EventLogMismatchError)


def _digests(events: Sequence[LogEvent], kind: EventKind) -> set[bytes]:
    return {event.digest for event in events if event.kind is kind}


def _list(digests: set[bytes]) -> str:
    return ", ".join(sorted(digest.hex()[:16] for digest in digests)) or "none"
