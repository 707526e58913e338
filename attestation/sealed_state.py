"""State that only the same image with the same configuration, on the same chip, can read again.

    header = u8 1 | u64 generation | salt (32) | commitment (32)
    record = nonce (12) | ChaCha20-Poly1305 ciphertext and tag      associated data: tag before | head
    blob   = header | one record

- The hardware derives the root key: see `SealingKeySource`. Every file has its own key, from the root key and its salt.
- The commitment says at once whether a file is of another image, configuration or chip, or its header was altered.
- Each record is tied to the one before it by its tag, the first to the header. So none can be left out, moved, doubled
  or taken from another file; nor from another future of the same file, should somebody put an old copy in its place.
- A nonce is 8 random bytes of the process and a number that it uses once: a record that is written again after a
  failure, or after an old copy was put in place, never uses one again.
- Nothing here notices an old copy of a whole file, or one whose end is missing. `generation` is for callers who keep a
  counter where the host's owner cannot turn it back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hmac import compare_digest
from pathlib import Path
from struct import Struct
from typing import Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from attestation.chunks import derive
from attestation.errors import (
    ForeignSealError,
    MalformedSealedStateError,
    SealedStateAlteredError,
    SealedStateRollbackError,
)

KEY = 32
TAG = 16
NONCE = 12
OVERHEAD = NONCE + TAG
_HEADER = Struct(">BQ32s32s")
HEADER = _HEADER.size
_VERSION = 1
_NUMBER = Struct(">I")
_RECORDS_MAX = (1 << 32) - 1  # that one process writes

Random = Callable[[int], bytes]


class SealingKeySource(Protocol):
    """Hardware that gives the guest a key nobody else gets.

    SEV-SNP derives one from a chip secret and the guest's measurement (`attestation.sev_guest`). TDX has no such call:
    there a vTPM, or an enclave of the host's processor that checks the guest's report, keeps a secret and derives.
    """

    def sealing_key(self, context: bytes) -> bytes:
        """Return 32 bytes that depend on chip, image, configuration and context; the same at every start.

        Raises:
            AttesterError: the hardware did not answer.
        """
        ...


class UnsafeFileKeySource:
    """For hosts without a TEE: a secret in a file. It protects from whoever gets the sealed file and not this one."""

    def __init__(self, path: Path) -> None:
        """`path` is made on first use, readable by its owner only."""
        self._path = path

    def sealing_key(self, context: bytes) -> bytes:
        """See `SealingKeySource`; bound to the file only.

        Raises:
            ValueError: the file holds something else than a secret.
        """
        secret = self._secret()
        if len(secret) != KEY:
            raise ValueError(f"{self._path} holds {len(secret)} bytes, not a secret of {KEY}")
        return derive(secret, b"unsafe sealing", context)

    def _secret(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            secret = os.urandom(KEY)
            with os.fdopen(file, "wb") as new:
                new.write(secret)
                new.flush()
                os.fsync(file)
            return secret


class RecordSealer:
    """Seals and opens the records of one file."""

    def __init__(self, root: bytes, generation: int, salt: bytes, random: Random) -> None:
        """Use `create` or `read`."""
        key = derive(root, b"sealed file", salt)
        commitment = derive(root, b"sealed file commitment", salt + generation.to_bytes(8, "big"))
        self.header = _HEADER.pack(_VERSION, generation, salt, commitment)
        self.generation = generation
        self._aead, self._prefix, self._count = ChaCha20Poly1305(key), random(NONCE - _NUMBER.size), 0

    @classmethod
    def create(cls, root: bytes, *, generation: int, random: Random) -> Self:
        """Begin a file; `header` is what it begins with.

        Args:
            root: from a `SealingKeySource`, 32 bytes.
            generation: number of this state, for callers who can compare it; below 2^64.
            random: n -> n unpredictable bytes, as os.urandom.
        """
        return cls(root, generation, random(32), random)

    @classmethod
    def read(cls, root: bytes, header: bytes, *, random: Random) -> Self:
        """Go on with a file that begins with `header`.

        Raises:
            MalformedSealedStateError: it is no header of this version.
            ForeignSealError: another image, configuration, chip or purpose sealed it.
        """
        if len(header) != HEADER or header[0] != _VERSION:
            raise MalformedSealedStateError(f"a header of {len(header)} bytes; want {HEADER}, version {_VERSION} first")
        _, generation, salt, _ = _HEADER.unpack(header)
        sealer = cls(root, generation, salt, random)
        if not compare_digest(sealer.header, header):
            raise ForeignSealError("sealed by another image, configuration or chip than this one")
        return sealer

    @property
    def start(self) -> bytes:
        """What the first record follows: it stands for the tag before it."""
        return self.header

    def seal(self, before: bytes, head: bytes, content: bytes) -> bytes:
        """Return a record; its last `TAG` bytes are what the next one follows.

        Args:
            before: the tag of the record before it, or `start`.
            head: what stands in clear in front of it, authenticated with it.
            content: what nobody else may read.
        """
        if self._count == _RECORDS_MAX:
            raise RuntimeError("too many records of one process: open the file again")
        self._count += 1
        nonce = self._prefix + _NUMBER.pack(self._count)
        return nonce + self._aead.encrypt(nonce, content, before + head)

    def open(self, before: bytes, head: bytes, record: bytes) -> bytes:
        """Return the content of a record that stands behind `before`.

        Raises:
            SealedStateAlteredError: altered, cut short, or from another place or file.
        """
        if len(record) < OVERHEAD:
            raise SealedStateAlteredError(f"a record of {len(record)} bytes was cut short")
        try:
            return self._aead.decrypt(record[:NONCE], record[NONCE:], before + head)
        except InvalidTag:
            raise SealedStateAlteredError("a record was altered, or belongs to another place or file") from None


def seal(root: bytes, content: bytes, *, generation: int, random: Random) -> bytes:
    """Return `content` sealed under a root key: `HEADER` + `OVERHEAD` bytes more."""
    sealer = RecordSealer.create(root, generation=generation, random=random)
    return sealer.header + sealer.seal(sealer.start, b"", content)


def unseal(root: bytes, blob: bytes, *, generation_min: int = 0) -> bytes:
    """Return what was sealed.

    Args:
        root: the key for the same purpose, from the same source.
        blob: from `seal`.
        generation_min: the newest generation the caller knows of.

    Raises:
        SealedStateError: malformed, foreign, altered, or older than `generation_min`.
    """
    sealer = RecordSealer.read(root, blob[:HEADER], random=bytes)
    content = sealer.open(sealer.start, b"", blob[HEADER:])
    if sealer.generation < generation_min:
        raise SealedStateRollbackError(f"state of generation {sealer.generation}, the newest was {generation_min}")
    return content
