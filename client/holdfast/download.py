"""Downloads that resume: into `<name>.<id>.partial` beside the target, hashed, put in place, never replacing a file.

A stream that breaks goes on at the next byte; so does a later download that finds the partial file. The digest is
always of the whole object, with what lay in the partial file before read again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from holdfast.connection import Connection
from holdfast.errors import (
    BadConfiguration,
    DigestMismatch,
    FailedPrecondition,
    HoldfastError,
    InvalidArgument,
    ProtocolError,
    TargetExists,
)
from holdfast.retry import OnBreak, Resumption, ended_early

__all__ = ["Download", "OnBytes", "Opener", "download_to_file", "download_to_path"]

#: Called with the bytes so far and the size of the whole object, None while unknown.
OnBytes = Callable[[int, int | None], None]
#: Opens the stream at an offset.
Opener = Callable[[int], AbstractContextManager[Iterator[Any]]]

_BLOCK = 1 << 20
#: Content that is generated anew for each stream starts over when the stream breaks, but not for ever.
_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A finished download; `path` is None for one into a file object. `resumed_from`: bytes that were there before."""

    path: Path | None
    file_name: str
    size: int
    sha256: str
    resumed_from: int


class _Sink:
    """Where the bytes go: a file, the hash of all of it so far, and how far it is."""

    def __init__(self, file: BinaryIO, *, restarts: int) -> None:
        self.file = file
        self.restarts = restarts
        self.position = 0
        self.hash = hashlib.sha256()

    def adopt(self) -> None:
        """Go on behind what the file already holds."""
        self.file.seek(0)
        while block := self.file.read(_BLOCK):
            self.hash.update(block)
            self.position += len(block)

    def restart(self) -> bool:
        """Forget what is there and start over; False if that cannot be done, or was done too often."""
        if not (self.position and self.restarts):
            return False
        self.restarts -= 1
        self.file.seek(0)
        self.file.truncate()
        self.position = 0
        self.hash = hashlib.sha256()
        return True

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.position += len(data)


class _Transfer:
    """One download over as many streams as it takes."""

    def __init__(
        self, connection: Connection, opener: Opener, on_bytes: OnBytes | None, on_break: OnBreak | None
    ) -> None:
        self._address = connection.address
        self._open = opener
        self._on_bytes = on_bytes
        self._resumption = Resumption(connection, None, on_break)

    def file_name(self) -> str:
        """The suggested name, from a stream that is closed again before any content."""
        while True:
            try:
                with self._open(0) as parts:
                    first = next(parts, None)
                if first is not None and first.WhichOneof("part") == "header":
                    return _safe_name(first.header.file_name)
                self._resumption.after(ended_early(self._address))
            except HoldfastError as error:
                self._resumption.after(error)

    def run(self, sink: _Sink) -> tuple[str, str]:
        """Fetch the rest into `sink`; its suggested name and checked digest. Raises DigestMismatch."""
        while True:
            try:
                with self._open(sink.position) as parts:
                    name, digest = self._receive(parts, sink)
                if digest:
                    _compare(digest, sink.hash.hexdigest())
                    return name, digest
                self._resumption.after(ended_early(self._address))
            except HoldfastError as error:
                if not (_wants_restart(error) and sink.restart()):
                    self._resumption.after(error)

    def _receive(self, parts: Iterator[Any], sink: _Sink) -> tuple[str, str]:
        size: int | None = None
        name = ""
        for part in parts:
            kind = part.WhichOneof("part")
            if kind == "header":
                name = part.header.file_name
                size = part.header.size if part.header.HasField("size") else None
            elif kind == "chunk":
                if part.chunk.offset != sink.position:
                    raise ProtocolError(f"the server sent byte {part.chunk.offset} where {sink.position} is next")
                sink.write(part.chunk.data)
                self._resumption.advanced()
            elif kind == "digest":
                return name, str(part.digest.sha256)
            if self._on_bytes is not None:
                self._on_bytes(sink.position, size)
        return name, ""


def download_to_path(
    connection: Connection,
    opener: Opener,
    path: str | os.PathLike[str] | None,
    key: str,
    on_bytes: OnBytes | None = None,
    on_break: OnBreak | None = None,
) -> Download:
    """Into `path`; into a folder (None: the current one) under the server's name. `key` tells partial files apart.

    Raises TargetExists before and after, never replaces; DigestMismatch, and then the partial file is gone too. After
    any other error the partial file stays, so that the same call goes on where this one ended.
    """
    transfer = _Transfer(connection, opener, on_bytes, on_break)
    target = Path(path) if path is not None else Path()
    if target.is_dir():
        target = target / transfer.file_name()
    _check_free(target)
    partial = target.with_name(f"{target.name}.{key[:8]}.partial")
    with _open_partial(partial) as file:
        sink = _Sink(file, restarts=_RESTARTS)
        sink.adopt()
        resumed_from = sink.position
        try:
            name, digest = transfer.run(sink)
        except DigestMismatch:
            os.unlink(partial)
            raise
        file.flush()
        os.fsync(file.fileno())
    _put_in_place(partial, target)
    return Download(path=target, file_name=name, size=sink.position, sha256=digest, resumed_from=resumed_from)


def download_to_file(
    connection: Connection,
    opener: Opener,
    file: BinaryIO,
    on_bytes: OnBytes | None = None,
    on_break: OnBreak | None = None,
) -> Download:
    """Into an open binary file, from where it stands. On any error it holds a part that must not be used."""
    sink = _Sink(file, restarts=0)
    name, digest = _Transfer(connection, opener, on_bytes, on_break).run(sink)
    file.flush()
    return Download(path=None, file_name=name, size=sink.position, sha256=digest, resumed_from=0)


def _wants_restart(error: HoldfastError) -> bool:
    # The partial file is longer than the object, or the object is made anew for each stream.
    return isinstance(error, InvalidArgument) or (
        isinstance(error, FailedPrecondition) and error.reason == "NOT_RESUMABLE"
    )


def _compare(expected: str, found: str) -> None:
    if expected != found:
        raise DigestMismatch(
            f"the download's SHA-256 is {found}, the server's {expected}",
            remedy="Download it again; if that fails too, verify the backup.",
            metadata={"expected": expected, "found": found},
        )


def _safe_name(name: str) -> str:
    # The API promises this form; a server that breaks it must not choose where on this machine it writes.
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}", name):
        raise ProtocolError(f"the server suggests the unsafe file name {name!r}", remedy="Name the file to write.")
    return name


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise TargetExists(
            f"{target} exists already", remedy="Name another file, or move it away.", metadata={"path": str(target)}
        )


def _open_partial(partial: Path) -> BinaryIO:
    # 0600: backups hold secrets. No symlink is followed: a shared folder must not redirect the bytes.
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):  # not every system has each
        flags |= getattr(os, name, 0)
    try:
        return os.fdopen(os.open(partial, flags, 0o600), "r+b")
    except OSError as error:
        raise BadConfiguration(
            f"{partial} cannot be written: {error.strerror}",
            remedy="Name a folder that exists and that you may write to.",
        ) from error


def _put_in_place(partial: Path, target: Path) -> None:
    try:
        # A link fails if the name was taken meanwhile; a rename would replace.
        os.link(partial, target)
    except FileExistsError:
        _check_free(target)
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # A filesystem without links: the best that is left is to look first.
        _check_free(target)
        os.rename(partial, target)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
