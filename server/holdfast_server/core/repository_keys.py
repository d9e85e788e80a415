"""Changing the keys of a repository: what the edge has its reader process do, since it derives keys and reads a log.

The caller sees to it that nobody else of this service changes the same repository's keys meanwhile. A call that died
half way may be done again: what it left is a key that nobody was told of, or a number of an epoch that is not used.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast_server.core.new_repository import WantedSlot, slot_record
from holdfast_server.core.repository_place import (
    LogHeads,
    OpenRepository,
    RepositoryPlace,
    heads_of,
    keys_lost,
    open_content,
    open_place,
    require_newest,
)
from holdfast_server.errors import Reason, Unavailable
from holdfast_server.repository import (
    ContentKeys,
    NewSlot,
    RepositoryKeys,
    SlotKind,
    add_slot,
    begin_epoch,
    key_slots,
    lacking_keys,
    remove_slot,
)
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.local import translate_os_error

__all__ = [
    "AddedKey",
    "KeysNow",
    "RotatedKey",
    "add_key",
    "remove_key",
    "rotate_key",
    "take_lock",
    "try_secret",
]

#: In the folder of a repository's keys: whoever changes them, or the file, holds it locked.
_LOCK = b"keys.lock"
_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class KeysNow:
    """The key slots of a repository, as the catalog keeps them; the ids of those that are damaged; the present epoch of
    the content key; and the newest log entries."""

    slots: tuple[dict[str, Any], ...]
    damaged: tuple[str, ...]
    epoch: int
    heads: LogHeads


@dataclass(frozen=True, slots=True, repr=False)
class AddedKey:
    """A key slot that was made, and its recovery key if it is one, to be shown once."""

    now: KeysNow
    slot: dict[str, Any]
    recovery_key: str | None


@dataclass(frozen=True, slots=True, repr=False)
class RotatedKey:
    """A content key that was begun. `content`: of a sealed repository all its content keys (`ContentKeys.to_text`)."""

    now: KeysNow
    content: str | None


@contextmanager
def take_lock(repository_id: str, kept: bytes, patience: float, wanted: Callable[[], bool]) -> Iterator[None]:
    """Nobody else of this service changes the keys of a repository meanwhile; `kept` is the folder that holds them.

    Waits for `patience` seconds, as long as it is `wanted`. Raises Unavailable/CATALOG_BUSY, and
    FailedPrecondition/REPOSITORY_KEYS_LOST when there is no such folder.
    """
    try:
        folder = os.open(kept, DIRECTORY_FLAGS)
        try:
            lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        raise keys_lost(repository_id, kept) from error
    except OSError as error:
        raise translate_os_error(error, f"locking the keys of repository {repository_id}") from error
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wanted() or time.monotonic() > deadline:
                    text = f"another call changes the keys of repository {repository_id}"
                    raise Unavailable(Reason.CATALOG_BUSY, text, retry_after=2.0) from None
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(lock)


def try_secret(place: RepositoryPlace, secret: str) -> None:
    """Try a secret on a repository that is not sealed. Keys of content that the data directory lacks, because another
    one began them or it is an older copy, are kept there from now on. Raises as `open_place`, `open_content` and
    `take_lock`."""
    with open_place(place) as opened:
        lacking = lacking_keys(opened.repository, open_content(opened, secret))
    if lacking:
        with take_lock(place.repository_id, place.keys_folder, _PATIENCE_SECONDS, lambda: True):
            for epoch, private in lacking.items():
                _keep(place, epoch, private)


def add_key(
    place: RepositoryPlace, seen: LogHeads, unlocked: str | None, secret: str | None, wanted: WantedSlot, now_us: int
) -> AddedKey:
    """Make a key slot that opens everything. `unlocked` are the content keys of an unlocked repository, `secret` opens
    a present slot: one of both is needed for a sealed one. `seen` are the newest log entries known.

    Raises as `open_place`, `require_newest`, `open_content` and `add_slot`.
    """
    with _opened(place, seen) as opened:
        content = _content(opened, unlocked, secret)
        new = NewSlot(SlotKind(wanted.kind), wanted.secret, wanted.display_name)
        made = add_slot(opened.repository, new, content, now_us)
        return AddedKey(_keys_now(opened), slot_record(made.info), made.recovery_key)


def remove_key(place: RepositoryPlace, seen: LogHeads, key_id: str, listed: Collection[str], now_us: int) -> KeysNow:
    """Remove a key slot; `listed` are ids of those that the catalog knows. Raises as `open_place`, `require_newest` and
    `remove_slot`."""
    with _opened(place, seen) as opened:
        remove_slot(opened.repository, key_id, now_us, listed=key_id in listed)
        return _keys_now(opened)


def rotate_key(
    place: RepositoryPlace,
    seen: LogHeads,
    unlocked: str | None,
    secret: str | None,
    listed: Collection[str],
    now_us: int,
) -> RotatedKey:
    """Begin a content key for whatever is backed up from now on. Parameters as for `add_key` and `remove_key`.

    Raises as `open_place`, `require_newest`, `open_content` and `begin_epoch`; a key that could not be kept in the data
    directory is not used.
    """

    def keep(epoch: int, private: bytes) -> None:
        _keep(place, epoch, private)

    with _opened(place, seen) as opened:
        sealed = opened.repository.config.sealed
        content = _content(opened, unlocked, secret)
        new = begin_epoch(opened.repository, lambda: now_us, keep=None if sealed else keep, listed=listed)
        text = content.including({new.epoch: new.private}).to_text() if sealed else None
        return RotatedKey(_keys_now(opened), text)


@contextmanager
def _opened(place: RepositoryPlace, seen: LogHeads) -> Iterator[OpenRepository]:
    with open_place(place) as opened:
        require_newest(opened, seen)
        yield opened


def _content(opened: OpenRepository, unlocked: str | None, secret: str | None) -> ContentKeys:
    """All content keys at hand; a secret that is given has to open a slot."""
    found = opened.keys.content if unlocked is None else ContentKeys.from_text(unlocked)
    if secret is None:
        if found is None:
            raise ValueError("a sealed repository needs a secret")
        return found
    by_secret = open_content(opened, secret)
    if found is None:
        return by_secret
    return found.including({epoch: by_secret.private(epoch) for epoch in by_secret.epochs})


def _keep(place: RepositoryPlace, epoch: int, private: bytes) -> None:
    """Add a content key to those in the data directory, durably."""
    try:
        folder = os.open(place.keys_folder, DIRECTORY_FLAGS)
        try:
            RepositoryKeys.load(folder).including(epoch, private).save(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise translate_os_error(error, f"saving the keys of repository {place.repository_id}") from error


def _keys_now(opened: OpenRepository) -> KeysNow:
    found = key_slots(opened.repository)
    return KeysNow(tuple(map(slot_record, found.slots)), tuple(sorted(found.damaged)), found.epoch, heads_of(opened))
