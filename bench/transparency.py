"""How long a transparency log takes its readers, and GPU revocation its verifiers.

Run: python bench/transparency.py. CPU time of this process for each call, median and spread of seven rounds.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.merkle_tree import inclusion_path, leaf_hash, root_hash
from attestation.ocsp import OcspResponse, check_revocation, parse_ocsp
from attestation.policy import Revocation
from attestation.simulate import SimulatedVendors
from attestation.transparency.checkpoint import LogTrust
from attestation.transparency.entries import Allow, What
from attestation.transparency.reader import FolderLog, LogReader
from attestation.transparency.store import LogStore
from attestation.verdict import CheckLog, TeeKind

ROUNDS = 7
NOW = datetime.now(UTC).replace(microsecond=0)


def main() -> None:
    """Print the table."""
    print(f"Python {platform.python_version()}, cryptography {version('cryptography')}, {platform.machine()}; CPU time")
    print(f"{'what':52} {'median':>10} {'lowest':>10} {'highest':>10}")
    with TemporaryDirectory() as folder:
        for name, call in (*_log_cases(Path(folder)), *_ocsp_cases()):
            times = [_measure(call) * 1e3 for _ in range(ROUNDS)]
            print(f"{name:52} {statistics.median(times):7.2f} ms {min(times):7.2f} ms {max(times):7.2f} ms", flush=True)


def _log_cases(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    key = Ed25519PrivateKey.generate()
    for size in (100, 1_000, 10_000):
        place, state = folder / f"log{size}", folder / f"state{size}"
        state.mkdir()
        entries = [
            Allow(at=1, what=What.MEASUREMENT, value=sha256(number.to_bytes(4)).digest(), label=f"image {number}")
            for number in range(size)
        ]
        with LogStore.create(place, key, origin="bench/log", now=NOW) as store:
            store.append(entries, now=NOW)
            trust = LogTrust(key=store.key)
            kib = (place / "entries").stat().st_size / 1024
        reader = LogReader(FolderLog(place), trust, state)
        yield (
            f"read a log of {size} entries, {kib:.0f} KiB, anew",
            lambda place=place, trust=trust, state=state: LogReader(FolderLog(place), trust, state).read(now=NOW),
        )
        yield "the same, unchanged since", lambda reader=reader: reader.read(now=NOW)
        leaves = [leaf_hash(number.to_bytes(4)) for number in range(size)]
        yield f"root of {size} leaves", lambda leaves=leaves: root_hash(leaves)
        yield f"audit path of one of {size}", lambda leaves=leaves: inclusion_path(leaves, len(leaves) // 3)


def _ocsp_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    vendors = SimulatedVendors.create(NOW)
    chain = vendors.make_host(TeeKind.TDX, gpus=1).gpus[0].chain
    responder = vendors.nvidia.responder
    known = list(map(parse_ocsp, responder.answers(chain, now=NOW)))

    def check(read: list[OcspResponse]) -> None:
        check_revocation(chain, read, policy=Revocation.REQUIRED, now=NOW, log=CheckLog())

    answers = responder.answers(chain, now=NOW)
    yield "read three OCSP answers", lambda: [parse_ocsp(answer) for answer in answers]
    fresh = [list(map(parse_ocsp, responder.answers(chain, now=NOW))) for _ in range(2 * ROUNDS * 4)]
    yield "check them, never seen before", lambda: check(fresh.pop() if fresh else known)
    yield "check them, seen before", lambda: check(known)


def _measure(call: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(3):
        call()
    return (time.process_time() - start) / 3


if __name__ == "__main__":
    main()
