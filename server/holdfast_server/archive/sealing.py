"""Archives sealed with age (age-encryption.org/v1): written forward, read by offset, never in clear on a disk.

The age implementation, `pyrage`, pulls from one file-like object and pushes into another, and holds the GIL while it
encrypts or decrypts a chunk of 64 KiB. So each sealing and each opening has a thread of its own, and a `_Pipe` between
it and its caller. Such a thread ends when its work is done, when its owner stops it or is collected, and when the
interpreter ends.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import pyrage

from holdfast_server.archive.reading import Source, damage, invalid
from holdfast_server.errors import FailedPrecondition, Reason, invalid_field

__all__ = [
    "MAX_RECIPIENTS",
    "Identity",
    "Recipients",
    "SealedFile",
    "SealedSource",
    "SealingFile",
    "is_sealed",
    "parse_identity",
    "parse_recipients",
]

#: A header with this many of the longest recipients stays far below what a reader takes.
MAX_RECIPIENTS = 100

_MAGIC = b"age-encryption.org/"
_VERSION = b"age-encryption.org/v1\n"
_MAX_HEADER = 1 << 20
_NONCE = 16
_CHUNK, _TAG = 64 << 10, 16

#: Plain bytes that wait between two threads.
_AHEAD = 1 << 20
#: What is handed over at once when opening, and what is written at once when sealing.
_BLOCK = 256 << 10
_WRITE = 1 << 20
#: A read gives at most `_PIECE`; a cursor keeps `_BEHIND` bytes that it has passed, and must keep a piece and a block.
_PIECE = 1 << 20
_BEHIND = 2 << 20
_CURSORS = 3
#: How long a wait lasts at most before `check` is asked again. A cancel must be seen within 100 ms.
_TICK = 0.05

#: Longest texts of a key, in characters.
_MAX_RECIPIENT, _MAX_IDENTITY = 16 << 10, 64 << 10


# -- keys ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Recipients:
    """Public keys that an archive is sealed to. `texts` is how they were written; they are no secret."""

    texts: tuple[str, ...]
    keys: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.texts)


class Identity:
    """A private key that opens what was sealed to its public key. Shows nothing of itself."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[Any]) -> None:
        self._keys = tuple(keys)

    def __repr__(self) -> str:
        return "Identity(…)"

    def __reduce__(self) -> str:
        raise TypeError("an identity is not to be stored")


def parse_recipients(texts: Sequence[str], field: str) -> Recipients:
    """The recipients of a request. Raises InvalidArgument/INVALID_FIELD naming `field` and the index, without the text:
    who pastes the wrong half of a key pair must not find it in a log.

    Taken are `age1…` (X25519), `age1tag1…` and `age1tagpq1…`, `ssh-ed25519 …` and `ssh-rsa …`; 1 to MAX_RECIPIENTS.
    """
    if not texts:
        raise invalid_field(field, "no recipient is given")
    if len(texts) > MAX_RECIPIENTS:
        raise invalid_field(field, f"{len(texts)} recipients are more than {MAX_RECIPIENTS}")
    keys = [_recipient(text.strip(), f"{field}[{index}]") for index, text in enumerate(texts)]
    try:
        # Recipients may be valid alone and impossible together, as post-quantum ones beside others.
        pyrage.encrypt(b"", keys)
    except (pyrage.EncryptError, OSError) as error:
        raise invalid_field(field, f"nothing can be sealed to these recipients together: {error}") from None
    return Recipients(tuple(text.strip() for text in texts), tuple(keys))


def parse_identity(text: str, field: str = "credentials.age_identity") -> Identity:
    """The content of an identity file: `AGE-SECRET-KEY-1…` lines with comments, or one SSH private key without a
    passphrase. Raises InvalidArgument/INVALID_FIELD for `field`, never with anything of the text."""
    if len(text) > _MAX_IDENTITY:
        raise invalid_field(field, f"an identity has at most {_MAX_IDENTITY} characters")
    if text.lstrip().startswith("-----BEGIN"):
        try:
            return Identity([pyrage.ssh.Identity.from_buffer(text.strip().encode() + b"\n")])
        except (pyrage.IdentityError, UnicodeError):
            raise invalid_field(
                field, "this is no SSH private key of type Ed25519 or RSA, or it is protected by a passphrase"
            ) from None
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise invalid_field(field, "no identity is given")
    return Identity([_identity(line, field) for line in lines])


def is_sealed(head: bytes) -> bool:
    """Whether a file that begins with these bytes (24 are enough) is an age file."""
    return head.startswith(_MAGIC)


def _recipient(text: str, field: str) -> Any:
    if not text:
        raise invalid_field(field, "a recipient is empty")
    if len(text) > _MAX_RECIPIENT:
        raise invalid_field(field, f"a recipient has at most {_MAX_RECIPIENT} characters")
    kind = text.lower()
    if kind.startswith("age-secret-key-"):
        raise invalid_field(field, "this is a secret key; give the recipient that belongs to it, and change the key")
    if kind.startswith("age1pq1"):
        raise invalid_field(field, "post-quantum recipients (age1pq1…) are not supported by this version")
    parsers = (pyrage.x25519, pyrage.tag, pyrage.tagpq) if kind.startswith("age1") else (pyrage.ssh,)
    for parser in parsers:
        try:
            return parser.Recipient.from_str(text)
        except (pyrage.RecipientError, UnicodeError):
            continue
    raise invalid_field(field, "this is no recipient: it has to be age1…, ssh-ed25519 … or ssh-rsa …")


def _identity(line: str, field: str) -> Any:
    try:
        return pyrage.x25519.Identity.from_str(line)
    except (pyrage.IdentityError, UnicodeError):
        if line.upper().startswith("AGE-SECRET-KEY-PQ-"):
            what = "post-quantum identities (AGE-SECRET-KEY-PQ-1…) are not supported by this version"
        elif line.upper().startswith("AGE-PLUGIN-"):
            what = "identities of plugins are not supported"
        else:
            what = "this is no identity: it has to be AGE-SECRET-KEY-1…, or an SSH private key"
        raise invalid_field(field, what) from None


# -- between two threads -------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """The other side has gone."""


class _Pipe:
    """Blocks on their way to another thread. Whichever side fails says so, and the other side raises it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._error: BaseException | None = None

    def put(self, block: bytes, check: Callable[[], None]) -> None:
        """Raises at once what the other side failed with."""
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._held < _AHEAD:
                    self._blocks.append(block)
                    self._held += len(block)
                    self._changed.notify_all()
                    return
                self._changed.wait(_TICK)
            check()

    def take(self, check: Callable[[], None]) -> bytes:
        """The next block; empty at the end. Raises what the other side failed with, after the blocks before that."""
        while True:
            with self._changed:
                if self._blocks:
                    block = self._blocks.popleft()
                    self._held -= len(block)
                    self._changed.notify_all()
                    return block
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return b""
                self._changed.wait(_TICK)
            check()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody wants what is in the pipe."""
        with self._changed:
            self._blocks.clear()
            self._held = 0
            self._error = self._error or _Stopped()
            self._changed.notify_all()


def _check_interpreter() -> None:
    # The interpreter waits for its threads when it ends. One that nobody stopped would wait for ever.
    if not threading.main_thread().is_alive():
        raise _Stopped


# -- sealing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SealedFile:
    """What `SealingFile.finish` wrote: bytes, and their SHA-256 in hex."""

    size: int
    sha256: str


class SealingFile(io.RawIOBase):
    """A raw writable file that seals what it is given and appends it to `file`. It cannot seek.

    `file` is a raw binary file; the caller syncs and closes it, after `finish` or `abort`, and nobody else writes to it
    meanwhile. What fails there (a full disk) is raised by a later `write` or by `finish`. `check` is called in every
    wait and may raise. For one thread.
    """

    def __init__(self, file: io.RawIOBase, recipients: Recipients, check: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._check = check
        self._pipe = _Pipe()
        self._sink = _Sink(file)
        self._plain = 0
        self._sealed: SealedFile | None = None
        self._thread = threading.Thread(target=_seal, args=(self._pipe, self._sink, recipients.keys), name="age-seal")
        self._thread.start()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """Take some of `data`, as raw files do; returns how many bytes."""
        if self._sealed is not None or self.closed:
            raise ValueError("write to a sealed file that is finished")
        with memoryview(data) as view, view.cast("B") as octets:
            block = bytes(octets[:_AHEAD])
        if block:
            self._pipe.put(block, self._check)
        return len(block)

    def finish(self) -> SealedFile:
        """Write the final chunk: from here on the file is complete. May be repeated."""
        if self._sealed is None:
            self._pipe.end()
            while self._thread.is_alive():
                self._thread.join(_TICK)
                self._check()
            self._pipe.put(b"", self._check)  # raises what the thread failed with
            self._sealed = SealedFile(self._sink.size, self._sink.sha256.hexdigest())
        return self._sealed

    def abort(self) -> None:
        """Stop at once, unless finished: no thread is left, and what was written lacks its final chunk."""
        self._pipe.stop()
        self._thread.join()

    def close(self) -> None:
        # Also called when it is collected, on any thread: so it does not wait.
        if not self.closed:
            self._pipe.stop()
        super().close()


class _Sink:
    """Where sealed bytes go: written in large pieces and hashed."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._buffer = memoryview(bytearray(_WRITE))
        self._filled = 0
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        taken = min(len(data), _WRITE - self._filled)
        self._buffer[self._filled : self._filled + taken] = data[:taken]
        self._filled += taken
        if self._filled == _WRITE:
            self.flush()
        return taken

    def flush(self) -> None:
        view = self._buffer[: self._filled]
        self._filled = 0
        self.sha256.update(view)
        self.size += len(view)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except BaseException as error:
            self.error = error  # the library turns it into a text
            raise


class _Feed:
    """A pipe as a file to read from."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._block = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        if self._at == len(self._block):
            self._block, self._at = self._pipe.take(_check_interpreter), 0
        piece = self._block[self._at : self._at + size]
        self._at += len(piece)
        return piece


def _seal(pipe: _Pipe, sink: _Sink, keys: Sequence[Any]) -> None:
    try:
        pyrage.encrypt_io(_Feed(pipe), sink, keys)
        sink.flush()
    except BaseException as error:  # noqa: BLE001 - it is raised again on the writer's thread
        pipe.fail(sink.error or error)


# -- opening -------------------------------------------------------------------------------------------------------


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
        self._keys = identity._keys
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
        self._pipe = _Pipe()
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

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._open = bytearray()

    def write(self, data: bytes) -> int:
        self._open += data
        while len(self._open) >= _BLOCK:
            self._pipe.put(bytes(self._open[:_BLOCK]), _check_interpreter)
            del self._open[:_BLOCK]
        return len(data)

    def flush(self) -> None:
        """The decryptor may ask for it at any time; blocks keep their size nevertheless."""

    def end(self) -> None:
        if self._open:
            self._pipe.put(bytes(self._open), _check_interpreter)
        self._pipe.end()


def _open(pipe: _Pipe, fd: int, keys: Sequence[Any]) -> None:
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
