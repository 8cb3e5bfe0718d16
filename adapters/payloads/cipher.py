"""The form of an encrypted payload: a sealed head, then chunks, each authenticated with its place.

    magic 8 | key id 8 | salt 32 | plain size 8 | BLAKE2b of the plain bytes 32 | tag 16       (big endian)
    then for each chunk of CHUNK_BYTES plain bytes (the last may be shorter): AES-256-GCM of it, with its tag of 16

Each file has a key of its own, made from the master key and the salt by HKDF-SHA256; so a chunk of another file never
fits, and a nonce, which is the chunk's number, is used once. What is authenticated beside each chunk is its number and
whether it is the last: chunks can't be reordered, left out or cut off. The head is sealed last and proven first, and
names the content: a file under another one's name is noticed before a byte is given.

Owns the bytes. Never opens a file by its name, and never keeps more of one than a chunk.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from runtime.errors import PayloadDamaged, PayloadKeyWrong

KEY_BYTES = 32
CHUNK_BYTES = 2**20
DIGEST_BYTES, TAG_BYTES, SALT_BYTES = 32, 16, 32

_MAGIC = b"PSTKPAY1"
_HEAD = struct.Struct(f">8s8s{SALT_BYTES}sQ{DIGEST_BYTES}s")
_HEAD_BYTES = _HEAD.size + TAG_BYTES
_NONCE = struct.Struct(">IQ")  # 0 a chunk, 1 the head; number
_PLACE = struct.Struct(">QB")  # number, whether it is the last
_HEAD_NONCE = _NONCE.pack(1, 0)


class Content(NamedTuple):
    """What a payload is: its plain size and the digest of its plain bytes."""

    size: int
    digest: bytes

    @property
    def chunks(self) -> int:
        """How many chunks it has; an empty one has one."""
        return max(1, -(-self.size // CHUNK_BYTES))


def encrypt(chunks: Iterable[bytes], into: BinaryIO, key: bytes) -> Content:
    """Write plain bytes encrypted; until the head is there, at the very end, nobody can read what was written."""
    salt = os.urandom(SALT_BYTES)
    cipher = _cipher(key, salt)
    digest, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    into.write(bytes(_HEAD_BYTES))
    for number, (piece, is_last) in enumerate(_pieces(chunks)):
        digest.update(piece)
        size += len(piece)
        into.write(cipher.encrypt(_NONCE.pack(0, number), piece, _PLACE.pack(number, is_last)))
    head = _HEAD.pack(_MAGIC, _key_id(key), salt, size, digest.digest())
    into.seek(0)
    into.write(head + cipher.encrypt(_HEAD_NONCE, b"", head))
    return Content(size, digest.digest())


def proven(source: BinaryIO, key: bytes) -> tuple[Content, AESGCM]:
    """What the head says, and the file's cipher, for `decrypt`. Raises PayloadKeyWrong, PayloadDamaged."""
    sealed = source.read(_HEAD_BYTES)
    if len(sealed) < _HEAD_BYTES or not sealed.startswith(_MAGIC):
        raise PayloadDamaged("the payload has no head: it was cut off, or is none")
    head, tag = sealed[: _HEAD.size], sealed[_HEAD.size :]
    _, key_id, salt, size, digest = _HEAD.unpack(head)
    if key_id != _key_id(key):
        raise PayloadKeyWrong("the payload was encrypted under another key; see [payloads] in the configuration")
    cipher = _cipher(key, salt)
    _opened(cipher, _HEAD_NONCE, tag, head)
    content = Content(size, digest)
    if source.seek(0, os.SEEK_END) != _HEAD_BYTES + size + content.chunks * TAG_BYTES:
        raise PayloadDamaged("the payload has not the length that its head names")
    return content, cipher


def decrypt(source: BinaryIO, content: Content, cipher: AESGCM) -> Iterator[bytes]:
    """The plain bytes of a payload whose head is proven, chunk by chunk. Raises PayloadDamaged."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    source.seek(_HEAD_BYTES)
    for number in range(content.chunks):
        is_last = number == content.chunks - 1
        sealed = source.read(CHUNK_BYTES + TAG_BYTES)
        piece = _opened(cipher, _NONCE.pack(0, number), sealed, _PLACE.pack(number, is_last))
        digest.update(piece)
        yield piece
    if digest.digest() != content.digest:
        raise PayloadDamaged("the payload is not what its head names")


def _opened(cipher: AESGCM, nonce: bytes, sealed: bytes, beside: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, sealed, beside)
    except (InvalidTag, ValueError):
        raise PayloadDamaged("the payload was changed since it was kept") from None


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The same bytes in pieces of CHUNK_BYTES, each with whether it is the last."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) > CHUNK_BYTES:  # what is held may be the last piece until more has come
            yield bytes(held[:CHUNK_BYTES]), False
            del held[:CHUNK_BYTES]
    yield bytes(held), True


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, b"penstock payload").derive(key))


def _key_id(key: bytes) -> bytes:
    """Tells keys apart and tells nothing of them."""
    return hashlib.blake2b(key, digest_size=8, person=b"penstock key id").digest()
