"""What attested TLS and sealed state cost one core.

Run: python bench/attested_tls.py [--seconds 1]. Rounds of equal length, CPU time of this process, median and spread.
Both ends of a handshake are in this process, in memory; "known" means that the certificate held before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import (
    AppraisalPolicy,
    ReferenceValues,
    TeeKind,
    Tier,
    Transcript,
    TrustedRoots,
    encode_evidence,
    inclusion_proof,
    nonce_root,
)
from attestation.collect import extend_named
from attestation.ratls import TlsKeyStatement, build_certificate, check_certificate
from attestation.simulate import SIMULATED_FLOOR, SimulatedHost, SimulatedVendors
from attestation.tls import AttestedContext, PeerCheck, TlsIdentity
from enclave.journal import ReceiptJournal

ROUNDS = 7
NOW = datetime.now(UTC).replace(microsecond=0)
MODEL, ENGINE = b"m" * 32, b"e" * 32
RECEIPT = os.urandom(348)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds per line")
    seconds = parser.parse_args().seconds
    print(f"{platform.machine()}, Python {platform.python_version()}, {ssl.OPENSSL_VERSION}")
    print(f"{'what':52} {'median':>9} {'lowest':>9} {'highest':>9}")
    for name, call in _handshakes():
        _print(name, [_measure(call, seconds / ROUNDS) for _ in range(ROUNDS)])
    _print("receipt sealed and appended to the journal", asyncio.run(_appends(4000)))


def _handshakes() -> Iterator[tuple[str, Callable[[], None]]]:
    vendors = SimulatedVendors.create(NOW)
    for kind, gpus in ((TeeKind.TDX, 0), (TeeKind.SEV_SNP, 0), (TeeKind.TDX, 8)):
        host = vendors.make_host(kind, gpus=gpus, quote_latency_s=0)
        identity, policy = _identity(host), _policy(host, vendors)
        size = f"{len(identity.certificate) / 1000:.0f} kB"
        server, known = AttestedContext.server(identity), PeerCheck(policy, clock=lambda: NOW)
        new = AttestedContext.client(partial(check_certificate, policy=policy, now=NOW))
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
        name = f"{kind} with {gpus} GPUs, {size}"
        yield f"{name}: appraised by nobody", lambda s=server, c=plain: _shake(c, s)
        yield f"{name}: server, new", lambda s=server, c=new: _shake(c, s)
        client = AttestedContext.client(known)
        yield f"{name}: server, known", lambda s=server, c=client: _shake(c, s)
        mutual = AttestedContext.server(identity, known), AttestedContext.client(known, identity)
        yield f"{name}: both, known", lambda both=mutual: _shake(both[1], both[0])


def _shake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass


def _identity(host: SimulatedHost) -> TlsIdentity:
    receipt, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    statement = TlsKeyStatement.of(key.public_key().public_bytes_raw(), NOW)
    base = Transcript(
        nonce_root=nonce_root([statement.nonce]),
        hpke=bytes(1216),
        receipt=receipt.public_key().public_bytes_raw(),
        payee=bytes(33),
        models=(MODEL,),
        engine=ENGINE,
    )
    extend_named(host, base)
    evidence = encode_evidence(host.attest(base).evidence(inclusion_proof([statement.nonce], 0)))
    certificate = build_certificate(statement, evidence=evidence, signature=statement.sign(receipt))
    return TlsIdentity(key=key, certificate=certificate)


def _policy(host: SimulatedHost, vendors: SimulatedVendors) -> AppraisalPolicy:
    return AppraisalPolicy(
        reference=ReferenceValues(
            measurements=frozenset({host.measurement_id()}), rims=host.rim_digests(), models=frozenset({MODEL})
        ),
        roots=TrustedRoots.none(),
        unsafe_simulated_roots=vendors.roots(),
        required_tier=Tier.CONFIDENTIAL if host.gpus else Tier.CONFIDENTIAL_CPU,
        snp_floor=SIMULATED_FLOOR,
    )


async def _appends(count: int) -> list[float]:
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            journal = ReceiptJournal.open(Path(folder) / str(number), bytes(32))
            begin = time.process_time()
            for _ in range(count):
                journal.append(RECEIPT)
            rounds.append(1e6 * (time.process_time() - begin) / count)
            await journal.close()
    return rounds


def _measure(call: Callable[[], None], seconds: float) -> float:
    begin, count = time.process_time(), 0
    while time.process_time() - begin < seconds:
        call()
        count += 1
    return 1e6 * (time.process_time() - begin) / count


def _print(name: str, rounds: list[float]) -> None:
    print(f"{name:52} {statistics.median(rounds):6.0f} us {min(rounds):6.0f} us {max(rounds):6.0f} us", flush=True)


if __name__ == "__main__":
    main()
