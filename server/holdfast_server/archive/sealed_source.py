"""Files that were sealed with age, read by offset. `archive.sealing` says how age is used here."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, BinaryIO

import pyrage

from holdfast_server.archive.age_keys import Identity
from holdfast_server.archive.reading import Source, damage, invalid
from holdfast_server.archive.thread_pipe import ThreadPipe, check_interpreter
from holdfast_server.errors import FailedPrecondition, Reason

__all__ = ["SealedSource", "is_sealed"]

_MAGIC = b"age-encryption.org/"
_VERSION = b"age-encryption.org/v1\n"
_MAX_HEADER = 1 << 20
_NONCE = 16
_CHUNK, _TAG = 64 << 10, 16

#: What is handed over at once.
_BLOCK = 256 << 10
#: A read gives at most `_PIECE`; a cursor keeps `_BEHIND` bytes that it has passed, and must keep a piece and a block.
_PIECE = 1 << 20
_BEHIND = 2 << 20
_CURSORS = 3


def is_sealed(head: bytes) -> bool:
    """Whether a file that begins with these bytes (24 are enough) is an age file."""
    return head.startswith(_MAGIC)


class SealedSource(Source):
    """The plain bytes of an age file, by offset; for one thread. Opened in memory only.

    age can be read forward only, so up to three decryptors ("cursors") stand at different offsets: a zip's directory
    and its members are read beside each other. A read behind all of them starts one again from the file's begin.
    `file` is a real file and stays the caller's; `check` is called in every wait and may raise.

    Raises FailedPrecondition/KEY_WRONG when `identity` does not open the file, FailedPrecondition/ARCHIVE_INVALID when
    it is no age file, DataLoss/CHECKSUM_MISMATCH when it is damaged or cut off; the last also while reading: every
    chunk is authentic before it is given out, and only the true last chunk is taken as the end.
    """

    def __init__(self, file: BinaryIO, identity: Identity, check: Callable[[], None]) -> None:
        self._fd = file.fileno()
        self._file = file  # keeps the descriptor open
        self._keys = identity.keys
        self._check = check
        self._cursors: list[_Cursor] = []  # the least recently used first
        self._closed = False
        self.size = _plain_size(self._fd)
        try:
            self._start().fill(check)
        except BaseException:
            self.close()
            raise

    def read_some(self, offset: int, size: int) -> bytes:
        if self._closed:
            raise ValueError("this sealed file was closed")
        size = min(size, _PIECE, self.size - offset)
        if size <= 0:
            return b""
        cursor = self._cursor_for(offset)
        while cursor.high < offset + size:
            self._check()
            if not cursor.fill(self._check) or cursor.high > self.size:
                raise damage("the sealed file changed while it was read", offset=offset)
        if cursor.high == self.size:
            cursor.expect_end(self._check)
        return cursor.window(offset, size)

    def close(self) -> None:
        """End the threads. May be repeated; nothing can be read any more."""
        for cursor in self._cursors:
            cursor.close()
        self._cursors.clear()
        self._closed = True

    def __enter__(self) -> SealedSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _cursor_for(self, offset: int) -> _Cursor:
        able = [cursor for cursor in self._cursors if cursor.low <= offset]
        cursor = max(able, key=lambda cursor: cursor.high) if able else self._start()
        self._cursors.remove(cursor)
        self._cursors.append(cursor)
        return cursor

    def _start(self) -> _Cursor:
        if len(self._cursors) == _CURSORS:
            self._cursors.pop(0).close()
        cursor = _Cursor(self._fd, self._keys)
        self._cursors.append(cursor)
        return cursor


class _Cursor:
    """One decryptor and the last of what it gave: the plain bytes from `low` to `high`."""

    def __init__(self, fd: int, keys: Sequence[Any]) -> None:
        self.low = self.high = 0
        self._blocks: deque[bytes] = deque()  # all of _BLOCK bytes but the last
        self._pipe = ThreadPipe()
        self._ended = False
        # A descriptor of its own: the thread may outlive the caller's by a moment.
        self._thread = threading.Thread(target=_open, args=(self._pipe, os.dup(fd), keys), name="age-open")
        self._thread.start()

    def fill(self, check: Callable[[], None]) -> bool:
        """Go on by one block; False at the end."""
        block = b"" if self._ended else self._pipe.take(check)
        if not block:
            self._ended = True
            return False
        self._blocks.append(block)
        self.high += len(block)
        while self.high - self.low - len(self._blocks[0]) >= _BEHIND:
            self.low += len(self._blocks.popleft())
        return True

    def expect_end(self, check: Callable[[], None]) -> None:
        """All bytes are here: nothing may follow, and the decryptor has to agree."""
        if self.fill(check):
            raise damage("the sealed file changed while it was read", offset=self.high)

    def window(self, offset: int, size: int) -> bytes:
        first, at = divmod(offset - self.low, _BLOCK)
        pieces = []
        for index in range(first, len(self._blocks)):
            pieces.append(self._blocks[index][at : at + size])
            size -= len(pieces[-1])
            at = 0
            if not size:
                break
        return b"".join(pieces)

    def close(self) -> None:
        self._pipe.stop()
        self._thread.join()
        self._blocks.clear()

    def __del__(self) -> None:
        self._pipe.stop()


class _SealedBytes:
    """The age file as the decryptor reads it. Remembers its own error: the library would turn it into a text."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self.error: OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, self._at)
        except OSError as error:
            self.error = error
            raise
        self._at += len(data)
        return data


class _Opened:
    """Where the decryptor's plain bytes go: into the pipe, in blocks of _BLOCK."""

    def __init__(self, pipe: ThreadPipe) -> None:
        self._pipe = pipe
        self._open = bytearray()

    def write(self, data: bytes) -> int:
        self._open += data
        while len(self._open) >= _BLOCK:
            self._pipe.put(bytes(self._open[:_BLOCK]), check_interpreter)
            del self._open[:_BLOCK]
        return len(data)

    def flush(self) -> None:
        """The decryptor may ask for it at any time; blocks keep their size nevertheless."""

    def end(self) -> None:
        if self._open:
            self._pipe.put(bytes(self._open), check_interpreter)
        self._pipe.end()


def _open(pipe: ThreadPipe, fd: int, keys: Sequence[Any]) -> None:
    sealed, opened = _SealedBytes(fd), _Opened(pipe)
    try:
        pyrage.decrypt_io(sealed, opened, keys)
        opened.end()
    except BaseException as error:  # noqa: BLE001 - it is raised again on the reader's thread
        pipe.fail(sealed.error or _explained(error))
    finally:
        os.close(fd)


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, pyrage.DecryptError) and "No matching keys" in str(error):
        return FailedPrecondition(
            Reason.KEY_WRONG, "the archive was sealed to other recipients: the given identity does not open it"
        )
    if isinstance(error, (pyrage.DecryptError, OSError)):
        return damage(f"the sealed file does not open ({error})")
    return error


def _plain_size(fd: int) -> int:
    """How many plain bytes an age file of this length has. Checks the frame only; the content proves itself."""
    start = _header_size(fd)
    sealed = os.fstat(fd).st_size - start - _NONCE
    chunks = -(-sealed // (_CHUNK + _TAG))
    last = sealed - (chunks - 1) * (_CHUNK + _TAG)
    # Only an empty file has an empty chunk.
    if sealed < _TAG or last < _TAG or (last == _TAG and chunks > 1):
        raise damage("the sealed file is cut off", offset=start + _NONCE + max(sealed, 0))
    return sealed - chunks * _TAG


def _header_size(fd: int) -> int:
    head = os.pread(fd, _MAX_HEADER, 0)
    if not head.startswith(_VERSION):
        if head and _VERSION.startswith(head):
            raise damage("the sealed file is cut off", offset=len(head))
        what = "its age version is not supported" if is_sealed(head) else "it is not sealed with age"
        raise invalid(what, offset=0)
    mac = head.find(b"\n--- ")
    end = head.find(b"\n", mac + 1) if mac >= 0 else -1
    if end < 0:
        if len(head) == _MAX_HEADER:
            raise invalid(f"its age header is longer than {_MAX_HEADER} bytes", offset=0)
        raise damage("the sealed file is cut off", offset=len(head))
    return end + 1
