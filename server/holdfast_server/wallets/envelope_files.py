"""Coin envelopes made and opened by hand, beside the files that they hold, without any server.

A file is never overwritten, and none is removed before what was made of it was synced, read back from the disk and
found equal. After a crash both are there, or the one that was there before; a `.holdfast-*.tmp` beside them may go.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from holdfast_server.errors import DataLoss, FailedPrecondition, Reason
from holdfast_server.storage.local import fsync_directory, fsync_file, publish
from holdfast_server.storage.names import escape
from holdfast_server.wallets.coin_file import MAX_SIZE, read_coin_file
from holdfast_server.wallets.envelope import (
    HEADER_SIZE,
    MAGIC,
    SUFFIX,
    ContentTag,
    KeyParameters,
    Keyring,
    StreamEncryption,
    WalletKey,
    read_header,
)

__all__ = ["coin_files", "decrypt_file", "encrypt_file", "envelopes", "key_for_files"]

_BLOCK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: So many keys are tried on what lies beside: each costs a fifth of a second.
_KEYS_TRIED = 8


def coin_files(folder: bytes, *, recursive: bool) -> list[bytes]:
    """The files of a folder in which authenticity numbers may be read, damaged coin files too; links are not followed.

    Raises OSError, also for a single file that cannot be read: it might be a coin.
    """
    return [path for path in _files(folder, recursive) if _is_legible(path)]


def envelopes(folder: bytes, *, recursive: bool) -> list[bytes]:
    """The files of a folder that are coin envelopes by name and first bytes. Raises OSError."""
    found = (path for path in _files(folder, recursive) if path.endswith(SUFFIX) and os.path.basename(path) != SUFFIX)
    return [path for path in found if _first_bytes(path).startswith(MAGIC)]


def key_for_files(password: str, folders: Iterable[bytes]) -> WalletKey:
    """The key to encrypt with: that of envelopes which lie in the folders already, if the password opens them, so that
    a wallet has one key; otherwise a new one.

    Raises InvalidArgument/INVALID_FIELD for a password that can be none, and OSError.
    """
    keyring = Keyring(password=password)
    tried: set[KeyParameters] = set()
    for folder in folders:
        for path in envelopes(folder, recursive=False):
            header = read_header(_first_bytes(path))
            if header is None or header.parameters in tried or len(tried) >= _KEYS_TRIED:
                continue
            tried.add(header.parameters)
            with suppress(FailedPrecondition):
                return keyring.key_for(header)
    return WalletKey.derive(password, KeyParameters.new())


def encrypt_file(path: bytes, key: WalletKey, *, remove: bool) -> bytes:
    """Write the envelope of a file beside it, mode 0600; gives its path. With `remove` the file goes then.

    Raises FileExistsError when the envelope's name is taken, FailedPrecondition/TARGET_CHANGED when the file changed
    meanwhile, DataLoss/CHECKSUM_MISMATCH when what was written is not what came back, and OSError. The file is as it
    was after any of them, and no envelope is made, unless the file changed after its envelope was whole: then both lie
    there.
    """
    with _opened(path) as (folder, name, fd):
        before = os.fstat(fd)
        if os.pread(fd, len(MAGIC), 0) == MAGIC:
            raise FileExistsError(errno.EEXIST, "it is a coin envelope already", path)
        tag, sha = ContentTag(key), hashlib.sha256()
        for block in _blocks(fd):
            tag.update(block)
            sha.update(block)
        made = StreamEncryption(key, tag.size, tag.digest())
        with _new_file(folder, name + SUFFIX, path + SUFFIX, before) as envelope:
            try:
                for block in made.blocks(_blocks(fd)):
                    _write_all(envelope, block)
            except ValueError as error:
                raise _changed(path) from error
            fsync_file(envelope)
            _compare(Keyring([key]).open_blocks(_blocks(envelope)), sha.digest(), path)
        _finish(folder, name, fd, before, path, remove=remove)
    return path + SUFFIX


def decrypt_file(path: bytes, keyring: Keyring, *, remove: bool) -> bytes:
    """Write what an envelope holds beside it, without `.hfcc`, mode 0600; gives its path. With `remove` the envelope
    goes then.

    Raises as `encrypt_file`; FailedPrecondition/KEY_WRONG; DataLoss/CHECKSUM_MISMATCH, which names it, for one that is
    damaged; ValueError for a file that is not called `.hfcc`.
    """
    plain = path.removesuffix(SUFFIX)
    if plain == path or not os.path.basename(plain):
        raise ValueError(f"{escape(path)} is not named as a coin envelope: {SUFFIX.decode()} must follow its name")
    with _opened(path) as (folder, name, fd):
        before = os.fstat(fd)
        header = read_header(os.pread(fd, HEADER_SIZE, 0))
        if header is not None:
            keyring.key_for(header)  # a wrong password is told first, whatever else is in the way
        with _new_file(folder, name.removesuffix(SUFFIX), plain, before) as file:
            sha = hashlib.sha256()
            try:
                for block in keyring.open_blocks(_blocks(fd)):
                    sha.update(block)
                    _write_all(file, block)
            except DataLoss as error:
                what = error.metadata.get("detail", error.message)
                raise DataLoss(
                    Reason.CHECKSUM_MISMATCH, f"{escape(path)} is damaged: {what}", metadata={"path": escape(path)}
                ) from error
            fsync_file(file)
            _compare(_blocks(file), sha.digest(), plain)
        _finish(folder, name, fd, before, path, remove=remove)
    return plain


def _files(folder: bytes, recursive: bool) -> Iterator[bytes]:
    def give_up(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=give_up):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(names):
            path = os.path.join(place, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _is_legible(path: bytes) -> bool:
    with open(os.open(path, _READ), "rb") as file:
        return read_coin_file(file.read(MAX_SIZE + 1)).legible


def _first_bytes(path: bytes) -> bytes:
    with open(os.open(path, _READ), "rb") as file:
        return file.read(HEADER_SIZE)


@contextmanager
def _opened(path: bytes) -> Iterator[tuple[int, bytes, int]]:
    """The opened folder of a regular file, its name there, and the opened file."""
    parent, name = os.path.split(path)
    folder = os.open(parent or b".", _FOLDER)
    try:
        fd = os.open(name, _READ, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", path)
            yield folder, name, fd
        finally:
            os.close(fd)
    finally:
        os.close(folder)


@contextmanager
def _new_file(folder: int, name: bytes, path: bytes, times: os.stat_result) -> Iterator[int]:
    """An opened file that gets its name, never another's, when the block ends well; nothing is left otherwise."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, "it exists, and nothing is overwritten", path)
    temporary = f".holdfast-{secrets.token_hex(8)}.tmp".encode()
    fd = os.open(temporary, _CREATE, 0o600, dir_fd=folder)
    try:
        try:
            os.fchmod(fd, 0o600)
            yield fd
            os.utime(fd, ns=(times.st_mtime_ns, times.st_mtime_ns))
            fsync_file(fd)
        finally:
            os.close(fd)
        try:
            publish(folder, temporary, name)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, "it exists, and nothing is overwritten", path) from None
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _finish(folder: int, name: bytes, fd: int, before: os.stat_result, path: bytes, *, remove: bool) -> None:
    """Take the first file away if that is wanted, and if it is still the one that was read."""
    if not remove:
        return
    now, named = os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False)
    if _state(now) != _state(before) or (named.st_dev, named.st_ino) != (now.st_dev, now.st_ino):
        raise _changed(path)
    os.unlink(name, dir_fd=folder)
    fsync_directory(folder)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _compare(content: Iterable[bytes], wanted: bytes, path: bytes) -> None:
    sha = hashlib.sha256()
    for block in content:
        sha.update(block)
    if sha.digest() != wanted:
        shown = escape(path)
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH,
            f"what was written for {shown} did not come back from the disk; nothing was changed",
            metadata={"path": shown},
        )


def _changed(path: bytes) -> FailedPrecondition:
    shown = escape(path)
    return FailedPrecondition(
        Reason.TARGET_CHANGED, f"{shown} changed while it was at work; it is left alone", metadata={"path": shown}
    )


def _blocks(fd: int) -> Iterator[bytes]:
    """A file from its beginning, whatever was read or written before."""
    at = 0
    while block := os.pread(fd, _BLOCK, at):
        at += len(block)
        yield block


def _write_all(fd: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(fd, rest) :]
