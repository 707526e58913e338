"""What one host binds together: fresh nonces, its keys, its payee, its models, its GPUs and the switches between them.

The digest of the transcript is the report_data of the CPU report; the digest without the device reports
seeds the nonce of every GPU and switch. Taking a device away, adding or swapping one changes the digest the CPU
signed. Byte layout: docs/protocol/transcript.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from attestation import cbor

TRANSCRIPT_VERSION = 2
REPORT_DATA_SIZE = 64
GPUS_MAX = 16
SWITCHES_MAX = 8
MODELS_MAX = 64
HPKE_KEY_SIZE = 1216  # X-Wing: ML-KEM-768 encapsulation key 1184, X25519 public key 32
RECEIPT_KEY_SIZE = 32
PAYEE_SIZE = 33
_DIGEST_SIZE = 32
_REPORT_DIGEST_SIZE = 48
_TEE_TAG = b"chrysalis/1 tee\0"
_GPU_TAG = b"chrysalis/1 gpu"
_SWITCH_TAG = b"chrysalis/1 switch"
_HOST_TAG = b"chrysalis/1 host"


class CcState(StrEnum):
    """Confidential-computing state of one GPU, as the measured guest reads it from the driver.

    "on" means that the driver protects the GPU: its CC feature is on, or its multi-GPU mode is protected PCIe (NVML's
    `multiGpuMode` 1); and its developer tools are off.
    """

    ON = "on"
    OFF = "off"
    DEVTOOLS = "devtools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The document whose digest the CPU report carries.

    Attributes:
        nonce_root: root over the challengers' nonces, 32 bytes; see `attestation.merkle`.
        hpke: the enclave's X-Wing public key, 1216 bytes.
        receipt: the enclave's Ed25519 public key for receipts, 32 bytes.
        payee: TON address to pay, workchain as one signed byte and 32 bytes of account.
        models: manifest roots this enclave can serve, 32 bytes each, sorted, no doubles.
        engine: digest of the enclave's code and engine versions, 32 bytes.
        cc: state of each GPU, in device order.
        gpus: SHA-384 of each GPU report, same order; empty while the reports do not exist yet.
        switches: SHA-384 of each NVSwitch report, in device order; only beside GPUs.
    """

    nonce_root: bytes
    hpke: bytes
    receipt: bytes
    payee: bytes
    models: tuple[bytes, ...]
    engine: bytes
    cc: tuple[CcState, ...] = ()
    gpus: tuple[bytes, ...] = ()
    switches: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_size("nonce_root", self.nonce_root, _DIGEST_SIZE)
        _check_size("hpke", self.hpke, HPKE_KEY_SIZE)
        _check_size("receipt", self.receipt, RECEIPT_KEY_SIZE)
        _check_size("payee", self.payee, PAYEE_SIZE)
        _check_size("engine", self.engine, _DIGEST_SIZE)
        for root in self.models:
            _check_size("model root", root, _DIGEST_SIZE)
        for digest in (*self.gpus, *self.switches):
            _check_size("report digest", digest, _REPORT_DIGEST_SIZE)
        if len(self.models) > MODELS_MAX or list(self.models) != sorted(set(self.models)):
            raise ValueError(f"models: want at most {MODELS_MAX} roots, sorted, without doubles")
        if len(self.cc) > GPUS_MAX or len(self.gpus) not in {0, len(self.cc)}:
            raise ValueError(f"{len(self.gpus)} GPU digests for {len(self.cc)} GPUs, at most {GPUS_MAX}")
        if len(self.switches) > (SWITCHES_MAX if self.gpus else 0):
            raise ValueError(f"{len(self.switches)} switches, want at most {SWITCHES_MAX}, and only beside GPU digests")

    def base(self) -> Transcript:
        """Return the transcript as it stood before the GPUs and switches reported."""
        return replace(self, gpus=(), switches=())

    def with_reports(self, gpus: tuple[bytes, ...], switches: tuple[bytes, ...] = ()) -> Transcript:
        """Return the transcript that names these reports of GPUs and switches, in device order."""
        return replace(self, gpus=tuple(map(report_digest, gpus)), switches=tuple(map(report_digest, switches)))

    def base_digest(self) -> bytes:
        """Return the SHA-384 of everything but the reports of GPUs and switches, 48 bytes."""
        return hashlib.sha384(self._encode(reports=False)).digest()

    def digest(self) -> bytes:
        """Return the SHA-384 of the whole transcript, 48 bytes."""
        return hashlib.sha384(self._encode(reports=True)).digest()

    def _encode(self, *, reports: bool) -> bytes:
        """The canonical CBOR of `to_fields`, put together from parts of known lengths: half of `cbor.encode`'s time."""
        return b"".join(
            (
                _HEAD_WITH_REPORTS if reports else _HEAD,
                _list("cc", b"", [cbor.encode(str(state)) for state in self.cc]),
                _list("gpus", _REPORT, self.gpus) if reports else b"",
                _HPKE,
                self.hpke,
                _PAYEE,
                self.payee,
                _ENGINE,
                self.engine,
                _list("models", _ROOT, self.models),
                _RECEIPT,
                self.receipt,
                _list("switches", _REPORT, self.switches) if reports else b"",
                _NONCE_ROOT,
                self.nonce_root,
            )
        )

    def report_data(self) -> bytes:
        """Return the 64 bytes the CPU report must carry."""
        return report_data_of(self.digest())

    def to_fields(self) -> dict[str, cbor.Value]:
        """Return the CBOR map of this transcript."""
        return {
            "v": TRANSCRIPT_VERSION,
            "nonce_root": self.nonce_root,
            "hpke": self.hpke,
            "receipt": self.receipt,
            "payee": self.payee,
            "models": list(self.models),
            "engine": self.engine,
            "cc": [str(state) for state in self.cc],
            "gpus": list(self.gpus),
            "switches": list(self.switches),
        }


def _head(name: str, size: int) -> bytes:
    """The key of a byte string of this size, and what stands before its bytes."""
    return cbor.encode(name) + cbor.encode(bytes(size))[:-size]


def _map(count: int) -> bytes:
    """What a map of so many keys begins with: its head, and the version, which has the shortest key."""
    return cbor.encode({str(at): 0 for at in range(count)})[:1] + cbor.encode("v") + cbor.encode(TRANSCRIPT_VERSION)


def _list(name: str, head: bytes, items: Sequence[bytes]) -> bytes:
    """The key of a list, and the list; `head` stands before each item's bytes."""
    return _list_head(name, len(items)) + head + head.join(items) if items else _list_head(name, 0)


@lru_cache(maxsize=64)
def _list_head(name: str, count: int) -> bytes:
    return cbor.encode(name) + (cbor.encode([0] * count)[:-count] if count else cbor.encode([]))


_HEAD, _HEAD_WITH_REPORTS = _map(8), _map(10)
_HPKE, _PAYEE, _RECEIPT = _head("hpke", HPKE_KEY_SIZE), _head("payee", PAYEE_SIZE), _head("receipt", RECEIPT_KEY_SIZE)
_ENGINE, _NONCE_ROOT = _head("engine", _DIGEST_SIZE), _head("nonce_root", _DIGEST_SIZE)
_ROOT, _REPORT = _head("", _DIGEST_SIZE)[1:], _head("", _REPORT_DIGEST_SIZE)[1:]


def report_data_of(digest: bytes) -> bytes:
    """Return the 64 bytes a CPU report must carry for a transcript with this digest, 48 bytes."""
    return digest + _TEE_TAG


def gpu_nonce(base_digest: bytes, index: int) -> bytes:
    """Return the 32-byte nonce GPU number `index` (from 0) must sign.

    Args:
        base_digest: `Transcript.base_digest()`, 48 bytes.
        index: position of the GPU in the transcript.
    """
    return hashlib.sha256(_GPU_TAG + base_digest + index.to_bytes(2, "big")).digest()


def switch_nonce(base_digest: bytes, index: int) -> bytes:
    """Return the 32-byte nonce switch number `index` (from 0) must sign; arguments as for `gpu_nonce`."""
    return hashlib.sha256(_SWITCH_TAG + base_digest + index.to_bytes(2, "big")).digest()


def report_digest(report: bytes) -> bytes:
    """Return the digest by which a transcript names the report of a GPU or switch, 48 bytes."""
    return hashlib.sha384(report).digest()


def host_id(hpke: bytes, receipt: bytes) -> bytes:
    """Return the 8-byte name of the enclave instance that holds these keys."""
    return hashlib.sha256(_HOST_TAG + hpke + receipt).digest()[:8]


def _check_size(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise ValueError(f"{name}: {len(value)} bytes, want {size}")
