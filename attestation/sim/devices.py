"""The GPUs and switches of a simulated host: asked as a guest asks them, and lied about as an owner would."""

from __future__ import annotations

import secrets
from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Self

from attestation.evidence import GpuEvidence, SwitchEvidence
from attestation.nvidia_facts import PDI_SIZE, GpuFeature
from attestation.sim.faults import Fault
from attestation.sim.gpu import GpuFaults, SimulatedGpu
from attestation.sim.switch import SimulatedSwitch, SwitchFaults
from attestation.transcript import CcState, gpu_nonce, switch_nonce

_ALTERED = (9,)  # a block of the VBIOS and of the BIOS


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReports:
    """What the devices answered, in the order in which they were asked."""

    gpus: tuple[GpuEvidence, ...]
    switches: tuple[SwitchEvidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDevices:
    """All devices of one host and how it lies about them.

    Attributes:
        gpus: the GPUs; in protected PCIe if there are switches, else each on its own.
        switches: the switches between them.
        faults: what is wrong; others than those about devices do not matter here.
    """

    gpus: tuple[SimulatedGpu, ...]
    switches: tuple[SimulatedSwitch, ...]
    faults: Set[Fault]

    def cc(self) -> tuple[CcState, ...]:
        """Return the state of each GPU that the guest names."""
        states = [CcState.ON] * len(self._named().gpus)
        if Fault.CC_OFF in self.faults:
            states[-1] = CcState.OFF
        if Fault.CC_DEVTOOLS in self.faults:
            states[-1] = CcState.DEVTOOLS
        return tuple(states)

    def ask(self, base_digest: bytes) -> DeviceReports:
        """Return the report of every device that the guest names."""
        named = self._named()
        gpus, switches = list(named.gpus), list(named.switches)
        if Fault.DOUBLED_GPU in self.faults:
            gpus[-1] = gpus[0]
        if Fault.DOUBLED_SWITCH in self.faults:
            switches[-1] = switches[0]
        answers = [self._ask_switch(index, base_digest, device) for index, device in enumerate(switches)]
        if Fault.GPU_AS_SWITCH in self.faults:
            answers[-1] = gpus[0].attest(switch_nonce(base_digest, len(answers) - 1))
        return DeviceReports(
            gpus=tuple(self._ask_gpu(index, base_digest, device) for index, device in enumerate(gpus)),
            switches=tuple(answers),
        )

    def tamper(self, reports: DeviceReports, base_digest: bytes) -> DeviceReports:
        """Return the reports as a lying host sends them, after the CPU has signed."""
        gpus, switches = reports.gpus, reports.switches
        if Fault.REORDERED_GPUS in self.faults:
            gpus = gpus[::-1]
        if Fault.MISSING_GPU in self.faults:
            gpus = gpus[:-1]
        if Fault.SWAPPED_GPU_REPORT in self.faults:
            gpus = (*gpus[:-1], self._ask_gpu(len(gpus) - 1, base_digest, self.gpus[-1]))
        if Fault.REORDERED_SWITCHES in self.faults:
            switches = switches[::-1]
        if Fault.MISSING_SWITCH in self.faults:
            switches = switches[:-1]
        if Fault.SWAPPED_SWITCH_REPORT in self.faults:
            switches = (*switches[:-1], self._ask_switch(len(switches) - 1, base_digest, self.switches[-1]))
        return DeviceReports(gpus=gpus, switches=switches)

    def _named(self) -> Self:
        return replace(
            self,
            gpus=self.gpus[:-1] if Fault.UNNAMED_GPU in self.faults else self.gpus,
            switches=self.switches[:-1] if Fault.UNNAMED_SWITCH in self.faults else self.switches,
        )

    def _ask_gpu(self, index: int, base_digest: bytes, device: SimulatedGpu) -> GpuEvidence:
        last = index == len(self.gpus) - 1
        linked = Fault.GPU_OF_A_SET in self.faults or (self.switches and Fault.UNUSED_SWITCHES not in self.faults)
        feature = GpuFeature.PPCIE if linked else GpuFeature.SPT
        if last and Fault.MIXED_MODES in self.faults:
            feature = GpuFeature.MPT
        ends = self._linked() if linked else []
        if last and Fault.GPU_NAMES_OTHER_SWITCH in self.faults:
            ends[-1] = secrets.token_bytes(PDI_SIZE)
        altered = _ALTERED if last and Fault.ALTERED_GPU_FIRMWARE in self.faults else ()
        faults = GpuFaults(feature=feature, switches=tuple(ends), altered_blocks=altered)
        return device.attest(gpu_nonce(base_digest, index), faults)

    def _ask_switch(self, index: int, base_digest: bytes, device: SimulatedSwitch) -> SwitchEvidence:
        last = index == len(self.switches) - 1
        ends = [gpu.pdi for gpu in self.gpus]
        if last and Fault.SWITCH_NAMES_OTHER_GPU in self.faults:
            ends[-1] = secrets.token_bytes(PDI_SIZE)
        altered = _ALTERED if last and Fault.ALTERED_SWITCH_FIRMWARE in self.faults else ()
        faults = SwitchFaults(altered_blocks=altered, locked=not (last and Fault.OPEN_SWITCH in self.faults))
        return device.attest(switch_nonce(base_digest, index), ends, faults)

    def _linked(self) -> list[bytes]:
        """Return the identifiers of the switches that the GPUs are wired to: an extra or exchanged one is not."""
        if Fault.EXTRA_SWITCH in self.faults:
            return [switch.pdi for switch in self.switches[:-1]]
        if Fault.OTHER_SWITCH in self.faults:
            return [*(switch.pdi for switch in self.switches[:-1]), secrets.token_bytes(PDI_SIZE)]
        return [switch.pdi for switch in self.switches]
