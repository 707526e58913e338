"""Logs against registers: an honest log explains them, every other has its refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha384

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import (
    AppraisalPolicy,
    AttestationError,
    Evidence,
    MalformedEvidenceError,
    TdxEvidence,
    Verdict,
    cbor,
)
from attestation.ccel import FirmwareEvent, parse_ccel
from attestation.collect import extend_named
from attestation.errors import (
    EngineNotAllowedError,
    EventLogMismatchError,
    EventNotAllowedError,
    MeasurementNotAllowedError,
    NoRegisterError,
)
from attestation.eventlog import EventKind, LogEvent, replay
from attestation.evidence import encode_evidence, parse_evidence
from attestation.merkle import inclusion_proof
from attestation.sim.ccel import encode_ccel
from attestation.sim.faults import FIRMWARE_LOG_FAULTS, RUNTIME_LOG_FAULTS
from attestation.sim.guest import firmware_log, image_config
from attestation.sim.tdx import image_of
from attestation.simulate import DEFAULT_IMAGE, Fault, SimulatedHost
from attestation.tdx_quote import parse_quote
from tests.attestation.hosts import (
    MODEL,
    NONCES,
    SNP_CPU,
    TDX_CPU,
    appraise,
    base_transcript,
    evidence_of,
    host,
    policy_for,
    vendors,
)
from tests.attestation.vendors import flipped

LOG_CHECKS = {
    "event log of rtmr3",
    "event log of the firmware",
    "event log image configuration",
    "event log job bundles",
    "event log engine",
    "event log models",
}
LOG_FAULTS: dict[Fault, tuple[type[AttestationError], str]] = {
    Fault.MISSING_FIRMWARE_EVENT: (EventLogMismatchError, "event log of the firmware"),
    Fault.EDITED_FIRMWARE_EVENT: (EventLogMismatchError, "event log of the firmware"),
    Fault.RENAMED_FIRMWARE_EVENT: (EventLogMismatchError, "event log of the firmware"),
    Fault.NO_FIRMWARE_LOG: (EventLogMismatchError, "event log of the firmware"),
    Fault.UNLOGGED_EXTENSION: (EventLogMismatchError, "event log of rtmr3"),
    Fault.UNEXTENDED_ENTRY: (EventLogMismatchError, "event log of rtmr3"),
    Fault.REORDERED_LOG: (EventLogMismatchError, "event log of rtmr3"),
    Fault.SHORTENED_LOG: (EventLogMismatchError, "event log of rtmr3"),
    Fault.FOREIGN_LOG: (EventLogMismatchError, "event log of rtmr3"),
    Fault.OTHER_ENGINE: (EventLogMismatchError, "event log engine"),
    Fault.SECOND_ENGINE: (EventLogMismatchError, "event log engine"),
    Fault.UNNAMED_MODEL: (EventLogMismatchError, "event log models"),
    Fault.UNLOGGED_MODEL: (EventLogMismatchError, "event log models"),
    Fault.UNALLOWED_BUNDLE: (EventNotAllowedError, "event log job bundles"),
}
BUNDLE = LogEvent(kind=EventKind.JOB_BUNDLE, digest=b"b" * 32)
OTHER = b"o" * 32


def _refused(
    evidence: Evidence, error: type[AttestationError], check: str, policy: AppraisalPolicy | None = None
) -> AttestationError:
    with pytest.raises(error) as caught:
        appraise(evidence, policy or policy_for(host(TDX_CPU)))
    assert type(caught.value) is error
    assert (caught.value.checks[-1].name, caught.value.checks[-1].outcome) == (check, "failed")
    return caught.value


def _logged(*events: LogEvent, attester: SimulatedHost | None = None, **transcript: object) -> Evidence:
    """Evidence of a guest that logged these things before its enclave started."""
    guest, base = (attester or host(TDX_CPU)).restarted(), base_transcript(**transcript)
    for event in events:
        guest.extend(event)
    extend_named(guest, base)
    return guest.attest(base).evidence(inclusion_proof(NONCES, 2))


def _signed(image_ccel: bytes, log: tuple[LogEvent, ...]) -> Evidence:
    """Evidence with these logs; RTMR3 is signed as the runtime log says, RTMR0 to RTMR2 as the image has them."""
    honest = evidence_of(host(TDX_CPU))
    platform = host(TDX_CPU).platform
    image = image_of(DEFAULT_IMAGE).with_rtmr3(replay(log))
    quote = platform.quote(honest.transcript.report_data(), image=image)
    return replace(honest, cpu=TdxEvidence(quote=quote, collateral=platform.collateral, ccel=image_ccel, log=log))


def _outcomes(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.outcome for check in verdict.checks}


def test_an_honest_log_explains_every_register() -> None:
    evidence = evidence_of(host(TDX_CPU))
    verdict = appraise(evidence, policy_for(host(TDX_CPU), require_firmware_log=True))
    assert isinstance(evidence.cpu, TdxEvidence)
    assert [event.kind for event in evidence.cpu.log] == ["firmware-log", "image-config", "engine", "model"]
    assert parse_quote(evidence.cpu.quote).body.rtmrs[3] == replay(evidence.cpu.log) != bytes(48)
    replays = [f"event log replay to rtmr{number}" for number in range(3)]
    assert {_outcomes(verdict)[name] for name in (*replays, *LOG_CHECKS - {"event log image configuration"})} == {
        "held"
    }


@pytest.mark.parametrize(("fault", "error", "check"), [(fault, *why) for fault, why in LOG_FAULTS.items()])
def test_refused(fault: Fault, error: type[AttestationError], check: str) -> None:
    _refused(evidence_of(host(TDX_CPU, 0, fault)), error, check)


def test_every_lie_about_logs_is_tried_above() -> None:
    assert LOG_FAULTS.keys() == FIRMWARE_LOG_FAULTS | RUNTIME_LOG_FAULTS


@pytest.mark.parametrize("fault", LOG_FAULTS)
def test_a_host_without_a_runtime_register_has_no_log_to_lie_about(fault: Fault) -> None:
    with pytest.raises(ValueError, match="needs a TDX host"):
        vendors().make_host(SNP_CPU, faults=[fault])


def test_a_register_extended_without_a_log_is_refused() -> None:
    evidence = evidence_of(host(TDX_CPU))
    assert isinstance(evidence.cpu, TdxEvidence)
    _refused(replace(evidence, cpu=replace(evidence.cpu, log=())), EventLogMismatchError, "event log of rtmr3")


def test_an_empty_log_and_register_are_refused_because_the_engine_is_in_neither() -> None:
    _refused(_signed(b"", ()), EventLogMismatchError, "event log engine")


def test_a_good_runtime_log_does_not_excuse_another_image() -> None:
    other = vendors().make_host(TDX_CPU, image=OTHER, quote_latency_s=0)
    _refused(evidence_of(other), MeasurementNotAllowedError, "image")


def test_a_log_edited_and_replayed_to_its_own_value_is_not_what_the_quote_signed() -> None:
    """RTMR3 alone proves nothing: the same log with another engine, its transcript changed to match."""
    evidence = _logged(engine=OTHER)
    honest = evidence_of(host(TDX_CPU))
    assert isinstance(evidence.cpu, TdxEvidence)
    assert isinstance(honest.cpu, TdxEvidence)
    spliced = replace(honest, cpu=replace(honest.cpu, log=evidence.cpu.log))
    _refused(spliced, EventLogMismatchError, "event log of rtmr3")


@pytest.mark.parametrize(
    ("logged", "named", "holds"),
    [
        pytest.param((MODEL,), (MODEL,), True, id="the-same"),
        pytest.param((MODEL, MODEL), (MODEL,), True, id="logged-twice-by-two-processes"),
        pytest.param((), (), True, id="none"),
        pytest.param((MODEL, b"n" * 32), (MODEL,), False, id="loaded-and-not-named"),
        pytest.param((MODEL,), (MODEL, b"n" * 32), False, id="named-and-not-loaded"),
        pytest.param((b"n" * 32,), (MODEL,), False, id="another"),
    ],
)
def test_logged_models_are_the_named_ones(logged: tuple[bytes, ...], named: tuple[bytes, ...], holds: bool) -> None:
    guest, base = host(TDX_CPU).restarted(), base_transcript(models=named)
    extend_named(guest, base_transcript(models=tuple(sorted(set(logged)))))
    if len(logged) > len(set(logged)):
        guest.extend(LogEvent(kind=EventKind.MODEL, digest=logged[0], name="again"))
    evidence = guest.attest(base).evidence(inclusion_proof(NONCES, 2))
    if holds:
        assert appraise(evidence, policy_for(guest)).models == named
    else:
        _refused(evidence, EventLogMismatchError, "event log models")


def test_a_jobs_code_is_refused_unless_the_policy_names_it() -> None:
    evidence = _logged(BUNDLE)
    _refused(evidence, EventNotAllowedError, "event log job bundles")
    willing = policy_for(host(TDX_CPU), job_bundles=frozenset({BUNDLE.digest}))
    appraise(evidence, willing)
    another = _logged(BUNDLE, replace(BUNDLE, digest=OTHER))
    _refused(another, EventNotAllowedError, "event log job bundles", willing)


def test_another_image_configuration_is_refused_where_the_policy_names_some() -> None:
    named = policy_for(host(TDX_CPU), image_configs=frozenset({image_config(DEFAULT_IMAGE)}))
    appraise(evidence_of(host(TDX_CPU)), named)
    late = LogEvent(kind=EventKind.IMAGE_CONFIG, digest=OTHER)
    appraise(_logged(late), policy_for(host(TDX_CPU)))
    _refused(_logged(late), EventNotAllowedError, "event log image configuration", named)
    only = policy_for(host(TDX_CPU), image_configs=frozenset({OTHER}))
    _refused(evidence_of(host(TDX_CPU)), EventNotAllowedError, "event log image configuration", only)


def test_no_image_configuration_at_all_is_refused_where_the_policy_names_some() -> None:
    engine = LogEvent(kind=EventKind.ENGINE, digest=base_transcript().engine)
    bare = _signed(b"", (engine, LogEvent(kind=EventKind.MODEL, digest=MODEL)))
    appraise(bare, policy_for(host(TDX_CPU)))
    named = policy_for(host(TDX_CPU), image_configs=frozenset({image_config(DEFAULT_IMAGE)}))
    _refused(bare, EventNotAllowedError, "event log image configuration", named)


@pytest.mark.parametrize("kind", [TDX_CPU, SNP_CPU])
def test_an_engine_the_policy_does_not_name_is_refused(kind: object) -> None:
    engine = base_transcript().engine
    evidence = evidence_of(host(kind))
    appraise(evidence, policy_for(host(kind), engines=frozenset({engine, OTHER})))
    _refused(evidence, EngineNotAllowedError, "engine", policy_for(host(kind), engines=frozenset({OTHER})))


def test_a_firmware_log_nobody_read_is_accepted_only_while_none_is_required() -> None:
    log = tuple(
        LogEvent(kind=kind, digest=digest)
        for kind, digest in ((EventKind.ENGINE, base_transcript().engine), (EventKind.MODEL, MODEL))
    )
    verdict = appraise(_signed(b"", log), policy_for(host(TDX_CPU)))
    assert _outcomes(verdict)["event log replay"] == "not applicable"
    strict = policy_for(host(TDX_CPU), require_firmware_log=True)
    _refused(_signed(b"", log), EventLogMismatchError, "event log presence", strict)


def test_a_firmware_log_that_the_runtime_log_does_not_name_is_refused() -> None:
    log = (LogEvent(kind=EventKind.ENGINE, digest=base_transcript().engine),)
    _refused(_signed(firmware_log(DEFAULT_IMAGE), log), EventLogMismatchError, "event log of the firmware")


def test_two_firmware_logs_of_one_boot_are_refused() -> None:
    twice = LogEvent(kind=EventKind.FIRMWARE_LOG, digest=b"f" * 48)
    _refused(_logged(twice), EventLogMismatchError, "event log of the firmware")


def _events() -> list[FirmwareEvent]:
    return list(parse_ccel(firmware_log(DEFAULT_IMAGE)))


def _without(number: int) -> Callable[[list[FirmwareEvent]], object]:
    return lambda events: events.pop(number)


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        pytest.param(_without(0), "event log replay to rtmr0", id="no-secure-boot-event"),
        pytest.param(_without(2), "event log replay to rtmr1", id="no-boot-loader-event"),
        pytest.param(_without(5), "event log replay to rtmr2", id="no-file-system-event"),
        pytest.param(lambda e: e.append(e[-1]), "event log replay to rtmr1", id="an-event-too-many"),
        pytest.param(lambda e: e.insert(4, e.pop(5)), "event log replay to rtmr2", id="two-events-exchanged"),
        pytest.param(
            lambda e: e.__setitem__(5, replace(e[5], rtmr=1)), "event log replay to rtmr1", id="another-register"
        ),
        pytest.param(
            lambda e: e.__setitem__(0, replace(e[0], type=3)), "event log replay to rtmr0", id="called-no-action"
        ),
        pytest.param(lambda e: e.append(replace(e[0], rtmr=3)), "event log replay to rtmr3", id="an-event-for-rtmr3"),
    ],
)
def test_a_guest_that_logged_a_false_firmware_log_is_refused(
    edit: Callable[[list[FirmwareEvent]], object], check: str
) -> None:
    """The runtime log names the edited one, so only the registers stand against it."""
    events = _events()
    edit(events)
    ccel = encode_ccel(events)
    log = (
        LogEvent(kind=EventKind.FIRMWARE_LOG, digest=sha384(ccel).digest()),
        LogEvent(kind=EventKind.ENGINE, digest=base_transcript().engine),
        LogEvent(kind=EventKind.MODEL, digest=MODEL),
    )
    _refused(_signed(ccel, log), EventLogMismatchError, check)


def test_a_firmware_log_with_padding_is_malformed() -> None:
    ccel = firmware_log(DEFAULT_IMAGE) + b"\xff" * 8
    log = (LogEvent(kind=EventKind.FIRMWARE_LOG, digest=sha384(ccel).digest()),)
    _refused(_signed(ccel, log), MalformedEvidenceError, "format")


@pytest.mark.parametrize("field", ["ccel", "log"])
def test_a_host_without_a_runtime_register_that_sends_a_log_is_refused(field: str) -> None:
    document = cbor.decode(encode_evidence(evidence_of(host(SNP_CPU))))
    assert isinstance(document, dict)
    document["cpu"][field] = b"" if field == "ccel" else []
    with pytest.raises(MalformedEvidenceError, match="unknown field"):
        parse_evidence(cbor.encode(document))


def test_the_checks_of_a_host_without_a_runtime_register_say_that_nothing_was_looked_at() -> None:
    strict = policy_for(
        host(SNP_CPU), require_firmware_log=True, image_configs=frozenset({OTHER}), job_bundles=frozenset({OTHER})
    )
    outcomes = _outcomes(appraise(evidence_of(host(SNP_CPU)), strict))
    assert {outcomes[name] for name in LOG_CHECKS} == {"not applicable"}


def test_a_guest_without_a_runtime_register_does_not_take_what_it_could_not_prove() -> None:
    guest = host(SNP_CPU).restarted()
    extend_named(guest, base_transcript())
    with pytest.raises(NoRegisterError, match="no runtime register"):
        guest.extend(BUNDLE)


def test_the_same_image_measures_the_same_whatever_it_logs() -> None:
    guest = host(TDX_CPU).restarted()
    before = guest.measurement_id()
    extend_named(guest, base_transcript())
    assert guest.measurement_id() == before
    assert appraise(guest.attest(base_transcript()).evidence(inclusion_proof(NONCES, 2)), policy_for(guest))


def _altered(log: tuple[LogEvent, ...], data: st.DataObject) -> list[LogEvent]:
    """The log after some of what an attacker may do to it."""
    events = list(log)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(events) - 1)))
        match data.draw(st.sampled_from(["drop", "double", "move", "rename", "edit", "relabel", "insert"])):
            case "drop":
                del events[at : at + 1]
            case "double":
                events[at:at] = events[at : at + 1]
            case "move":
                events[:0] = [events.pop(at)] if events else []
            case "rename":
                events[at : at + 1] = [replace(event, name=event.name + "x") for event in events[at : at + 1]]
            case "edit":
                edited = [replace(event, digest=flipped(event.digest, 7)) for event in events[at : at + 1]]
                events[at : at + 1] = edited
            case "relabel":
                events[at : at + 1] = [
                    LogEvent(kind=EventKind.JOB_BUNDLE, digest=event.digest[:32]) for event in events[at : at + 1]
                ]
            case "insert":
                events.insert(at, data.draw(st.sampled_from([BUNDLE, *log])))
    return events


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_alteration_of_a_log_passes(data: st.DataObject) -> None:
    evidence = evidence_of(host(TDX_CPU))
    assert isinstance(evidence.cpu, TdxEvidence)
    altered = tuple(_altered(evidence.cpu.log, data))
    if altered != evidence.cpu.log:
        _refused(replace(evidence, cpu=replace(evidence.cpu, log=altered)), EventLogMismatchError, "event log of rtmr3")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(firmware_log(DEFAULT_IMAGE)) * 8 - 1))
def test_no_bit_of_a_firmware_log_is_free(bit: int) -> None:
    evidence = evidence_of(host(TDX_CPU))
    assert isinstance(evidence.cpu, TdxEvidence)
    altered = replace(evidence.cpu, ccel=flipped(evidence.cpu.ccel, bit))
    _refused(replace(evidence, cpu=altered), EventLogMismatchError, "event log of the firmware")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(firmware_log(DEFAULT_IMAGE)) * 8 - 1))
def test_a_false_firmware_log_that_the_guest_named_changes_words_at_most(bit: int) -> None:
    """Only an image that lies about its own firmware can do this; even so the registers hold the digests."""
    ccel = flipped(firmware_log(DEFAULT_IMAGE), bit)
    log = (
        LogEvent(kind=EventKind.FIRMWARE_LOG, digest=sha384(ccel).digest()),
        LogEvent(kind=EventKind.ENGINE, digest=base_transcript().engine),
        LogEvent(kind=EventKind.MODEL, digest=MODEL),
    )
    try:
        appraise(_signed(ccel, log), policy_for(host(TDX_CPU)))
    except (EventLogMismatchError, MalformedEvidenceError):
        return
    assert [(event.rtmr, event.digest) for event in parse_ccel(ccel)] == [
        (event.rtmr, event.digest) for event in _events()
    ]
