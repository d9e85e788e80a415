"""Receipts: proof of the newest log entries that were seen, to tell a store that went back."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from holdfast_server.repository.keys import WriterKey, is_signed
from holdfast_server.repository.log import LogHead, LogVector

__all__ = ["Receipt"]

CONTEXT_RECEIPT: Final = b"holdfast repository 1 receipt"
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of the newest log entries that were seen at `time_us` (microseconds), signed by a node's writer key."""

    time_us: int
    vector: LogVector
    public_key: bytes
    signature: bytes

    @classmethod
    def sign(cls, uuid: bytes, vector: LogVector, writer: WriterKey, now_us: int) -> Receipt:
        return cls(now_us, vector, writer.public, writer.sign(_receipt_message(uuid, vector, now_us)))

    def is_genuine(self, uuid: bytes) -> bool:
        """Whether the holder of `public_key` signed just this for the repository `uuid`."""
        return is_signed(self.public_key, _receipt_message(uuid, self.vector, self.time_us), self.signature)


def _receipt_message(uuid: bytes, vector: Mapping[bytes, LogHead], time_us: int) -> bytes:
    heads = (writer + _U64.pack(head.sequence) + head.hash for writer, head in sorted(vector.items()))
    return b"".join([CONTEXT_RECEIPT, uuid, _U64.pack(time_us), *heads])
