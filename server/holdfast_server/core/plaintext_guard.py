"""The proof that a backup of an unlocked wallet holds no coin in clear: a look at every byte that is really stored.

It stands between the job, which decides what is encrypted, and the archive writer, and believes nothing of what was
decided: what it is given is parsed again, and envelopes are opened again. Archives are proved to hold what the writer
was given (ADR 7), sealed ones too, so what passed here is what lies in the archive.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator

from holdfast_server.archive.manifest import EntryEncryption
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.writer import ArchiveWriter, Mark
from holdfast_server.errors import DataLoss, HoldfastError, Reason
from holdfast_server.storage.names import escape
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.envelope import Keyring, WalletKey
from holdfast_server.wallets.exposure import FIRST_SIZE, in_recovery, is_envelope, may_be_exposed

__all__ = ["PlaintextGuard"]


class PlaintextGuard:
    """An archive writer that takes no coin in clear. Raises DataLoss/PLAINTEXT_COIN, after which the archive is to be
    aborted: members before it may be written, and none of them is a coin in clear either."""

    def __init__(self, writer: ArchiveWriter, key: WalletKey) -> None:
        self._writer = writer
        self._keyring = Keyring([key])

    @property
    def can_rollback(self) -> bool:
        return self._writer.can_rollback

    def mark(self) -> Mark:
        return self._writer.mark()

    def rollback(self, mark: Mark) -> None:
        self._writer.rollback(mark)

    def add(
        self,
        member: Member,
        content: bytes = b"",
        *,
        changed: bool = False,
        encryption: EntryEncryption | None = None,
    ) -> None:
        """As the writer's own, once the content was looked through."""
        if member.kind is MemberKind.FILE:
            self._inspect(member, content, encryption)
        self._writer.add(member, content, changed=changed, encryption=encryption)

    def add_stream(
        self,
        member: Member,
        blocks: Iterable[bytes],
        *,
        changed: bool | Callable[[], bool] = False,
        encryption: Callable[[], EntryEncryption | None] = lambda: None,
    ) -> int:
        """As the writer's own, of a file too large to be parsed: its first bytes must be an envelope's, or rule out
        coins."""
        return self._writer.add_stream(member, self._inspected(member, blocks), changed=changed, encryption=encryption)

    def _inspect(self, member: Member, content: bytes, encryption: EntryEncryption | None) -> None:
        if encryption is not None:
            try:
                plain = self._keyring.open(content)
            except HoldfastError as error:
                raise _refused(member.path, f"its envelope does not open: {error.message}") from None
            if len(plain) != encryption.size or not hmac.compare_digest(
                hashlib.sha256(plain).digest(), encryption.sha256
            ):
                raise _refused(member.path, "its envelope holds something else")
        elif is_envelope(content, len(content)):
            return
        elif in_recovery(member.path):
            raise _refused(member.path, "nothing below Recovery goes in unencrypted")
        elif read_coin_file(content).legible:
            raise _refused(member.path, "it holds coins in clear")

    def _inspected(self, member: Member, blocks: Iterable[bytes]) -> Iterator[bytes]:
        source, first = iter(blocks), b""
        begun: list[bytes] = []
        while len(first) < min(FIRST_SIZE, member.size) and (block := next(source, None)) is not None:
            begun.append(block)
            first += block[:FIRST_SIZE]
        if may_be_exposed(member.path, member.size, first[:FIRST_SIZE]):
            raise _refused(member.path, "it may hold coins in clear")
        yield from begun
        yield from source


def _refused(path: bytes, why: str) -> DataLoss:
    return DataLoss(
        Reason.PLAINTEXT_COIN,
        f"{escape(path)} was about to be stored in the backup of an unlocked wallet: {why}",
        metadata={"path": escape(path), "detail": why},
    )
