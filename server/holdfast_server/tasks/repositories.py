"""Repositories in the edge: created, shown, unlocked for a while and locked.

A sealed repository is *unlocked* while the catalog says so and this edge holds its content keys. They are in its memory
and nowhere else: after the process's end the repository is locked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial

import sqlalchemy as sa

from holdfast_server.catalog import repositories, sources
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey, recall, remember
from holdfast_server.catalog.rows import RepositoryRow, RepositoryState
from holdfast_server.clock import Clock
from holdfast_server.core.kept_place import KeptPlace
from holdfast_server.core.new_repository import MadeRepository, WantedSlot, make_repository
from holdfast_server.core.repository_keys import try_secret
from holdfast_server.core.repository_place import (
    OpenRepository,
    RepositoryPlace,
    SignedReceipt,
    content_text,
    look_at_place,
    open_place,
    require_newest,
)
from holdfast_server.errors import AlreadyExists, HoldfastError, NotFound, Reason, Unavailable, invalid_field
from holdfast_server.storage.folder import OpenFolder, checked_path, lies_within, open_deepest, open_folder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.held_keys import HeldKeys
from holdfast_server.tasks.new_repository import NewRepositories, keys_folder
from holdfast_server.tasks.repository_states import ShownRepository, glanced_at, looked_at
from holdfast_server.tasks.sources import check_display_name
from holdfast_server.tasks.task_keys import content_key_required, nothing_to_unlock
from holdfast_server.tasks.wallet_reader import WalletReader

__all__ = [
    "REPOSITORY_ID",
    "NewRepository",
    "RepositoryOrder",
    "RepositoryRegistry",
    "open_repository",
    "open_writable",
    "repository_place",
    "require_repository",
]

#: What a repository_id matches.
REPOSITORY_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LEVELS = range(-5, 20)
_MOST_SLOTS = 16


@dataclass(frozen=True, slots=True, repr=False)
class RepositoryOrder:
    """What CreateRepository asks for. `location` is an absolute folder. Not shown: there are secrets in `slots`."""

    repository_id: str
    display_name: str
    location: bytes
    create_folder: bool = False
    sealed: bool = False
    slots: tuple[WantedSlot, ...] = ()
    compression_level: int = 3

    def check(self) -> None:
        """Raises InvalidArgument/INVALID_FIELD."""
        if not REPOSITORY_ID.fullmatch(self.repository_id):
            raise invalid_field("repository_id", "must match [a-z0-9][a-z0-9._-]{0,62}", value=self.repository_id[:80])
        check_display_name(self.display_name, "display_name")
        if self.compression_level not in _LEVELS:
            raise invalid_field("compression_level", "must be -5 to 19")
        if len(self.slots) > _MOST_SLOTS:
            raise invalid_field("keys", f"names {len(self.slots)} key slots, at most {_MOST_SLOTS} are allowed")
        if sum(slot.secret is None for slot in self.slots) > 1:
            raise invalid_field("keys", "asks for more than one recovery key")
        if self.sealed and not self.slots:
            raise invalid_field("keys", "must hold a key slot: nothing else opens a sealed repository")


@dataclass(frozen=True, slots=True, repr=False)
class NewRepository:
    """A repository that was made, and its recovery key if this very call made one."""

    row: ShownRepository
    recovery_key: str | None


class RepositoryRegistry:
    """The repositories of this service. Thread-safe. Rows are given as they may be shown, `unlock_expire` unset unless
    the keys are at hand.

    `wanted`: as for `WalletReader.run`.
    """

    def __init__(
        self, database: Database, policy: FolderPolicy, reader: WalletReader, clock: Clock, data_dir: bytes
    ) -> None:
        self._database = database
        self._policy = policy
        self._reader = reader
        self._clock = clock
        self._data_dir = data_dir
        self._new = NewRepositories(data_dir, self._is_known)
        self._held: HeldKeys[str] = HeldKeys(clock)  # `ContentKeys.to_text` by repository id

    def create(self, order: RepositoryOrder, key: RequestKey | None, wanted: Callable[[], bool]) -> NewRepository:
        """Make a repository in an empty folder, after a probe; or give back the one that the same request made before.

        Raises InvalidArgument/INVALID_FIELD; AlreadyExists: REPOSITORY_EXISTS, REQUEST_ID_REUSED; FailedPrecondition:
        FOLDER_NOT_FOUND, FOLDER_NOT_CREATABLE, FOLDER_NOT_WRITABLE, FOLDER_NOT_EMPTY, FOLDER_INSIDE_DATA_DIR,
        FOLDER_INSIDE_SOURCE, STORE_UNSUITABLE; PermissionDenied/PATH_NOT_ALLOWED; and what `WalletReader.run` raises.
        """
        order.check()
        with self._new.alone():
            with self._database.read() as connection:
                if key is not None and (known := recall(connection, key)) is not None:
                    return NewRepository(self._shown(require_repository(connection, known["repository_id"])), None)
                _require_free_id(connection, order.repository_id)
            with self._folder(order) as folder:
                now = self._clock.now()
                make = partial(self._make, order, now, wanted)
                place = KeptPlace(order.repository_id, order.display_name, order.location)
                made = self._new.create(place, folder, make, partial(self._record, order, key, now))
        return NewRepository(self._shown(self._row(order.repository_id)), made.recovery_key)

    def get(self, repository_id: str, wanted: Callable[[], bool]) -> tuple[ShownRepository, SignedReceipt | None]:
        """A repository, looked at, and counted anew if it changed since it was last and this takes no more than
        seconds; and the receipt of its log, if it could be read.

        Raises NotFound/REPOSITORY_NOT_FOUND, ResourceExhausted/READER_BUSY, DataLoss/REPOSITORY_ROLLED_BACK.
        """
        row = self._row(repository_id)
        place = repository_place(row, self._data_dir)
        counted = row.statistics is not None and row.statistics["count_time"] >= row.update_time
        now = self._clock.now()
        try:
            look = self._reader.run(look_at_place, place, row.log_vector, now, not counted, wanted=wanted)
        except HoldfastError as error:
            return self._with_unlock(looked_at(row, error)), None
        if look.counts is not None:
            row = replace(row, statistics={**look.counts, "count_time": now})
        with suppress(Unavailable):  # a catalog that is busy now learns of it next time
            self._keep_look(row, look.receipt)
        return self._with_unlock(looked_at(row, None)), look.receipt

    def list(self, *, limit: int, after: str | None) -> list[ShownRepository]:
        """By id, starting after `after`; nothing is opened."""
        with self._database.read() as connection:
            rows = repositories.list_repositories(connection, limit=limit, after=after)
        return [self._shown(row) for row in rows]

    def unlock(
        self, repository_id: str, credentials: Credentials | None, seconds: float, wanted: Callable[[], bool]
    ) -> ShownRepository:
        """Open a sealed repository for so long from now, whatever was left of an earlier unlock. For one that is not
        sealed the secret is tried, and brings back content keys that the data directory lacks.

        Raises NotFound/REPOSITORY_NOT_FOUND; FailedPrecondition: KEY_REQUIRED without a secret, KEY_WRONG; and what
        `open_place` and `WalletReader.run` raise.
        """
        row = self._row(repository_id)
        secret = _secret_of(credentials)
        if secret is None:
            raise content_key_required(repository_id) if row.sealed else nothing_to_unlock(repository_id)
        place = repository_place(row, self._data_dir)
        if not row.sealed:
            self._reader.run(try_secret, place, secret, wanted=wanted)
        else:
            text = self._reader.run(content_text, place, secret, wanted=wanted)
            until = self._clock.now() + int(seconds * 1_000_000)
            with self._database.write() as connection:
                repositories.keep_unlock(connection, repository_id, until)
            self._held.keep(repository_id, text, until, seconds)
        return self._shown(self._row(repository_id))

    def lock(self, repository_id: str) -> ShownRepository:
        """Forget a repository's keys, for tasks too that no worker has begun. Raises NotFound/REPOSITORY_NOT_FOUND."""
        self._held.forget(repository_id)
        with self._database.write() as connection:
            require_repository(connection, repository_id)
            repositories.forget_unlock(connection, repository_id)
        return self._shown(self._row(repository_id))

    def unlocked(self, repository_id: str, connection: sa.Connection | None = None) -> str | None:
        """The content keys (`ContentKeys.to_text`) of an unlocked repository, for the reader process; None for a locked
        one, and for one that is not sealed. `connection`: ask inside this transaction."""
        held = self._held.present([repository_id])
        if not held:
            return None
        reading: AbstractContextManager[sa.Connection] = (
            self._database.read() if connection is None else nullcontext(connection)
        )
        with reading as asked:
            known = repositories.unlocks(asked, self._clock.now(), held)
        self._held.drop_unless(held, lambda one, _: one in known)
        return held[repository_id].key if repository_id in known else None

    def renew_unlock(self, repository_id: str, text: str) -> None:
        """If it is unlocked here, it is with these keys from now on, and not for longer."""
        self._held.replace(repository_id, text)

    def show(self, repository_id: str) -> ShownRepository:
        """One repository as the catalog has it; nothing is opened. Raises NotFound/REPOSITORY_NOT_FOUND."""
        return self._shown(self._row(repository_id))

    def attach(
        self,
        row: RepositoryRow,
        credentials: Credentials | None = None,
        connection: sa.Connection | None = None,
        *,
        required: bool = False,
    ) -> Credentials | None:
        """The credentials of a task with the keys of the repository, if it is unlocked. `required`: the task reads
        content; raises FailedPrecondition/KEY_REQUIRED when a sealed repository is locked and no secret was given."""
        if not row.sealed:
            return credentials
        text = self.unlocked(row.repository_id, connection)
        if text is None:
            if required and _secret_of(credentials) is None:
                raise content_key_required(row.repository_id)
            return credentials
        keys = {row.repository_id: text}
        return replace(credentials, content_keys=keys) if credentials else Credentials(content_keys=keys)

    def tick(self) -> None:
        """Forget what has expired, and what another edge has locked. To be called every second."""
        held = self._held.present()
        if held:
            with self._database.read() as connection:
                known = repositories.unlocks(connection, self._clock.now(), held)
            self._held.drop_unless(held, lambda one, _: one in known)

    def _make(self, order: RepositoryOrder, now: int, wanted: Callable[[], bool], folder: bytes) -> MadeRepository:
        return self._reader.run(
            make_repository, folder, order.sealed, order.slots, order.compression_level, now, wanted=wanted
        )

    def _record(self, order: RepositoryOrder, key: RequestKey | None, now: int, made: MadeRepository) -> None:
        row = RepositoryRow(
            repository_id=order.repository_id,
            display_name=order.display_name,
            location=order.location,
            sealed=order.sealed,
            state=RepositoryState.READY,
            uuid=made.uuid,
            fingerprint=made.fingerprint,
            format_version=made.format_version,
            compression_level=order.compression_level,
            keys=list(made.slots),
            create_time=now,
            update_time=now,
        )
        with self._database.write() as connection:
            _require_free_id(connection, order.repository_id)
            repositories.insert_repository(connection, row)
            if key is not None:
                remember(connection, key, {"repository_id": row.repository_id}, now)

    def _folder(self, order: RepositoryOrder) -> OpenFolder:
        """The folder, made if it was missing, after all checks of where it lies."""
        with self._database.read() as connection:
            backed_up = [path for path in sources.paths_in_use(connection) if path]
            others = repositories.locations(connection)
        with ExitStack() as stack:
            opened = _opened(stack, backed_up)
            # Which repository lies there is told below.
            check = partial(
                self._policy.check_destination, order.location, "location", sources=opened, in_repository=True
            )
            seen = check(create=order.create_folder, dry_run=True)
            if seen is not None:
                seen.close()
            _require_apart(order.location, others)
            folder = check(create=order.create_folder)
            if folder is None:
                raise AssertionError("a folder that was to be made is there")
            return folder

    def _keep_look(self, row: RepositoryRow, receipt: SignedReceipt) -> None:
        """Remember the counts and, for good, the newest log entries: a store that later lacks one was rolled back."""
        with self._database.read() as connection:
            present = require_repository(connection, row.repository_id)
        if present.statistics == row.statistics and not repositories.newer_heads(present, receipt.heads()):
            return
        with self._database.write() as connection:
            present = require_repository(connection, row.repository_id)
            vector = {**present.log_vector, **repositories.newer_heads(present, receipt.heads())}
            repositories.update_repository(connection, row.repository_id, log_vector=vector, statistics=row.statistics)

    def _row(self, repository_id: str) -> RepositoryRow:
        with self._database.read() as connection:
            return require_repository(connection, repository_id)

    def _is_known(self, repository_id: str) -> bool:
        with self._database.read() as connection:
            return repositories.get_repository(connection, repository_id) is not None

    def _shown(self, row: RepositoryRow) -> ShownRepository:
        return self._with_unlock(glanced_at(row, keys_folder(self._data_dir, row.repository_id)))

    def _with_unlock(self, row: ShownRepository) -> ShownRepository:
        at_hand = row.unlock_expire is not None and self.unlocked(row.repository_id) is not None
        return row if at_hand else replace(row, unlock_expire=None)


def require_repository(connection: sa.Connection, repository_id: str) -> RepositoryRow:
    """Raises NotFound/REPOSITORY_NOT_FOUND."""
    row = repositories.get_repository(connection, repository_id)
    if row is None:
        text = f"there is no repository {repository_id or 'without an id'}"
        raise NotFound(Reason.REPOSITORY_NOT_FOUND, text, metadata={"repository_id": repository_id})
    return row


def repository_place(row: RepositoryRow, data_dir: bytes, *, trusted: bool = False) -> RepositoryPlace:
    """Where the repository and its keys lie, for `core` and the reader process. `trusted`: whatever a probe has found
    of its store."""
    folder = keys_folder(data_dir, row.repository_id)
    problem = None if trusted else row.store_problem
    return RepositoryPlace(row.repository_id, row.location, folder, row.fingerprint, problem)


def open_repository(row: RepositoryRow, data_dir: bytes) -> OpenRepository:
    """A repository with the keys of the data directory, for a worker; close it. Raises as `open_place`."""
    return open_place(repository_place(row, data_dir))


def open_writable(row: RepositoryRow, data_dir: bytes) -> OpenRepository:
    """As `open_repository`, for who adds to the log. Raises DataLoss/REPOSITORY_ROLLED_BACK when it lacks what the
    catalog has seen of it."""
    opened = open_repository(row, data_dir)
    try:
        require_newest(opened, row.log_vector)
    except BaseException:
        opened.close()
        raise
    return opened


def _secret_of(credentials: Credentials | None) -> str | None:
    return (credentials.passphrase or credentials.private_key) if credentials else None


def _require_free_id(connection: sa.Connection, repository_id: str) -> None:
    if repositories.get_repository(connection, repository_id) is not None:
        text = f"there is a repository {repository_id} already"
        raise AlreadyExists(Reason.REPOSITORY_EXISTS, text, metadata={"repository_id": repository_id})


def _opened(stack: ExitStack, paths: Sequence[bytes]) -> list[OpenFolder]:
    """Those of the folders that can be opened: nothing lies in one that cannot."""
    found = []
    for path in paths:
        with suppress(HoldfastError):
            found.append(stack.enter_context(open_folder(path)))
    return found


def _require_apart(location: bytes, others: dict[str, bytes]) -> None:
    """Raises AlreadyExists/REPOSITORY_EXISTS for a folder in that of another repository, by any alias."""
    with open_deepest(checked_path(location, "location")) as found, ExitStack() as stack:
        for repository_id, other in others.items():
            for folder in _opened(stack, [other]):
                try:
                    inside = lies_within(found.folder.fd, folder.fd)
                except OSError as error:
                    raise translate_os_error(error, f"finding out where {folder.display} lies") from error
                if inside:
                    raise AlreadyExists(
                        Reason.REPOSITORY_EXISTS,
                        f"the folder holds repository {repository_id} or lies in that of it, {folder.display}",
                        metadata={"repository_id": repository_id, "path": folder.display},
                    )
