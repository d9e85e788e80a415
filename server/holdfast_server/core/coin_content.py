"""What one opened file holds of coins, through the envelope around it if there is one."""

from __future__ import annotations

import errno
import os

from holdfast_server.wallets.coin_file import MAX_SIZE, CoinFile, Container, read_coin_file
from holdfast_server.wallets.envelope import Keyring

__all__ = ["MAX_COIN_FILE", "open_coins", "read_content"]

#: Bytes of the largest file that is read for coins.
MAX_COIN_FILE = MAX_SIZE

_BLOCK = 1 << 20


def read_content(fd: int) -> bytes:
    """All of an opened file. Raises OSError(EFBIG) when that is more than MAX_COIN_FILE."""
    parts: list[bytes] = []
    left = MAX_COIN_FILE + 1
    while left and (part := os.read(fd, min(_BLOCK, left))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise OSError(errno.EFBIG, f"is larger than {MAX_COIN_FILE} bytes")
    return b"".join(parts)


def open_coins(content: bytes, keyring: Keyring) -> tuple[bytes, CoinFile]:
    """The content without its envelope, and what it holds.

    Raises what `Keyring.open` does: KEY_REQUIRED, KEY_WRONG, CHECKSUM_MISMATCH.
    """
    found = read_coin_file(content)
    if found.container is not Container.ENVELOPE:
        return content, found
    content = keyring.open(content)
    return content, read_coin_file(content)
