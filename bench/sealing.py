"""CPU time of the envelope: a request sealed to three hosts and opened by one, its answer, the account's signature.

    python bench/sealing.py [--rounds 7] [--requests 300]

Each figure is the median of the rounds in CPU time of this one thread, with the spread of the rounds beside it.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import cryptography
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.frames import Endpoint, FrameType, encode_frame, encode_plain_request
from attestation.sealing import (
    Header,
    ResponseOpener,
    ResponseSealer,
    check_account_signature,
    parse_request,
    seal_request,
)
from attestation.session import SessionReceiver, SessionSender
from attestation.xwing import HostKey, Recipient

NOW = datetime(2026, 11, 23, tzinfo=UTC)
EXPIRES = int(NOW.timestamp()) + 600
MODEL, LEASE, GRANT = os.urandom(32), os.urandom(16), os.urandom(300)
BODY = encode_plain_request(
    Endpoint.CHAT_COMPLETIONS, b'{"model":"demo","messages":[{"role":"user","content":"%s"}]}' % (b"word " * 70)
)
HOSTS = [os.urandom(8) for _ in range(3)]
KEYS = [HostKey.generate() for _ in HOSTS]
RECIPIENTS = [Recipient(host, key.public) for host, key in zip(HOSTS, KEYS, strict=True)]
ACCOUNT_KEY = Ed25519PrivateKey.generate()
ACCOUNT = ACCOUNT_KEY.public_key().public_bytes_raw()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--requests", type=int, default=300)
    options = arguments.parse_args()
    print(machine())
    print(f"{options.rounds} rounds of {options.requests} requests; body {len(BODY)} bytes, 3 hosts; us of CPU\n")
    print(f"{'operation':44} {'median':>8} {'min':>8} {'max':>8}")
    medians = []
    for name, run in rows():
        times = [measure(run, options.requests) for _ in range(options.rounds)]
        medians.append(statistics.median(times))
        print(f"{name:44} {medians[-1]:8.1f} {min(times):8.1f} {max(times):8.1f}")
    sealing = medians[0] - medians[1] - medians[2]
    print(
        f"\none-shot without the signature {sealing:.0f} us (bound 600), in a session {medians[3]:.0f} us (bound 100)"
    )


def machine() -> str:
    names = [row.split(":")[1].strip() for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row]
    load = os.getloadavg()[0]
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cpus, load {load:.1f}, "
        f"Python {platform.python_version()}, cryptography {cryptography.__version__}"
    )


def measure(run: Callable[[int], object], count: int) -> float:
    begin = time.thread_time_ns()
    run(count)
    return (time.thread_time_ns() - begin) / count / 1000


def rows() -> Iterable[tuple[str, Callable[[int], object]]]:
    header = Header(model=MODEL, lease=LEASE, account=ACCOUNT, price_cap=10**9, expires=EXPIRES, grant=GRANT)
    signature = ACCOUNT_KEY.sign(bytes(64))

    def receiver() -> SessionReceiver:
        made = SessionReceiver(KEYS[0], HOSTS[0])
        made.admit(LEASE, ACCOUNT, EXPIRES)
        return made

    def one_shot(count: int) -> None:
        enclave = receiver()
        for _ in range(count):
            sealed = seal_request(header, BODY, RECIPIENTS, ACCOUNT_KEY, os.urandom)
            enclave.open(parse_request(sealed.data, HOSTS[0]), now=NOW)

    def session() -> tuple[SessionSender, SessionReceiver]:
        sender = SessionSender(
            model=MODEL,
            lease=LEASE,
            expires=EXPIRES,
            grant=GRANT,
            account_key=ACCOUNT_KEY,
            recipients=RECIPIENTS,
            random=os.urandom,
        )
        first, enclave = sender.seal(BODY, price_cap=10**9), receiver()
        enclave.open(parse_request(first.data, HOSTS[0]), now=NOW)
        return sender, enclave

    def in_session(count: int, *, confirmed: bool) -> None:
        sender, enclave = state[confirmed]
        for _ in range(count):
            sealed = sender.seal(BODY, price_cap=10**9)
            enclave.open(parse_request(sealed.data, HOSTS[0]), now=NOW)

    def open_session(count: int) -> None:
        for _ in range(count):
            session()

    def answer(count: int, frames: int) -> None:
        for _ in range(count):
            sealer = ResponseSealer(bytes(32), bytes(32), bytes(16))
            opener = ResponseOpener(bytes(32), bytes(32))
            for number in range(frames):
                opener.feed(sealer.seal(encode_frame(FrameType.DATA, bytes(180)), last=number == frames - 1))

    state = {False: session(), True: session()}
    confirmed = state[True][0].seal(BODY, price_cap=1)
    for host in HOSTS:
        state[True][0].confirm(host, confirmed)
    yield "one-shot: seal to 3 and open, signed", one_shot
    yield "  of which account signature, made", lambda n: [ACCOUNT_KEY.sign(bytes(64)) for _ in range(n)]
    yield (
        "  of which account signature, checked",
        lambda n: [check_account_signature(ACCOUNT, signature, bytes(64)) for _ in range(n)],
    )
    yield "in a session: seal to 3 and open", lambda n: in_session(n, confirmed=True)
    yield "in a session not yet confirmed", lambda n: in_session(n, confirmed=False)
    yield "open a session with 3 hosts (once a lease)", lambda n: open_session(max(n // 10, 1) * 10)
    yield "answer of one JSON object, seal and open", lambda n: answer(n, 1)
    yield "answer of 21 events, seal and open", lambda n: answer(n, 21)


if __name__ == "__main__":
    main()
