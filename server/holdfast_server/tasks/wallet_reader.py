"""The edge's one process for calls that parse or decrypt: wallets are read, and keys derived, in it.

The edge is not to spend processor time: one busy Python thread there delays every other call. So it hands a function
and its arguments to the reader and waits on the call's own thread, which costs nothing.

* It is started for the first call and stays. A process that died is replaced, its calls are asked once more, then they
  fail. It is spawned and never forked, since the edge has gRPC's threads; it has no gRPC, no catalog and no core dumps.
* Arguments and results travel over one socket, never over arguments, environment or files: there may be secrets among
  them. The socket's end, and the kernel's signal at the death of the thread that started it, end it with the edge.
* It does `threads` calls at a time. Nothing is serialised behind a listing: what hashes, derives a key or waits for the
  disk lets go of the interpreter's lock, and threads that compute take turns of 5 ms.
* Further calls wait their turn in the edge, where one whose client has gone is let go; too many are refused at once.

What it runs are top-level functions that pickle finds by name. A `HoldfastError` that one raises arrives as it is. Of
any other exception only the type and the lines of code arrive, as `ReaderDefect`: its text may show a secret.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar, TypeVarTuple

from holdfast_server.errors import HoldfastError, Reason, ResourceExhausted, Unavailable
from holdfast_server.process import module_options, start_module

__all__ = ["ReaderDefect", "WalletReader"]

_log = logging.getLogger(__name__)

_THREADS = 4
_WAITING = 28
_PATIENCE_SECONDS = 60.0
#: How often a waiting call looks whether its client is still there.
_POLL_SECONDS = 0.1
_STOP_SECONDS = 2.0
_NUMBER = 8

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ReaderDefect(Exception):
    """A function failed in the reader in a way that it should not: the lines of code and the exception's type."""


class _Died(Exception):
    """The process ended before it answered."""


def _always() -> bool:
    return True


class WalletReader:
    """Runs functions in the reader process. Thread-safe.

    `threads` calls run at a time and `waiting` more may wait. `patience` is how long a call may wait, and then run, in
    seconds: storage that does not answer must not hold the edge's threads for good.
    """

    def __init__(
        self, *, threads: int = _THREADS, waiting: int = _WAITING, patience: float = _PATIENCE_SECONDS
    ) -> None:
        self._threads = threads
        self._patience = patience
        self._places = threading.Semaphore(threads + waiting)
        self._turns = threading.Semaphore(threads)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False

    def run(self, function: Callable[[*Ts], T], *args: *Ts, wanted: Callable[[], bool] = _always) -> T:
        """What `function(*args)` gives or raises in the reader. Arguments and result must be picklable.

        `wanted` is asked while the call waits its turn: once it says no, the call is given up.

        Raises ResourceExhausted/READER_BUSY when too many calls wait, or the turn did not come in time;
        Unavailable/READER_FAILED when the process died twice or gave no answer in time; Unavailable/SHUTTING_DOWN;
        ReaderDefect.
        """
        message = pickle.dumps((function, args))
        if not self._places.acquire(blocking=False):
            raise _busy("too many calls wait for the wallet reader")
        try:
            self._take_turn(wanted)
            try:
                result: T = self._ask(message)
                return result
            finally:
                self._turns.release()
        finally:
            self._places.release()

    def close(self) -> None:
        """End the process; calls that wait for it fail with SHUTTING_DOWN. Idempotent."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            process.end()
            process.join(_STOP_SECONDS)

    @property
    def pid(self) -> int | None:
        """Of the process that takes calls at present; None while there is none."""
        with self._lock:
            return self._process.pid if self._process is not None else None

    def _take_turn(self, wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._patience
        while not self._turns.acquire(timeout=_POLL_SECONDS):
            if not wanted():
                raise _busy("the call was given up before its turn came")
            if time.monotonic() > deadline:
                raise _busy(f"the wallet reader was busy for {self._patience:.0f} s")

    def _ask(self, message: bytes) -> Any:
        for _ in range(2):
            process = self._present()
            try:
                return process.call(message, self._patience)
            except _Died:
                continue
            except TimeoutError as error:
                # Whatever holds it up holds one of its threads, perhaps for good; and a killed one holds nothing.
                process.end()
                text = f"the wallet reader gave no answer within {self._patience:.0f} s"
                raise Unavailable(Reason.READER_FAILED, text) from error
        with self._lock:
            if self._closed:
                raise _shutting_down()
        raise Unavailable(Reason.READER_FAILED, "the wallet reader died twice over the call", retry_after=1.0)

    def _present(self) -> _Process:
        with self._lock:
            if self._closed:
                raise _shutting_down()
            if self._process is None or self._process.ended:
                self._process = _Process(self._threads)
            return self._process


class _Process:
    """One reader process, and the thread that starts it, takes its answers and sees its end."""

    def __init__(self, threads: int) -> None:
        self._socket, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._last = 0
        self.ended = False
        self.pid: int | None = None
        # The kernel's death signal belongs to the thread that started the process: a thread of a call may end.
        self._thread = threading.Thread(target=self._attend, args=(theirs, threads), name="wallet-reader", daemon=True)
        self._thread.start()

    def call(self, message: bytes, seconds: float) -> Any:
        """Raises _Died, TimeoutError, and what the function raised."""
        answer: Future[Any] = Future()
        with self._lock:
            if self.ended:
                raise _Died
            self._last += 1
            number = self._last
            self._calls[number] = answer
        try:
            with self._sending:
                self._connection.send_bytes(number.to_bytes(_NUMBER, "big") + message)
        except OSError:
            self.end()
        try:
            return answer.result(seconds)
        finally:
            with self._lock:
                self._calls.pop(number, None)

    def end(self) -> None:
        """Cut it off: it exits by itself, and is killed if it does not."""
        with self._lock:
            self.ended = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _attend(self, theirs: socket.socket, threads: int) -> None:
        process = None
        try:
            process = self._start(theirs, threads)
            with suppress(EOFError, OSError):
                while True:
                    self._settle(self._connection.recv_bytes())
        except OSError:
            _log.exception("the wallet reader could not be started")
        finally:
            self.end()
            if process is not None:
                _reap(process)
            with self._lock:
                calls = list(self._calls.values())
            for call in calls:
                call.set_exception(_Died())
            with self._sending:
                self._connection.close()
            self._socket.close()

    def _start(self, theirs: socket.socket, threads: int) -> subprocess.Popen[bytes]:
        with theirs:
            options = ("--threads", str(threads))
            process = start_module("holdfast_server.tasks.wallet_reader", {"fd": theirs.fileno()}, *options)
        self.pid = process.pid
        return process

    def _settle(self, frame: bytes) -> None:
        good, value = pickle.loads(frame[_NUMBER:])  # noqa: S301  from our own process
        with self._lock:
            answer = self._calls.pop(int.from_bytes(frame[:_NUMBER], "big"), None)
        if answer is None:
            return  # its caller lost patience
        if good:
            answer.set_result(value)
        else:
            answer.set_exception(value if isinstance(value, HoldfastError) else ReaderDefect(value))


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        status = process.wait(0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            status = process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the wallet reader %d cannot be killed: some storage does not answer", process.pid)
            return
    if status:
        _log.warning("the wallet reader ended with %s", f"signal {-status}" if status < 0 else f"status {status}")


def _busy(text: str) -> ResourceExhausted:
    return ResourceExhausted(Reason.READER_BUSY, text, retry_after=1.0)


def _shutting_down() -> Unavailable:
    return Unavailable(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after=5.0)


def _serve(connection: Connection, threads: int) -> None:
    """The process: take calls until the edge is gone."""
    sending = threading.Lock()

    def do(frame: bytes) -> None:
        answer = _answer(frame[_NUMBER:])
        try:
            with sending:
                connection.send_bytes(frame[:_NUMBER] + answer)
        except OSError:
            os._exit(0)

    with ThreadPoolExecutor(threads, thread_name_prefix="call") as pool:
        while True:
            try:
                frame = connection.recv_bytes()
            except (EOFError, OSError):
                os._exit(0)
            pool.submit(do, frame)


def _answer(message: bytes) -> bytes:
    try:
        function, args = pickle.loads(message)  # noqa: S301  from the edge
        return pickle.dumps((True, function(*args)))
    except HoldfastError as error:
        return pickle.dumps((False, error))
    except BaseException as error:  # noqa: BLE001  nobody else would see it
        return pickle.dumps((False, "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__))


def _main() -> None:
    options = module_options("fd", "threads")
    _serve(Connection(options.fd), options.threads)


if __name__ == "__main__":
    _main()
