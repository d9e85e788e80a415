"""Archives sealed with age (age-encryption.org/v1): written forward, read by offset, never in clear on a disk.

The age implementation, `pyrage`, pulls from one file-like object and pushes into another, and holds the GIL while it
encrypts or decrypts a chunk of 64 KiB. So each sealing and each opening has a thread of its own, and a `ThreadPipe`
between it and its caller. Such a thread ends when its work is done, when its owner stops it or is collected, and when
the interpreter ends.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyrage

from holdfast_server.archive.age_keys import MAX_RECIPIENTS, Identity, Recipients, parse_identity, parse_recipients
from holdfast_server.archive.sealed_source import SealedSource, is_sealed
from holdfast_server.archive.thread_pipe import AHEAD, TICK, ThreadPipe, check_interpreter

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

#: What is written at once.
_WRITE = 1 << 20


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
        self._pipe = ThreadPipe()
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
            block = bytes(octets[:AHEAD])
        if block:
            self._pipe.put(block, self._check)
        return len(block)

    def finish(self) -> SealedFile:
        """Write the final chunk: from here on the file is complete. May be repeated."""
        if self._sealed is None:
            self._pipe.end()
            while self._thread.is_alive():
                self._thread.join(TICK)
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

    def __init__(self, pipe: ThreadPipe) -> None:
        self._pipe = pipe
        self._block = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        if self._at == len(self._block):
            self._block, self._at = self._pipe.take(check_interpreter), 0
        piece = self._block[self._at : self._at + size]
        self._at += len(piece)
        return piece


def _seal(pipe: ThreadPipe, sink: _Sink, keys: Sequence[Any]) -> None:
    try:
        pyrage.encrypt_io(_Feed(pipe), sink, keys)
        sink.flush()
    except BaseException as error:  # noqa: BLE001 - it is raised again on the writer's thread
        pipe.fail(sink.error or error)
