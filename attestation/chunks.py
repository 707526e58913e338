"""A stream of bytes as padded, encrypted chunks whose end is authenticated, and the derivation of every envelope key.

chunk     = u8 flag | u32 size | ciphertext      flag 1 = last; these 5 bytes are the associated data
plaintext = u32 length | data | zeros            filled up to a multiple of BUCKET
AEAD      = ChaCha20-Poly1305, nonce = chunk number as 12 bytes big endian; one key serves one stream
"""

from hashlib import sha256
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from attestation.errors import EnvelopeAuthenticationError, MalformedEnvelopeError

BUCKET = 256  # plaintext of every chunk is filled up to a multiple of this, so sizes tell little about tokens
CHUNK_MAX = 1 << 20  # longest data of one chunk
_CHUNK_HEAD = Struct(">BI")
HEAD = _CHUNK_HEAD.size
TAG = 16
KEY = 32
_BLOCK = 64  # of SHA-256
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
LAST = 1


def derive(key: bytes, label: bytes, context: bytes = b"") -> bytes:
    """One 32-byte key for one purpose: HKDF-Expand with a single block (RFC 5869, section 2.3).

    HMAC (RFC 2104) is written out: each answer derives three keys, and the library's call costs thrice as much.
    """
    if len(key) != KEY:
        raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
    padded = key + bytes(_BLOCK - KEY)
    inner = sha256(padded.translate(_INNER) + b"chrysalis/1 " + label + b"\0" + context + b"\1").digest()
    return sha256(padded.translate(_OUTER) + inner).digest()


def decrypt(aead: ChaCha20Poly1305, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The plaintext, or `EnvelopeAuthenticationError`."""
    try:
        return aead.decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise EnvelopeAuthenticationError("the ciphertext was altered, or sealed with another key") from None


class ChunkSealer:
    """Data to chunks. One key must serve one stream only."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._count = 0
        self._closed = False

    def chunk(self, data: bytes, *, last: bool = False) -> bytes:
        """One chunk of at most `CHUNK_MAX` bytes of data; nothing can follow the last one."""
        if self._closed:
            raise RuntimeError("the stream already has its last chunk")
        if len(data) > CHUNK_MAX:
            raise ValueError(f"a chunk takes {CHUNK_MAX} bytes, not {len(data)}")
        plain = len(data).to_bytes(4, "big") + data + bytes(-(len(data) + 4) % BUCKET)
        head = _CHUNK_HEAD.pack(LAST if last else 0, len(plain) + TAG)
        sealed = self._aead.encrypt(self._count.to_bytes(12, "big"), plain, head)
        self._count += 1
        self._closed = last
        return head + sealed

    def whole(self, data: bytes) -> bytes:
        """All of `data` as chunks, the last one flagged."""
        if len(data) <= CHUNK_MAX:
            return self.chunk(data, last=True)
        cuts = range(0, len(data), CHUNK_MAX)
        return b"".join(self.chunk(data[at : at + CHUNK_MAX], last=at + CHUNK_MAX >= len(data)) for at in cuts)


class ChunkOpener:
    """Chunks back to data, for any slicing of the stream; `finished` stays False when the stream was cut."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._count = 0
        self._rest = bytearray()  # grows in place: whoever cuts the stream into single bytes must not cost us copies
        self.finished = False

    def feed(self, received: bytes) -> list[bytes]:
        """The data of every chunk that is complete now.

        Raises:
            MalformedEnvelopeError: a chunk has impossible sizes, or follows the last one.
            EnvelopeAuthenticationError: a chunk was altered, moved, or sealed with another key.
        """
        self._rest += received
        opened, at = self._take(self._rest)
        del self._rest[:at]
        if self.finished and self._rest:
            raise MalformedEnvelopeError("bytes follow the last chunk")
        return opened

    def whole(self, received: bytes) -> bytes:
        """The data of a complete stream; a cut one raises `MalformedEnvelopeError`."""
        opened, at = self._take(received)
        if not self.finished:
            raise MalformedEnvelopeError("the stream ends before its last chunk: it was cut short")
        if at < len(received):
            raise MalformedEnvelopeError("bytes follow the last chunk")
        return opened[0] if len(opened) == 1 else b"".join(opened)

    def _take(self, buffer: bytes | bytearray) -> tuple[list[bytes], int]:
        """The data of the chunks that are complete at the front of `buffer`, and where they end."""
        at, opened = 0, []
        while len(buffer) - at >= HEAD:
            flag, size = _CHUNK_HEAD.unpack_from(buffer, at)
            if self.finished or flag > LAST or (size - TAG) % BUCKET or not BUCKET <= size - TAG <= CHUNK_MAX + BUCKET:
                raise MalformedEnvelopeError("a chunk head is not one: the stream was altered or is out of step")
            end = at + HEAD + size
            if len(buffer) < end:
                break
            opened.append(self._open(bytes(buffer[at : at + HEAD]), bytes(buffer[at + HEAD : end])))
            at, self.finished = end, flag == LAST
        return opened, at

    def _open(self, head: bytes, sealed: bytes) -> bytes:
        plain = decrypt(self._aead, self._count.to_bytes(12, "big"), sealed, head)
        self._count += 1
        length = int.from_bytes(plain[:4], "big")
        gap = len(plain) - 4 - length
        if not 0 <= gap < BUCKET or plain.count(0, 4 + length) != gap:
            raise MalformedEnvelopeError("the padding of a chunk is not zeros up to the next bucket")
        return plain[4 : 4 + length]
