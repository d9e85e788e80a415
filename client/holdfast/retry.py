"""When to try again, and for how long: shared by calls, watches and downloads."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

from holdfast.errors import ConnectionFailed, DeadlineExceeded, HoldfastError, Reason, ResourceExhausted

__all__ = ["RECONNECT_SECONDS", "Backoff", "OnBreak", "Resumption", "ended_early", "is_broken_stream", "is_passing"]

#: For how long a broken stream is taken up again before the watch gives up; the task itself goes on either way.
RECONNECT_SECONDS = 120.0

#: Called when a stream broke: the cause, and after how many seconds it is tried again.
OnBreak = Callable[[HoldfastError, float], None]

#: These reasons pass by themselves; SOURCE_OFFLINE, STORAGE_UNREACHABLE and READER_FAILED need somebody.
_PASSING = frozenset({Reason.CATALOG_BUSY, Reason.SHUTTING_DOWN, Reason.READER_BUSY})

#: How gRPC reports a stream whose connection was cut, apart from UNAVAILABLE: reset streams, an edge that stops.
_CUT = frozenset({"UNKNOWN", "INTERNAL", "CANCELLED", "ABORTED"})


class _Patient(Protocol):
    def patience(self, timeout: float) -> float: ...


class Backoff:
    """Growing, jittered delays up to `limit` seconds, never shorter than what the server asked for."""

    def __init__(self, limit: float = 2.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self._next = 0.1
        self._limit = limit
        self._sleep = sleep

    def reset(self) -> None:
        self._next = 0.1

    def delay(self, error: HoldfastError) -> float:
        """The next delay, in seconds."""
        # Jitter keeps a thousand watchers from coming back at the same moment; it is no secret.
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311
        self._next = min(self._next * 2, self._limit)
        return max(delay, error.retry_after or 0.0)

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)


class Resumption:
    """Decides after each break whether to go on. Progress made on the stream starts the patience anew."""

    def __init__(self, connection: _Patient, deadline: float | None, on_break: OnBreak | None) -> None:
        self._connection = connection
        self._deadline = deadline
        self._on_break = on_break
        self._backoff = Backoff()
        self._since = time.monotonic()

    def advanced(self) -> None:
        self._since = time.monotonic()
        self._backoff.reset()

    def remaining(self) -> float | None:
        """Seconds until the caller's deadline. Raises DeadlineExceeded once it has passed."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the task did not end in time", remedy="Wait longer; the task goes on.")
        return left

    def after(self, error: HoldfastError) -> None:
        """Wait before the next try, or raise `error`."""
        if isinstance(error, DeadlineExceeded):
            self.remaining()
        if not is_broken_stream(error):
            raise error
        delay = self._backoff.delay(error)
        if time.monotonic() + delay > self._since + self._connection.patience(RECONNECT_SECONDS):
            raise error
        if self._on_break is not None:
            self._on_break(error, delay)
        left = self.remaining()
        self._backoff.sleep(delay if left is None else min(delay, left))


def is_passing(error: HoldfastError) -> bool:
    """Whether repeating the same call soon is likely to help."""
    return isinstance(error, ConnectionFailed) or error.reason in _PASSING


def is_broken_stream(error: HoldfastError) -> bool:
    """Whether a stream ended for a reason of transport, so that it can be taken up again where it was."""
    if is_passing(error):
        return True
    if isinstance(error, ResourceExhausted):
        return error.reason == Reason.TOO_MANY_WATCHERS
    return not error.reason and (error.code in _CUT)


def ended_early(address: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"the server at {address} ended the stream early",
        remedy="It probably restarts; watch again when it is back.",
        metadata={"address": address},
    )
