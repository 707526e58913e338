"""How long it takes to appraise a whole fleet anew, and to answer a window of a thousand challenges with one quote.

Run: python bench/fleet.py [--hosts 10000] [--processes 2]. Every host has hardware, keys, quote and certificates of its
own, half of them TDX and half SEV-SNP without GPUs; collateral is shared, as in a fleet of few processor families. Each
process keeps the chains that held, so the first time costs more than all later ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

from verification import _machine

from attestation import (
    AppraisalPolicy,
    ReferenceValues,
    TeeKind,
    Tier,
    Transcript,
    TrustedRoots,
    encode_evidence,
    inclusion_proof,
    inclusion_proofs,
    nonce_root,
    parse_evidence,
    verify,
)
from attestation.chain_cache import ChainCache
from attestation.collect import extend_named
from attestation.simulate import SIMULATED_FLOOR, SimulatedVendors

ROUNDS = 3
NONCES = 1000
NOW = datetime.now(UTC).replace(microsecond=0)
NONCE = b"n" * 32
CHAINS = ChainCache(1 << 16)  # of one process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(_machine().rpartition(";")[0], f"; load {os.getloadavg()[0]:.1f}; median of {ROUNDS} rounds (least to most)")
    batches = [_time(_batch) * 1e3 for _ in range(5 * ROUNDS)]
    print(f"one window of {NONCES} nonces, root and all paths: {_spread(batches)} ms (target 5)")
    policy, documents = make_fleet(options.hosts)
    print(f"{len(documents)} documents of {sum(map(len, documents)) / len(documents) / 1024:.1f} KiB made")
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1)) for _ in range(options.processes)]
        share = -(-len(documents) // options.processes)  # kinds of hosts alternate: as many of each for each process
        parts = [documents[at : at + share] for at in range(0, len(documents), share)]
        appraise_all(pools, policy, [documents[:20]] * options.processes)  # imports and authorities
        rounds = []
        for _ in range(ROUNDS + 1):
            begin = time.perf_counter()
            used = appraise_all(pools, policy, parts)
            rounds.append((time.perf_counter() - begin, used / options.hosts * 1e6))
    print(f"{options.hosts} hosts on {options.processes} processes, the first time: {rounds[0][0]:.2f} s")
    seconds, cpu = zip(*rounds[1:], strict=True)
    print(f"the same again: {_spread(seconds)} s (target 10); CPU of one host {_spread(cpu)} us")


def make_fleet(hosts: int) -> tuple[AppraisalPolicy, list[bytes]]:
    """A policy and the evidence of so many hosts."""
    vendors = SimulatedVendors.create(NOW)
    base = Transcript(
        nonce_root=nonce_root([NONCE]),
        hpke=bytes(1216),
        receipt=bytes(32),
        payee=bytes(33),
        models=(),
        engine=bytes(32),
    )
    documents, measurements = [], set()
    for number in range(hosts):
        host = vendors.make_host(TeeKind.TDX if number % 2 else TeeKind.SEV_SNP, quote_latency_s=0)
        extend_named(host, base)
        measurements.add(host.measurement_id())
        documents.append(encode_evidence(host.attest(base).evidence(inclusion_proof([NONCE], 0))))
    policy = AppraisalPolicy(
        reference=ReferenceValues(measurements=frozenset(measurements), rims=frozenset(), models=frozenset()),
        roots=TrustedRoots.none(),
        unsafe_simulated_roots=vendors.roots(),
        required_tier=Tier.CONFIDENTIAL_CPU,
        snp_floor=SIMULATED_FLOOR,
    )
    return policy, documents


def appraise_all(pools: Sequence[ProcessPoolExecutor], policy: AppraisalPolicy, parts: list[list[bytes]]) -> float:
    running = [pool.submit(appraise, policy, part) for pool, part in zip(pools, parts, strict=True)]
    return sum(future.result() for future in running)


def appraise(policy: AppraisalPolicy, documents: Sequence[bytes]) -> float:
    """Seconds of CPU it took."""
    begin = time.process_time()
    for document in documents:
        verify(parse_evidence(document), policy, nonce=NONCE, now=NOW, chains=CHAINS)
    return time.process_time() - begin


def _batch() -> None:
    nonces = [number.to_bytes(32, "big") for number in range(NONCES)]
    nonce_root(nonces)
    inclusion_proofs(nonces)


def _time(call: object) -> float:
    begin = time.perf_counter()
    call()  # type: ignore[operator]  # a function without arguments
    return time.perf_counter() - begin


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
