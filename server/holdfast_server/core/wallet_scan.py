"""What lies in a wallet, file by file: read by descriptors, without following a link or waiting for a pipe.

Nothing in a wallet makes a scan fail that only concerns that file, and no file is passed over in silence: what cannot
be opened, is no regular file or gives no coin is *opaque*. A folder with money in it that cannot be listed does fail
it: how many coins are there is unknown, and unknown is not 0.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from holdfast_server.core.folder_marks import TICK_SECONDS, FolderMarks
from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import STAGING_PREFIX
from holdfast_server.wallets import envelope
from holdfast_server.wallets.classify import classify
from holdfast_server.wallets.coin import Generation
from holdfast_server.wallets.coin_file import MAX_SIZE, Encryption, read_coin_file
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.layout import CONFIG_FILE, MONEY_FOLDERS, RESERVED_FOLDER, TRANSACTIONS_FILE
from holdfast_server.wallets.listing import LISTING_SIZE, single_coin

__all__ = ["LIMBO", "MONEY", "RESERVED", "Sink", "scan_wallet"]

MONEY = frozenset(map(os.fsencode, MONEY_FOLDERS))
LIMBO = b"Limbo"
RESERVED = os.fsencode(RESERVED_FOLDER)
_EXPORTS = b"export-"

_COUNTED = MONEY | {LIMBO, RESERVED}
_OWN_FILES = frozenset(map(os.fsencode, (CONFIG_FILE, TRANSACTIONS_FILE)))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A FIFO that takes a file's place must not block.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: The process is at its limits, which says nothing about the wallet.
_OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

#: Folders below each other in a folder of the wallet; wallet programs make none.
_MOST_LEVELS = 64
#: How often a wallet that changes is read.
_MOST_READINGS = 3


class Sink(Protocol):
    """Takes what a scan finds. `folder` is the first component of a file's path, empty in the wallet's root."""

    def coin(
        self,
        folder: bytes,
        name: bytes,
        ordinal: int,
        generation: Generation,
        value: int,
        serial: int,
        encrypted: bool,
        multi_coin: bool,
    ) -> None:
        """One coin. `name` is the path of its file below the folder, `ordinal` counts the file's coins from 0, `value`
        is in units of 1e-8; the flags are the file's."""

    def multi_coin(self, folder: bytes) -> None:
        """A file of several coins, readable or not."""

    def encrypted(self, folder: bytes) -> None:
        """A file whose coins are encrypted, with no key for it at hand."""

    def opaque(self, folder: bytes) -> None:
        """A file that gave no coin, or a folder that could not be listed."""


T = TypeVar("T", bound=Sink)


def scan_wallet(
    root: OpenFolder, keyring: Keyring, make: Callable[[], T], folders: Collection[bytes] | None = None
) -> T:
    """Read the whole wallet, or only some `folders`, into a new sink.

    A wallet whose folders change meanwhile is read again, so that a coin that moves is seen once; after three readings
    the last one stands, in which such a coin may be missing or double. Left out: the wallet's own config.toml and
    transactions.csv, journals directly in `.holdfast`, and what restores and imports are staging.

    Raises FailedPrecondition/SOURCE_UNREADABLE when the wallet, Bank, Fracked, Limbo, `.holdfast` or a folder below
    these cannot be listed, and what `translate_os_error` makes of the process being at its limits.
    """
    for _ in range(_MOST_READINGS):
        scan = _Scan(root, keyring, make(), folders)
        try:
            scan.run()
        except OSError as error:
            raise translate_os_error(error, f"reading {root.display}") from error
        if scan.marks.is_steady(root.fd):
            break
        time.sleep(TICK_SECONDS)
    return scan.sink


class _Scan(Generic[T]):
    """One reading."""

    def __init__(self, root: OpenFolder, keyring: Keyring, sink: T, folders: Collection[bytes] | None) -> None:
        self._root = root
        self._keyring = keyring
        self.sink = sink
        self._folders = folders
        self.marks = FolderMarks()

    def run(self) -> None:
        try:
            inner = self._list(self._root.fd, b"", b"", self._folders is None or b"" in self._folders)
        except OSError as error:
            if error.errno in _OUR_LIMITS:
                raise
            raise self._unreadable(b"", error) from error
        for name in inner:
            if (self._folders is None or name in self._folders) and not name.startswith(STAGING_PREFIX):
                self._enter(self._root.fd, name, name, b"", name != RESERVED, _MOST_LEVELS)

    def _enter(self, parent: int, name: bytes, folder: bytes, prefix: bytes, files: bool, levels: int) -> None:
        """Read the folder `name`: `prefix` below the wallet's `folder`. Without `files`, only what lies deeper."""
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                inner = self._list(fd, folder, prefix, files)
                for one in inner:
                    if folder == RESERVED and not prefix and not one.startswith(_EXPORTS):
                        continue  # copies that an import has staged: their originals are where they were
                    if levels:
                        self._enter(fd, one, folder, prefix + one + b"/", True, levels - 1)
                    else:
                        self.sink.opaque(folder)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in _OUR_LIMITS:
                raise
            if folder in _COUNTED:
                raise self._unreadable(folder + b"/" + prefix, error) from error
            self.sink.opaque(folder)

    def _list(self, fd: int, folder: bytes, prefix: bytes, files: bool) -> list[bytes]:
        """Read the files of an opened folder; gives the names of the folders in it."""
        self.marks.add(folder + b"/" + prefix if folder else b"", os.fstat(fd))
        inner = []
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                is_file = entry.is_file(follow_symlinks=False)
                if not is_file and entry.is_dir(follow_symlinks=False):
                    inner.append(name)
                elif not files or (not folder and name in _OWN_FILES):
                    continue
                elif is_file:
                    self._file(fd, name, folder, prefix)
                else:
                    self.sink.opaque(folder)
        return inner

    def _file(self, parent: int, name: bytes, folder: bytes, prefix: bytes) -> None:
        try:
            fd = os.open(name, _FILE, dir_fd=parent)
            try:
                status = os.fstat(fd)
                first = os.read(fd, LISTING_SIZE)
                coin = single_coin(first, status.st_size)
                if coin is not None:
                    self.sink.coin(folder, prefix + name, 0, *coin, False, False)
                elif stat.S_ISREG(status.st_mode):
                    self._parse(fd, status.st_size, first, folder, prefix + name)
                else:
                    self.sink.opaque(folder)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return  # it was moved: the folder has changed
        except OSError as error:
            if error.errno in _OUR_LIMITS:
                raise
            self.sink.opaque(folder)

    def _parse(self, fd: int, size: int, first: bytes, folder: bytes, name: bytes) -> None:
        """A file that its first bytes do not settle."""
        if first.startswith(envelope.MAGIC):
            content = self._open(fd, size, folder)
            if content is not None:
                self._coins(content, folder, name, encrypted=True)
            return
        kind = classify(folder + b"/" + name if folder else name, size, first)
        if kind.encryption is Encryption.ENCRYPTED:
            self.sink.encrypted(folder)
            if kind.multi_coin:
                self.sink.multi_coin(folder)
        elif size > MAX_SIZE:
            self.sink.opaque(folder)
        else:
            self._coins(_whole(fd), folder, name, encrypted=False)

    def _coins(self, content: bytes, folder: bytes, name: bytes, *, encrypted: bool) -> None:
        file = read_coin_file(content)
        if file.encryption is Encryption.ENCRYPTED:
            self.sink.encrypted(folder)
        elif not file.coins:
            self.sink.opaque(folder)
        several = len(file.coins) > 1
        if several:
            self.sink.multi_coin(folder)
        for ordinal, coin in enumerate(file.coins):
            self.sink.coin(folder, name, ordinal, coin.generation, coin.value, coin.serial, encrypted, several)

    def _open(self, fd: int, size: int, folder: bytes) -> bytes | None:
        """The content of an envelope; None, and counted, when it cannot be had."""
        header = envelope.read_header(os.pread(fd, envelope.HEADER_SIZE, 0))
        try:
            if header is not None:
                self._keyring.key_for(header)
                if header.plain_size <= MAX_SIZE and size == header.size:
                    return self._keyring.open(_whole(fd))
        except FailedPrecondition:
            self.sink.encrypted(folder)  # no key, or another one
            return None
        except HoldfastError:
            pass  # damaged
        self.sink.opaque(folder)
        return None

    def _unreadable(self, path: bytes, error: OSError) -> HoldfastError:
        shown = f"{self._root.display}/{escape(path)}".rstrip("/")
        return FailedPrecondition(
            Reason.SOURCE_UNREADABLE,
            f"{shown} cannot be listed, so nobody knows what coins are in it: {os.strerror(error.errno or 0)}",
            metadata={"path": shown, "errno": errno.errorcode.get(error.errno or 0, "")},
        )


def _whole(fd: int) -> bytes:
    """All of an opened file; of one that has grown far past the limit meanwhile, more than is parsed."""
    parts, at = [], 0
    while at <= 2 * MAX_SIZE and (part := os.pread(fd, 1 << 20, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
