"""A second reader of coin envelopes, written from docs/format.md and from nothing in the product."""

from __future__ import annotations

import struct

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id


def read(data: bytes, password: bytes) -> bytes:
    """The content; raises on anything out of order."""
    magic, version, flags, passes, lanes, memory, salt, key_id, size, tag, check = struct.unpack(
        "<4sBBBBI16s16sQ32s8s", data[:92]
    )
    assert (magic, version) == (b"HFCC", 1)
    assert flags in (0, 1)
    assert check == blake3(data[:84]).digest()[:8]
    root = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(password)

    def derive(purpose: str) -> bytes:
        return blake3(root, derive_key_context=f"holdfast 2026 coin envelope 1: {purpose}").digest()

    assert derive("key id")[:16] == key_id
    cipher, content, at = AESGCMSIV(derive("encryption")), b"", 92
    chunks = max(1, -(-size // 1_048_576))
    for number in range(chunks):
        last = number == chunks - 1
        position = number.to_bytes(8, "little") + (b"\x01" if last else b"\x00")
        nonce = blake3(tag + position, key=derive("nonce")).digest()[:12]
        end = at + (size - number * 1_048_576 if last else 1_048_576) + 16
        content += cipher.decrypt(nonce, data[at:end], data[:92] + position)
        at = end
    assert at == len(data)
    assert len(content) == size
    assert flags == 1 or blake3(content, key=derive("content tag")).digest() == tag
    return content
