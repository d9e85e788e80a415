"""Keys in the edge's memory, each until its time is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from holdfast_server.clock import Clock

__all__ = ["Held", "HeldKeys"]

K = TypeVar("K")


@dataclass(frozen=True, slots=True, repr=False)
class Held(Generic[K]):
    """A key in memory, until the first of both clocks says that its time is over. `expire_time` in microseconds."""

    key: K
    expire_time: int
    deadline: float


class HeldKeys(Generic[K]):
    """Keys by the id of what they open. Thread-safe; its lock is never held while anything else is asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, Held[K]] = {}

    def keep(self, owner_id: str, key: K, expire_time: int, seconds: float) -> None:
        """Hold a key for `seconds` more, whatever was held for that id."""
        with self._lock:
            self._held[owner_id] = Held(key, expire_time, self._clock.monotonic() + seconds)

    def replace(self, owner_id: str, key: K) -> None:
        """Put a key in the place of the one that is held for that id, for the time that is left; none if none is."""
        with self._lock:
            if (one := self._held.get(owner_id)) is not None:
                self._held[owner_id] = Held(key, one.expire_time, one.deadline)

    def forget(self, owner_id: str) -> None:
        with self._lock:
            self._held.pop(owner_id, None)

    def present(self, owner_ids: Collection[str] | None = None) -> dict[str, Held[K]]:
        """What is held, of these ids or of all; what has expired is dropped."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        with self._lock:
            for owner_id, one in list(self._held.items()):
                if one.expire_time <= now or one.deadline <= monotonic:
                    del self._held[owner_id]
            if owner_ids is None:
                return dict(self._held)
            return {owner_id: self._held[owner_id] for owner_id in owner_ids if owner_id in self._held}

    def drop_unless(self, held: Mapping[str, Held[K]], keep: Callable[[str, Held[K]], bool]) -> None:
        """Drop those of `held` that are not to be kept; what took their place since they were looked up stays."""
        gone = {owner_id: one for owner_id, one in held.items() if not keep(owner_id, one)}
        with self._lock:
            for owner_id, one in gone.items():
                if self._held.get(owner_id) is one:
                    del self._held[owner_id]
