"""Restoring into a new folder, for every task that does: one attempt's way from an empty target to a whole tree.

What the task has to prove is extracted into staging inside the target. Then the task commits to it, with the outcome
that it will report, and from there on it is finished, by this attempt or a later one; before that, nothing stays.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from holdfast_server.archive.extract import Extracted
from holdfast_server.catalog.rows import LockMode, LockWish
from holdfast_server.catalog.tasks import update_attempt
from holdfast_server.core.restore import Restored, apply_staging, remove_staging, staging_name
from holdfast_server.errors import FailedPrecondition, Fenced
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local import free_bytes, fsync_directory
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.run import Outcome, TaskRun

__all__ = ["NewFolder", "counts_of", "field_of", "target_wish"]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Extracts into the named staging folder below the opened target, and says what the task then reports.
Prove = Callable[[int, bytes], tuple[Restored, Outcome]]


class NewFolder:
    """The target of one attempt."""

    def __init__(self, policy: FolderPolicy, run: TaskRun, folder: bytes) -> None:
        self._policy = policy
        self._run = run
        self._folder = folder
        self._field = field_of(run.row.request.get("new_wallet"))

    @property
    def committed(self) -> bool:
        """Whether an attempt has proved everything: then `finish` is all that is left."""
        return "applying" in self._run.row.checkpoint

    def restore(self, prove: Prove) -> Outcome:
        """Make the target, prove, apply. After any exception before the commit, nothing is left."""
        staging = staging_name(self._run.task_id, self._run.attempt)
        with self._target() as root:
            try:
                found, outcome = prove(root.fd, staging)
                self._commit(found, outcome, staging)
                self._apply(root.fd)
            except BaseException as error:
                if not self.committed:
                    self._run.cleanup.removed(*remove_staging(root.fd, staging))
                    if not isinstance(error, Fenced):  # then the folder is the successor's
                        self._remove_root()
                raise
        return outcome

    def finish(self) -> Outcome:
        """What is left of a restore that an earlier attempt committed to."""
        self._run.log("an earlier attempt had proved everything; moving what is left")
        self._run.progress.begin("applying")
        fd = os.open(self._folder, _OPEN)
        try:
            self._apply(fd)
        finally:
            os.close(fd)
        applying = self._run.row.checkpoint["applying"]
        return Outcome(applying["result"], applying["message"], warnings=applying["warnings"])

    def clean(self) -> None:
        """Remove the staging of lower attempts, and the target if this task made it.

        Once entries are being moved, nothing is removed any more: the restore is finished instead.
        """
        if self.committed or self._run.row.dry_run:
            return
        try:
            fd = os.open(self._folder, _OPEN)
        except OSError:
            return
        try:
            for attempt in range(1, self._run.attempt):
                self._run.cleanup.removed(*remove_staging(fd, staging_name(self._run.task_id, attempt)))
        finally:
            os.close(fd)
        self._remove_root()

    def foresee(self) -> int:
        """For a dry run: the bytes that are free for the target. Raises what a restore would be refused for."""
        with self._policy.check_restore_target(self._folder, self._field, create_parents=True, dry_run=True) as target:
            return free_bytes(target.parent.fd)

    @contextmanager
    def _target(self) -> Iterator[OpenFolder]:
        """The empty target, made if it does not exist; that this task made it is recorded first."""
        with self._policy.check_restore_target(self._folder, self._field, create_parents=False) as target:
            if target.existing is not None:
                yield target.existing
                return
            with self._run.guarded() as connection:
                self._run.checkpoint(connection, made_root=True)
            os.mkdir(target.name, 0o700, dir_fd=target.parent.fd)
            fsync_directory(target.parent.fd)
            with OpenFolder(os.open(target.name, _OPEN, dir_fd=target.parent.fd), self._folder) as made:
                yield made

    def _commit(self, found: Restored, outcome: Outcome, staging: bytes) -> None:
        """The point of no return."""
        applying = {
            "staging": staging.decode(),
            "root": found.root,
            "result": outcome.result,
            "message": outcome.message,
            "warnings": outcome.warnings,
        }
        try:
            with self._run.guarded() as connection:
                self._run.checkpoint(connection, applying=applying)
                update_attempt(connection, self._run.task_id, self._run.attempt, committing=True)
        except BaseException:
            self._run.row.checkpoint.pop("applying", None)  # it did not come about
            raise
        self._run.progress.begin("applying")

    def _apply(self, root_fd: int) -> None:
        """Move up what staging holds. Where something stands in the way, the report says what stays where."""
        applying = self._run.row.checkpoint["applying"]
        staging = applying["staging"].encode()
        try:
            apply_staging(root_fd, staging, applying["root"], lambda: None)
        except FailedPrecondition:
            self._run.left_behind += [escape(self._folder), escape(self._folder.rstrip(b"/") + b"/" + staging)]
            raise

    def _remove_root(self) -> None:
        """Remove the target again if this task made it and it is empty."""
        if not self._run.row.checkpoint.get("made_root"):
            return
        with suppress(FileNotFoundError):
            try:
                os.rmdir(self._folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise


def counts_of(found: Restored | Extracted) -> dict[str, Any]:
    """What a result says of the tree."""
    return {
        "files": found.files,
        "directories": found.directories,
        "symlinks": found.symlinks,
        "hardlinks": found.hardlinks,
        "restored_size": found.bytes,
    }


def field_of(wallet: object | None) -> str:
    """The request's field that names the target."""
    return "new_folder.folder" if wallet is None else "new_wallet.folder"


def target_wish(folder: bytes) -> LockWish:
    """Nobody else restores into the same folder."""
    return LockWish(f"folder:{escape(folder.rstrip(b'/'))}", LockMode.EXCLUSIVE)
