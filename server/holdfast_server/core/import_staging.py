"""Where an import writes before it is committed: a folder of its attempt below `.holdfast`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.local import fsync_directory, fsync_file, remove_tree, sync_filesystem
from holdfast_server.storage.syscalls import syncfs_reports_errors
from holdfast_server.wallets.layout import RESERVED_FOLDER

__all__ = ["Staging"]

_SERVICE = RESERVED_FOLDER.encode()


class Staging:
    """An attempt's staging folder. The descriptor is opened before the first write, so that a failed write-back of any
    file is reported to it."""

    def __init__(self, wallet: WalletFolder, name: bytes) -> None:
        self._wallet = wallet
        self._name = name
        with wallet.folder(_SERVICE, create=True) as service:
            os.mkdir(name, 0o700, dir_fd=service)
            fsync_directory(service)
            self._fd = os.open(name, DIRECTORY_FLAGS, dir_fd=service)
        self._each = not syncfs_reports_errors()
        self._digests: dict[bytes, bytes] = {}

    def add(self, content: bytes, mtime_ns: int | None = None) -> bytes:
        """Write a file; gives its name."""
        name = f"{len(self._digests):08}".encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
            if mtime_ns is not None:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            if self._each:
                fsync_file(fd)
        finally:
            os.close(fd)
        self._digests[name] = hashlib.sha256(content).digest()
        return name

    def prove(self, check: Callable[[], None]) -> None:
        """Sync everything, and compare what the disk gives back. Raises DataLoss/CHECKSUM_MISMATCH."""
        if not self._each:
            sync_filesystem(self._fd)
        fsync_directory(self._fd)
        for name, digest in self._digests.items():
            check()
            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd), "rb") as file:
                if hashlib.file_digest(file, "sha256").digest() != digest:
                    text = f"the wallet's disk gives back other bytes than it was given, in {self._wallet.root.display}"
                    raise DataLoss(Reason.CHECKSUM_MISMATCH, text, metadata={"path": self._wallet.root.display})

    def remove(self) -> tuple[int, int]:
        """Remove it with all that is in it; gives (files, bytes)."""
        os.close(self._fd)
        with self._wallet.folder(_SERVICE) as service:
            return remove_tree(service, self._name)

    def close(self) -> None:
        os.close(self._fd)
