"""Downloads of snapshots in the edge: each is made by a process of its own, which ends with it.

Secrets travel over the process's socket alone. Only few run at a time: each compresses, and holds the index of its
repository. What the client does not take waits in the process, which stops reading then; a client that has gone ends
it, first by word, so that its run in the repository ends too, then by a signal.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final, Self

from holdfast_server.core.snapshot_place import StreamOrder
from holdfast_server.errors import HoldfastError, Reason, ResourceExhausted, Unavailable
from holdfast_server.process import start_module
from holdfast_server.tasks.wallet_reader import ReaderDefect

__all__ = ["SnapshotDownload", "SnapshotDownloads"]

_log = logging.getLogger(__name__)

#: How many run at a time, and how long one more waits for another's end.
_MOST: Final = 4
_WAIT_SECONDS: Final = 0.5
#: How long a process that nobody listens to may take to end by itself.
_GRACE_SECONDS: Final = 2.0


class SnapshotDownloads:
    """The downloads of this edge. Thread-safe."""

    def __init__(self, *, most: int = _MOST) -> None:
        self._most = most
        self._places = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._running: set[SnapshotDownload] = set()
        self._closed = False

    def open(self, order: StreamOrder) -> SnapshotDownload:
        """Start a download; the caller must leave it as a context manager, or stop it.

        Raises ResourceExhausted/TOO_MANY_DOWNLOADS, Unavailable/SHUTTING_DOWN.
        """
        if not self._places.acquire(timeout=_WAIT_SECONDS):
            raise ResourceExhausted(
                Reason.TOO_MANY_DOWNLOADS,
                f"{self._most} downloads of snapshots are under way",
                metadata={"limit": str(self._most)},
                retry_after=10.0,
            )
        with self._lock:
            if self._closed:
                self._places.release()
                raise Unavailable(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after=5.0)
            download = SnapshotDownload(order, self._ended)
            self._running.add(download)
        download.start()
        return download

    def close(self) -> None:
        """End all of them, and take no more."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for download in running:
            download.stop()
        for download in running:
            download.join()

    def _ended(self, download: SnapshotDownload) -> None:
        with self._lock:
            self._running.discard(download)
        self._places.release()


class SnapshotDownload:
    """One download, for one thread; `stop` for any. A context manager: leaving it ends the process."""

    def __init__(self, order: StreamOrder, ended: Callable[[SnapshotDownload], None]) -> None:
        self._ended = ended
        ours, self._theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        self._connection.send_bytes(pickle.dumps(order))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        #: Of the process, once it runs.
        self.pid: int | None = None
        #: Of the whole archive, in hex; empty until `blocks` has come to its end.
        self.sha256 = ""
        # The kernel's death signal belongs to the thread that started the process: a thread of a call may end.
        self._thread = threading.Thread(target=self._attend, name="download", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        with self._lock:
            self._connection.close()

    def file_name(self) -> str:
        """The archive's name, once the snapshot is opened. Raises what `core.snapshot_stream.stream_snapshot` does,
        Unavailable/READER_FAILED when the process died, ReaderDefect."""
        return self._receive()[1].decode()

    def blocks(self) -> Iterator[bytes]:
        """The archive, at most 1 MiB at a time; whole only when the iteration has ended. Raises as `file_name`."""
        while True:
            kind, body = self._receive()
            if kind == b"E":
                self.sha256 = body.decode()
                return
            yield body

    def stop(self) -> None:
        """Nobody wants the archive any more. Idempotent."""
        with self._lock:
            if not self._stopped.is_set():
                self._stopped.set()
                with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
                    ours.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait until the process has ended."""
        self._thread.join(3 * _GRACE_SECONDS)

    def _receive(self) -> tuple[bytes, bytes]:
        try:
            frame = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            if self._stopped.is_set():
                raise Unavailable(Reason.SHUTTING_DOWN, "the download was ended", retry_after=5.0) from error
            text = "the process that makes the archive ended before it was done"
            raise Unavailable(Reason.READER_FAILED, text, retry_after=1.0) from error
        kind, body = frame[:1], frame[1:]
        if kind == b"F":
            failure = pickle.loads(body)  # noqa: S301  from our own process
            raise failure if isinstance(failure, HoldfastError) else ReaderDefect(failure)
        return kind, body

    def _attend(self) -> None:
        try:
            process = self._start()
            self._stopped.wait()
            _reap(process)
        except OSError:
            _log.exception("the process of a download could not be started")
        finally:
            self._ended(self)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._theirs as theirs:
            process = start_module("holdfast_server.tasks.download_process", {"fd": theirs.fileno()})
        self.pid = process.pid
        return process


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the download process %d cannot be killed: some storage does not answer", process.pid)
