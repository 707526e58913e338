"""What a simulated Intel publishes beside revocation lists: TCB info and the quoting enclaves' identities, unsigned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from attestation.sim.quote import CPU_SVN, QE_PRODUCTS, QE_SIGNER

PCE_SVN = 11
TCB_EVALUATION = 17
LIFE = timedelta(days=30)  # of collateral, as Intel's
SIMULATED_ADVISORY = "SIMULATED-SA-00001"
_TCB_DATE = "2024-03-13T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralFaults:
    """What the vendor publishes; by default a platform that is up to date.

    Attributes:
        age: how long ago it was published; beyond `LIFE` it is stale, negative is in the future.
        tcb_status: status of the platform's TCB level.
        tcb_date: date of all TCB levels.
        advisories: known weaknesses of the platform's level; None for one where it is not up to date.
        module_status: status of the TDX module's level.
        module_svn: lowest security version of the TDX module that is up to date.
        qe_svn: lowest security version of the quoting enclave.
        evaluation: TCB evaluation data number.
        crl_number: number of both revocation lists.
        pce_id: provisioning enclave the TCB info is for, 2 bytes.
        fmspc: processor family the TCB info is for; None for the platform's.
        revoke_platform: the platform's PCK certificate is revoked.
        revoke_platform_ca: the platform CA is revoked by the root.
        revoke_tcb_signer: the TCB signer is revoked by the root.
    """

    age: timedelta = timedelta(0)
    tcb_status: str = "UpToDate"
    tcb_date: str = _TCB_DATE
    advisories: tuple[str, ...] | None = None
    module_status: str = "UpToDate"
    module_svn: int = 2
    qe_svn: int = 4
    evaluation: int = TCB_EVALUATION
    crl_number: int = 1
    pce_id: bytes = bytes(2)
    fmspc: bytes | None = None
    revoke_platform: bool = False
    revoke_platform_ca: bool = False
    revoke_tcb_signer: bool = False


GOOD = CollateralFaults()


def make_tcb_info(tee: str, fmspc: bytes, faults: CollateralFaults, issued: datetime) -> str:
    """Return the exact text of a TCB info for "tdx" or "sgx"."""
    components: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in CPU_SVN], "pcesvn": PCE_SVN}
    document: dict[str, Any] = {
        "id": tee.upper(),
        "version": 3,
        **_window(issued),
        "fmspc": fmspc.hex().upper(),
        "pceId": faults.pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": faults.evaluation,
    }
    if tee == "tdx":
        components["tdxtcbcomponents"] = [{"svn": svn} for svn in (5, 0, 2, *bytes(13))]
        document |= _module(faults)
    level: dict[str, Any] = {"tcb": components, "tcbDate": faults.tcb_date, "tcbStatus": faults.tcb_status}
    advisories = faults.advisories
    if advisories is None:
        advisories = () if faults.tcb_status == "UpToDate" else (SIMULATED_ADVISORY,)
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return _text({**document, "tcbLevels": [level]})


def make_qe_identity(tee: str, faults: CollateralFaults, issued: datetime) -> str:
    """Return the exact text of the identity of the quoting enclave for "tdx" or "sgx"."""
    level = {"tcb": {"isvsvn": faults.qe_svn}, "tcbDate": faults.tcb_date, "tcbStatus": "UpToDate"}
    return _text(
        {
            "id": "TD_QE" if tee == "tdx" else "QE",
            "version": 2,
            **_window(issued),
            "tcbEvaluationDataNumber": faults.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": QE_PRODUCTS[tee],
            "tcbLevels": [level],
        }
    )


def _module(faults: CollateralFaults) -> dict[str, Any]:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    level = {"tcb": {"isvsvn": faults.module_svn}, "tcbDate": faults.tcb_date, "tcbStatus": faults.module_status}
    return {"tdxModule": module, "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": [level]}]}


def _window(issued: datetime) -> dict[str, str]:
    return {"issueDate": _intel_time(issued), "nextUpdate": _intel_time(issued + LIFE)}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _intel_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
