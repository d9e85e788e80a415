"""Keys from what people remember: Argon2id (RFC 9106), with bounds that are checked before anything is spent."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

__all__ = ["MAX_LANES", "MAX_MEMORY_KIB", "MAX_PASSES", "SALT_SIZE", "KeyParameters"]

MAX_MEMORY_KIB, MAX_PASSES, MAX_LANES = 1 << 20, 16, 16
SALT_SIZE = 16
_KEY_SIZE = 32
_MIN_LANE_KIB = 8

#: Two derivations of more than one lane at a time wait for each other's threads for ever (OpenSSL 4.0.3), whoever makes
#: them: every one in the process is made here.
_deriving = threading.Lock()


@dataclass(frozen=True, slots=True)
class KeyParameters:
    """How a password becomes a key: Argon2id's salt (16 bytes), memory in KiB, passes and lanes. No secret.

    Raises ValueError outside of what a reader may be made to spend: 1 GiB, 16 passes, 16 lanes.
    """

    salt: bytes
    memory_kib: int = 64 << 10
    passes: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        if len(self.salt) != SALT_SIZE:
            raise ValueError(f"a salt of {len(self.salt)} bytes instead of {SALT_SIZE}")
        if not (1 <= self.lanes <= MAX_LANES and 1 <= self.passes <= MAX_PASSES):
            raise ValueError(f"{self.passes} passes and {self.lanes} lanes are out of range")
        if not _MIN_LANE_KIB * self.lanes <= self.memory_kib <= MAX_MEMORY_KIB:
            raise ValueError(f"{self.memory_kib} KiB of memory are out of range")

    @classmethod
    def new(cls) -> KeyParameters:
        """A new random salt, and the second recommendation of RFC 9106: 64 MiB, 3 passes, 4 lanes."""
        return cls(secrets.token_bytes(SALT_SIZE))

    def derive(self, password: bytes) -> bytes:
        """The key of a password, 32 bytes; takes `memory_kib` of memory, and 0.2 s with the default parameters.

        Thread-safe: one is made at a time.
        """
        function = Argon2id(
            salt=self.salt,
            length=_KEY_SIZE,
            iterations=self.passes,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        )
        with _deriving:
            return function.derive(password)
