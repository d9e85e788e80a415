"""Recovery keys as people write and type them (docs/format.md, "Key slots")."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from blake3 import blake3

from holdfast_server.repository.content_keys import KEY

__all__ = ["is_mistyped_recovery_key", "recovery_secret", "recovery_text"]

CONTEXT_RECOVERY_CHECK: Final = b"holdfast recovery key"
RECOVERY_PREFIX: Final = "HFRK1"
RECOVERY_CHECK: Final = 3


def recovery_text(secret: bytes) -> str:
    """A recovery key's 32 bytes as they are shown: `HFRK1-` and 56 letters and digits in groups of four."""
    letters = base64.b32encode(secret + _recovery_check(secret)).decode()
    return "-".join([RECOVERY_PREFIX, *(letters[at : at + 4] for at in range(0, len(letters), 4))])


def recovery_secret(text: str) -> bytes | None:
    """The 32 bytes of a recovery key as somebody typed it; None when it is none, or was mistyped."""
    letters = _recovery_letters(text)
    if letters is None:
        return None
    try:
        content = base64.b32decode(letters)
    except binascii.Error:
        return None
    secret, check = content[:KEY], content[KEY:]
    return secret if len(secret) == KEY and check == _recovery_check(secret) else None


def is_mistyped_recovery_key(text: str) -> bool:
    """Whether it looks like a recovery key and cannot be one."""
    return _recovery_letters(text) is not None and recovery_secret(text) is None


def _recovery_letters(text: str) -> str | None:
    bare = "".join(text.split()).replace("-", "").upper()
    return bare.removeprefix(RECOVERY_PREFIX) if text.isascii() and bare.startswith(RECOVERY_PREFIX) else None


def _recovery_check(secret: bytes) -> bytes:
    return blake3(CONTEXT_RECOVERY_CHECK + secret).digest(RECOVERY_CHECK)
