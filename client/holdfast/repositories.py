"""Repositories: created, shown, unlocked for a while and locked, proved and maintained; and their keys."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from holdfast.connection import Connection
from holdfast.convert import from_message, to_duration, to_number, to_task, wire_path
from holdfast.credentials import Credentials, wire_credentials
from holdfast.enums import VerifyLevel
from holdfast.errors import BadConfiguration
from holdfast.maintenance_models import (
    CheckRepositoryResult,
    CompactRepositoryResult,
    PruneRepositoryResult,
    RepairRepositoryResult,
)
from holdfast.pages import pages
from holdfast.repository_models import AddedKey, CreatedRepository, Repository
from holdfast.retention import RetentionPolicy, wire_retention
from holdfast.task import TaskHandle
from holdfast.v1 import backup_pb2, repository_pb2, repository_service_pb2

__all__ = ["NewKey", "Repositories"]


@dataclass(frozen=True, slots=True, repr=False)
class NewKey:
    """A key slot to make: opened by a passphrase, by the content of a key file, or by a recovery key that the server
    makes and shows once. Exactly one of the three."""

    passphrase: str | None = None
    private_key: str | None = None
    recovery: bool = False
    display_name: str = ""

    def __post_init__(self) -> None:
        if sum((self.passphrase is not None, self.private_key is not None, self.recovery)) != 1:
            raise BadConfiguration(
                "a key slot is opened by exactly one secret", remedy="Give one of passphrase, private_key, recovery."
            )

    def __repr__(self) -> str:
        return "NewKey(hidden)"


class Repositories:
    """`client.repositories`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        repository_id: str,
        folder: str | os.PathLike[str],
        *,
        create_folder: bool = False,
        sealed: bool = False,
        keys: Iterable[NewKey] = (),
        compression_level: int | None = None,
        display_name: str = "",
        request_id: str | None = None,
    ) -> CreatedRepository:
        """Make a repository in an empty folder of the server; `folder` is absolute.

        `sealed`: the server keeps no key that opens contents or names, so `keys` must hold what does, and calls that
        read content need it. The recovery key, if one is asked for, comes with this answer and never again. Raises
        AlreadyExists/REPOSITORY_EXISTS, and FailedPrecondition for a folder that will not do.
        """
        request = repository_service_pb2.CreateRepositoryRequest(
            repository_id=repository_id,
            display_name=display_name,
            location=wire_path(folder),
            create_folder=create_folder,
            sealed=sealed,
            keys=[_wire_key(key) for key in keys],
            compression_level=compression_level,
            request_id=request_id or str(uuid.uuid4()),
        )
        reply = self._connection.create(self._connection.repositories.CreateRepository, request)
        return from_message(CreatedRepository, reply)

    def get(self, repository_id: str) -> Repository:
        """With statistics. Raises NotFound/REPOSITORY_NOT_FOUND."""
        request = repository_service_pb2.GetRepositoryRequest(repository_id=repository_id)
        return from_message(Repository, self._connection.call(self._connection.repositories.GetRepository, request))

    def list(self, *, page_size: int = 0) -> Iterator[Repository]:
        """All repositories by id, without statistics."""
        request = repository_service_pb2.ListRepositoriesRequest(page_size=page_size)
        call = self._connection.repositories.ListRepositories
        return pages(self._connection, call, request, "repositories", Repository)

    def unlock(
        self, repository_id: str, credentials: Credentials, *, ttl: timedelta | float | None = None
    ) -> Repository:
        """Open a sealed repository, so that calls need no credentials for `ttl` (seconds or a span, 1 s to 1 h;
        15 minutes if None).

        `Credentials(passphrase=...)`, or `Credentials(private_key=...)` for the content of a key file or a recovery
        key. Raises FailedPrecondition/KEY_WRONG.
        """
        request = repository_service_pb2.UnlockRepositoryRequest(
            repository_id=repository_id,
            credentials=wire_credentials(credentials),
            ttl=None if ttl is None else to_duration(ttl),
        )
        return from_message(Repository, self._connection.call(self._connection.repositories.UnlockRepository, request))

    def add_key(
        self,
        repository_id: str,
        key: NewKey,
        *,
        credentials: Credentials | None = None,
        request_id: str | None = None,
    ) -> AddedKey:
        """Add a key slot, which opens older content too. `credentials` open a present one, as a sealed repository that
        is not unlocked needs.

        Raises FailedPrecondition: KEY_REQUIRED, KEY_WRONG; ResourceExhausted/QUOTA_EXCEEDED from the 65th slot on.
        """
        request = repository_service_pb2.AddKeyRequest(
            repository_id=repository_id,
            key=_wire_key(key),
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        return from_message(AddedKey, self._connection.create(self._connection.repositories.AddKey, request))

    def remove_key(self, repository_id: str, key_id: str) -> Repository:
        """Remove a key slot. Whoever opened it before can still read what was written until now; `rotate_key` keeps
        later content from them.

        Raises NotFound/KEY_NOT_FOUND, and FailedPrecondition/LAST_KEY for the last one of a sealed repository.
        """
        request = repository_service_pb2.RemoveKeyRequest(repository_id=repository_id, key_id=key_id)
        return from_message(Repository, self._connection.call(self._connection.repositories.RemoveKey, request))

    def rotate_key(
        self, repository_id: str, *, credentials: Credentials | None = None, request_id: str | None = None
    ) -> Repository:
        """Encrypt later content with a new key, which every present slot opens; earlier content stays as it is.
        `credentials` as for `add_key`.

        Raises FailedPrecondition: KEY_REQUIRED, KEY_WRONG; DataLoss/CHECKSUM_MISMATCH, naming the slot, for one that
        is damaged, gone, or does not prove that it was made by the service: remove it, or add it anew.
        """
        request = repository_service_pb2.RotateKeyRequest(
            repository_id=repository_id,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        return from_message(Repository, self._connection.create(self._connection.repositories.RotateKey, request))

    def check(
        self,
        repository_id: str,
        level: VerifyLevel | str | None = None,
        *,
        percent: int | None = None,
        credentials: Credentials | None = None,
        request_id: str | None = None,
    ) -> TaskHandle[CheckRepositoryResult]:
        """Start a check of a whole repository, or above STRUCTURE of `percent` (1 to 100) of what its packs hold;
        later checks go on where the last one stopped. Without `level` everything is read and unpacked.

        `credentials` open a sealed repository that is not unlocked, and are needed for READ_DATA alone. Damage ends the
        task FAILED with DATA_LOSS/CHECKSUM_MISMATCH and a result that says what is lost.
        """
        request = repository_service_pb2.CheckRepositoryRequest(
            repository_id=repository_id,
            level=to_number(backup_pb2.VerifyLevel, level),
            percent=percent,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        task = to_task(self._connection.create(self._connection.repositories.CheckRepository, request))
        return TaskHandle(self._connection, task)

    def prune(
        self,
        repository_id: str,
        retention: RetentionPolicy,
        *,
        source_ids: Iterable[str] = (),
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> TaskHandle[PruneRepositoryResult]:
        """Start the removal of backups that the policy does not keep, of the named sources or of all, and free what
        nothing needs any more. Removed backups do not go through the trash.

        Backups and restores go on meanwhile; what they may need is freed by a later prune. A policy without rules
        removes no backup. `dry_run` only tells the plan. Raises NotFound: REPOSITORY_NOT_FOUND, SOURCE_NOT_FOUND.
        """
        request = repository_service_pb2.PruneRepositoryRequest(
            repository_id=repository_id,
            source_ids=source_ids,
            retention=wire_retention(retention),
            dry_run=dry_run,
            request_id=request_id or str(uuid.uuid4()),
        )
        task = to_task(self._connection.create(self._connection.repositories.PruneRepository, request))
        return TaskHandle(self._connection, task)

    def compact(
        self, repository_id: str, *, dry_run: bool = False, request_id: str | None = None
    ) -> TaskHandle[CompactRepositoryResult]:
        """Start to merge small packs and index objects, and to free what is unused in packs that hold what is needed.
        Needs no key."""
        request = repository_service_pb2.CompactRepositoryRequest(
            repository_id=repository_id, dry_run=dry_run, request_id=request_id or str(uuid.uuid4())
        )
        task = to_task(self._connection.create(self._connection.repositories.CompactRepository, request))
        return TaskHandle(self._connection, task)

    def repair(
        self,
        repository_id: str,
        *,
        dry_run: bool = False,
        credentials: Credentials | None = None,
        lost_backup_ids: Sequence[str] = (),
        request_id: str | None = None,
    ) -> TaskHandle[RepairRepositoryResult]:
        """Start to rebuild what can be rebuilt and to set damaged packs aside, so that later backups store anew what is
        lost. `credentials` open a sealed repository that is not unlocked, to count lost files beside chunks;
        `lost_backup_ids` are backups that the catalog does not know and whose snapshots are gone for good."""
        request = repository_service_pb2.RepairRepositoryRequest(
            repository_id=repository_id,
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
            lost_backup_ids=lost_backup_ids,
        )
        task = to_task(self._connection.create(self._connection.repositories.RepairRepository, request))
        return TaskHandle(self._connection, task)

    def lock(self, repository_id: str) -> Repository:
        """Forget the repository's key at once; no error if it was locked."""
        request = repository_service_pb2.LockRepositoryRequest(repository_id=repository_id)
        return from_message(Repository, self._connection.call(self._connection.repositories.LockRepository, request))


def _wire_key(key: NewKey) -> repository_pb2.NewKey:
    return repository_pb2.NewKey(
        passphrase=key.passphrase,
        private_key=key.private_key,
        recovery=repository_pb2.NewKey.Recovery() if key.recovery else None,
        display_name=key.display_name,
    )
