"""Open-tier enclaves in memory that answer challenges for real, and the two ports of a registry: gate and route map."""

import hashlib
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.evidence import Evidence, encode_evidence
from attestation.merkle import inclusion_proof, nonce_root
from attestation.policy import AppraisalPolicy, ReferenceValues
from attestation.roots import TrustedRoots
from attestation.transcript import Transcript, host_id
from attestation.verdict import Tier
from cluster.admission import PROVE_TAG, NetworkTerms
from cluster.errors import EnclaveSilentError, EnclaveUnreachableError
from cluster.reputation import HostCounts
from tests.cluster.fleets import MODEL, NOW, name_bytes

POLICY = AppraisalPolicy(
    reference=ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset()),
    roots=TrustedRoots.none(),
    required_tier=Tier.OPEN,
    unsafe_accept_open_hosts=True,
)
TERMS = NetworkTerms(
    seqno=1,
    reference=ReferenceValues(measurements=frozenset(), rims=frozenset(), models=frozenset({MODEL.root})),
    models=(MODEL,),
    operator=b"\x01" * 32,
    fee_permille=50,
)


class OpenEnclave:
    """One enclave instance: new keys with every instance."""

    def __init__(self, name: str, models: tuple[bytes, ...] = (MODEL.root,)) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(name_bytes("receipt" + name, 32))
        self.hpke = name_bytes("hpke" + name, 1216)
        self.payee = b"\0" + name_bytes("owner" + name, 32)
        self.models = models
        self.alive = True
        self.running = 0

    @property
    def receipt(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @property
    def host_id(self) -> bytes:
        return host_id(self.hpke, self.receipt)

    def evidence(self, nonce: bytes) -> bytes:
        transcript = Transcript(
            nonce_root=nonce_root([nonce]),
            hpke=self.hpke,
            receipt=self.receipt,
            payee=self.payee,
            models=self.models,
            engine=hashlib.sha256(b"engine").digest(),
        )
        return encode_evidence(Evidence(transcript=transcript, inclusion=inclusion_proof([nonce], 0), cpu=None))

    def health(self) -> dict[str, object]:
        return {
            "host_id": self.host_id.hex(),
            "ready": True,
            "loading": False,
            "running": self.running,
            "waiting": 0,
            "served": 0,
            "failed": 0,
            "abandoned": 0,
            "output_tokens": 0,
            "models": [root.hex() for root in self.models],
        }

    def prove(self, challenge: bytes) -> bytes:
        return self.key.sign(PROVE_TAG + challenge)


class Gate:
    """A network of enclaves by address."""

    def __init__(self, **enclaves: OpenEnclave) -> None:
        self.enclaves: dict[str, OpenEnclave] = dict(enclaves)
        self.nonces: list[bytes] = []
        self.silent: set[str] = set()  # no answer comes in time

    def _at(self, address: str) -> OpenEnclave:
        enclave = self.enclaves.get(address)
        if enclave is None or not enclave.alive:
            raise EnclaveUnreachableError(f"{address}: no answer")
        return enclave

    async def fetch_evidence(self, address: str, nonce: bytes) -> bytes:
        self.nonces.append(nonce)
        return self._at(address).evidence(nonce)

    async def fetch_health(self, address: str) -> dict[str, object]:
        if address in self.silent:
            raise EnclaveSilentError(f"{address}: no answer in time")
        return self._at(address).health()


class RouteMap:
    """The relay's map, with a switch for a relay that does not answer."""

    def __init__(self) -> None:
        self.hosts: dict[bytes, str] = {}
        self.trouble: Exception | None = None
        self.counts: dict[bytes, HostCounts] = {}

    async def set_hosts(self, hosts, *, only: bool) -> None:
        if self.trouble:
            raise self.trouble
        self.hosts = dict(hosts) if only else {**self.hosts, **hosts}

    async def outcomes(self) -> dict[bytes, HostCounts]:
        return dict(self.counts)


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
