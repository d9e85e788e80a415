"""The keys of repositories in the edge: added, removed and rotated, one at a time for each repository.

The store is what counts; the catalog's list of keys is what it was after the last of these calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast_server.catalog import repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey, recall, remember
from holdfast_server.catalog.rows import RepositoryRow
from holdfast_server.clock import Clock
from holdfast_server.core.new_repository import WantedSlot
from holdfast_server.core.repository_keys import KeysNow, add_key, remove_key, rotate_key, take_lock
from holdfast_server.errors import NotFound, Reason
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.new_repository import keys_folder
from holdfast_server.tasks.repositories import RepositoryRegistry, repository_place, require_repository
from holdfast_server.tasks.repository_states import ShownRepository
from holdfast_server.tasks.task_keys import content_key_required
from holdfast_server.tasks.wallet_reader import WalletReader

__all__ = ["NewRepositoryKey", "RepositoryKeyring"]

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, repr=False)
class NewRepositoryKey:
    """A key slot as the catalog keeps it, and its recovery key if this very call made one."""

    slot: dict[str, Any]
    recovery_key: str | None


class RepositoryKeyring:
    """Adds, removes and rotates the keys of repositories. Thread-safe, and safe between processes.

    Where no store can be reached, or what it holds is damaged, the calls raise as `open_place` and `WalletReader.run`,
    and DataLoss/REPOSITORY_ROLLED_BACK when its log lacks what was seen of it. `wanted`: as for `WalletReader.run`.
    """

    def __init__(
        self, database: Database, registry: RepositoryRegistry, reader: WalletReader, clock: Clock, data_dir: bytes
    ) -> None:
        self._database = database
        self._registry = registry
        self._reader = reader
        self._clock = clock
        self._data_dir = data_dir

    def add(
        self,
        repository_id: str,
        slot: WantedSlot,
        credentials: Credentials | None,
        key: RequestKey | None,
        wanted: Callable[[], bool],
    ) -> NewRepositoryKey:
        """Make a key slot that opens everything; or give back, without its recovery key, the one that the same request
        made before. `credentials` open a present one, which a sealed repository that is not unlocked needs.

        Raises NotFound/REPOSITORY_NOT_FOUND; AlreadyExists/REQUEST_ID_REUSED; InvalidArgument/INVALID_FIELD;
        FailedPrecondition: KEY_REQUIRED, KEY_WRONG; ResourceExhausted/QUOTA_EXCEEDED for a slot too many;
        Unavailable/CATALOG_BUSY.
        """
        with self._alone(repository_id, wanted):
            row, known = self._begin(repository_id, key)
            if known is not None:
                return NewRepositoryKey(known["slot"], None)
            unlocked, secret = self._opening(row, credentials)
            now = self._clock.now()
            place = repository_place(row, self._data_dir)
            made = self._reader.run(add_key, place, row.log_vector, unlocked, secret, slot, now, wanted=wanted)
            self._record(row, made.now, key, {"slot": made.slot})
        return NewRepositoryKey(made.slot, made.recovery_key)

    def remove(self, repository_id: str, key_id: str, wanted: Callable[[], bool]) -> ShownRepository:
        """Remove a key slot.

        Raises NotFound: REPOSITORY_NOT_FOUND, KEY_NOT_FOUND; FailedPrecondition/LAST_KEY when nothing else would open
        all of a sealed repository; Unavailable/CATALOG_BUSY.
        """
        with self._alone(repository_id, wanted):
            row, _ = self._begin(repository_id, None)
            place, now = repository_place(row, self._data_dir), self._clock.now()
            listed = frozenset(slot["key_id"] for slot in row.keys)
            try:
                left = self._reader.run(remove_key, place, row.log_vector, key_id, listed, now, wanted=wanted)
            except NotFound as error:
                text = f"repository {repository_id} has no key {key_id or 'without an id'}"
                metadata = {**error.metadata, "repository_id": repository_id}
                raise NotFound(Reason.KEY_NOT_FOUND, text, metadata=metadata) from error
            self._record(row, left, None, {})
        return self._registry.show(repository_id)

    def rotate(
        self,
        repository_id: str,
        credentials: Credentials | None,
        key: RequestKey | None,
        wanted: Callable[[], bool],
    ) -> ShownRepository:
        """Begin a new content key, which backups use that begin from now on; or nothing, if the same request did. An
        unlocked repository stays so, for what is written under the new key too. `credentials` as for `add`.

        Raises as `add`, and DataLoss/CHECKSUM_MISMATCH for a key slot that is damaged, gone, or may have been replaced.
        """
        with self._alone(repository_id, wanted):
            row, known = self._begin(repository_id, key)
            if known is None:
                unlocked, secret = self._opening(row, credentials)
                listed = frozenset(slot["key_id"] for slot in row.keys)
                place, now = repository_place(row, self._data_dir), self._clock.now()
                begun = self._reader.run(
                    rotate_key, place, row.log_vector, unlocked, secret, listed, now, wanted=wanted
                )
                if begun.content is not None:
                    self._registry.renew_unlock(repository_id, begun.content)
                self._record(row, begun.now, key, {})
        return self._registry.show(repository_id)

    @contextmanager
    def _alone(self, repository_id: str, wanted: Callable[[], bool]) -> Iterator[None]:
        """Nobody else of this service changes the repository's keys meanwhile.

        Raises NotFound/REPOSITORY_NOT_FOUND, FailedPrecondition/REPOSITORY_KEYS_LOST, and Unavailable/CATALOG_BUSY when
        another call takes too long.
        """
        with self._database.read() as connection:
            require_repository(connection, repository_id)
        with take_lock(repository_id, keys_folder(self._data_dir, repository_id), _PATIENCE_SECONDS, wanted):
            yield

    def _begin(self, repository_id: str, key: RequestKey | None) -> tuple[RepositoryRow, dict[str, Any] | None]:
        """The repository as it is now, and what the same request gave before."""
        with self._database.read() as connection:
            row = require_repository(connection, repository_id)
            return row, recall(connection, key) if key is not None else None

    def _opening(self, row: RepositoryRow, credentials: Credentials | None) -> tuple[str | None, str | None]:
        """The keys of an unlocked repository, and the secret that came with the call; one of both for a sealed one."""
        unlocked = self._registry.unlocked(row.repository_id) if row.sealed else None
        secret = (credentials.passphrase or credentials.private_key) if credentials else None
        if row.sealed and unlocked is None and secret is None:
            raise content_key_required(row.repository_id)
        return unlocked, secret

    def _record(self, row: RepositoryRow, now: KeysNow, key: RequestKey | None, answer: dict[str, Any]) -> None:
        # What a damaged slot is called is told by the catalog alone.
        known = {slot["key_id"]: slot for slot in row.keys}
        found = {slot["key_id"]: slot for slot in now.slots}
        found.update((key_id, slot) for key_id, slot in known.items() if key_id in now.damaged)
        keys = [found[key_id] for key_id in (*known, *(found.keys() - known.keys())) if key_id in found]
        time_us = self._clock.now()
        with self._database.write() as connection:
            repositories.update_repository(
                connection, row.repository_id, keys=keys, key_epoch=now.epoch, update_time=time_us
            )
            repositories.keep_heads(connection, row.repository_id, now.heads)
            if key is not None:
                remember(connection, key, answer, time_us)
