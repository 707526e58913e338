"""The keys of one enclave instance: made in memory at start, never written, gone with the process."""

import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.sealing import Random
from attestation.transcript import host_id
from attestation.xwing import HostKey

PROVE_TAG = b"chrysalis/1 prove"
CHALLENGE_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveKeys:
    """What makes this instance itself. Another start makes other keys, and so another host id."""

    hpke: HostKey = field(repr=False)
    receipt: Ed25519PrivateKey = field(repr=False)
    salt: bytes = field(repr=False)  # separates prefix caches of accounts
    receipt_public: bytes
    host_id: bytes

    @classmethod
    def generate(cls, random: Random) -> "EnclaveKeys":
        """Fresh keys."""
        hpke, receipt = HostKey.generate(), Ed25519PrivateKey.generate()
        public = receipt.public_key().public_bytes_raw()
        return cls(
            hpke=hpke, receipt=receipt, salt=random(32), receipt_public=public, host_id=host_id(hpke.public, public)
        )

    def prove(self, challenge: bytes) -> bytes:
        """Signature by which the Ray side of a host shows that it reaches this instance's control socket."""
        if not 16 <= len(challenge) <= CHALLENGE_MAX:
            raise ValueError(f"a challenge has 16 to {CHALLENGE_MAX} bytes, not {len(challenge)}")
        return self.receipt.sign(PROVE_TAG + challenge)

    def cache_salt(self, account: bytes) -> bytes:
        """A value that differs between accounts and that nobody outside can guess."""
        return hmac.digest(self.salt, b"chrysalis/1 cache\0" + account, "sha256")
