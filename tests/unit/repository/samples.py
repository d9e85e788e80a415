"""A repository's keys, and damage done to objects, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason
from holdfast_server.repository.crypto import ContentKeys, IndexKeys

UUID, OTHER_UUID = bytes(range(16)), bytes(range(1, 17))
INDEX_KEY = bytes(range(32))
KEYS = IndexKeys(INDEX_KEY, UUID)
CONTENT = ContentKeys.generate()
NOW = 1_800_000_000_000_000
RUN = "0e2ad3c8-4a9b-4d0e-a9a5-4b3d6c7e8f90"
OTHER_RUN = "1e2ad3c8-4a9b-4d0e-a9a5-4b3d6c7e8f90"


def flips(content: bytes) -> Iterator[bytes]:
    """The content with each byte changed, in one bit or in all."""
    for at in range(len(content)):
        for mask in (1, 255):
            yield content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


def cuts(content: bytes) -> Iterator[bytes]:
    """The content cut at each length, and with more behind it."""
    for length in range(len(content)):
        yield content[:length]
    yield content + b"\0"


def refused(call: Callable[[], object], reason: Reason = Reason.CHECKSUM_MISMATCH) -> HoldfastError:
    """The error of a call that must be refused for just that."""
    with pytest.raises(HoldfastError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    kind = DataLoss if reason is Reason.CHECKSUM_MISMATCH else FailedPrecondition
    assert isinstance(caught.value, kind)
    return caught.value


def shows(shown: str, *secrets: bytes) -> bool:
    """Whether a text holds a secret in some spelling."""
    spellings = [spelling for secret in secrets for spelling in (secret.hex(), repr(secret), secret[:8].hex())]
    return any(spelling in shown for spelling in spellings)


def told(error: HoldfastError) -> str:
    return "\n".join([error.message, repr(error.metadata), repr(error), repr(error.__cause__)])
