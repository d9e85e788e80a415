"""The RESTORE_ARCHIVE task: any archive file of the server into a new folder, as hostile input."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from functools import partial
from typing import BinaryIO

import sqlalchemy as sa

from holdfast_server.archive.extract import Extracted
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reader import Limits
from holdfast_server.archive.reading import LimitExceeded
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import TaskKind, TaskRow
from holdfast_server.core.control import Problem
from holdfast_server.core.foreign import ForeignArchive, check_recognised, open_foreign, survey_foreign
from holdfast_server.core.restore import Restored, Unpacking, extract_to_staging
from holdfast_server.core.selection import PathSelection
from holdfast_server.errors import Reason, ResourceExhausted, invalid_field
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.new_folder import FIELD, NewFolder, counts_of, target_wish
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.stored import age_identity, check_entry_paths

__all__ = ["ArchiveLimits", "RestoreArchiveHandler", "RestoreArchiveOrder", "RestoreArchiveOrders", "ServiceLimits"]

_ARCHIVE = "archive_path"

#: How the call and the configuration name what the readers limit.
_LIMITS = {"total_bytes": "max_bytes", "entries": "max_entries", "ratio": "max_ratio", "depth": "max_depth"}


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What a caller allows an archive to ask for, beside the service's own limits; None: those alone."""

    max_bytes: int | None = None
    max_entries: int | None = None
    max_ratio: int | None = None
    max_depth: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What the service allows an archive to ask for. `reserve` bytes of the target's filesystem stay free."""

    max_entries: int = 10_000_000
    max_ratio: int = 1_000
    max_depth: int = 10_000
    reserve: int = 0

    def with_asked(self, asked: ArchiveLimits) -> Limits:
        """The tighter of both."""

        def tighter(own: int, other: int | None) -> int:
            return own if other is None else min(own, other)

        return Limits(
            entries=tighter(self.max_entries, asked.max_entries),
            ratio=tighter(self.max_ratio, asked.max_ratio),
            depth=tighter(self.max_depth, asked.max_depth),
        )

    def explain(self, error: LimitExceeded, asked: ArchiveLimits) -> ResourceExhausted:
        """The error with whose limit it was and how to raise it."""
        name = _LIMITS.get(error.limit, error.limit)
        own, wanted = getattr(self, name, None), getattr(asked, name, None)
        if wanted is not None and (own is None or wanted < own):
            how = f"the call set limits.{name} to {wanted}"
            how += f", the service allows {own}" if own is not None else "; it may be more, as far as the disk is free"
        elif own is not None:
            how = f"the service allows {own}: raise [restore] {name} of its configuration for an archive that you trust"
        else:
            how = "this limit is fixed"
        metadata = {**error.metadata, "limit": name, "allowed": str(error.allowed)}
        return ResourceExhausted(Reason.QUOTA_EXCEEDED, f"{error.message} ({how})", metadata=metadata)


@dataclass(frozen=True, slots=True)
class RestoreArchiveOrder:
    """What RestoreArchive asks for, into a new folder. Paths are bytes; those in the archive are relative."""

    archive_path: bytes
    folder: bytes
    create_parents: bool = False
    paths: tuple[bytes, ...] = ()
    limits: ArchiveLimits = ArchiveLimits()
    dry_run: bool = False
    credentials: Credentials | None = None


class RestoreArchiveOrders:
    """Files restores of archives. Thread-safe."""

    def __init__(self, engine: TaskEngine, policy: FolderPolicy) -> None:
        self._engine = engine
        self._policy = policy

    def create(self, order: RestoreArchiveOrder, principal: str, key: RequestKey | None) -> TaskRow:
        """Check archive and target now, make the target's parents if asked to, and queue the task.

        Raises FailedPrecondition (FILE_NOT_FOUND, ARCHIVE_INVALID for what is no archive, KEY_REQUIRED, FOLDER_…),
        InvalidArgument, PermissionDenied/PATH_NOT_ALLOWED, Unavailable/NO_WORKER.
        """
        check_entry_paths(order.paths)
        for name, value in asdict(order.limits).items():
            if value == 0:
                raise invalid_field(f"limits.{name}", "must be at least 1, or be left out")
        identity = age_identity(order.credentials)
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        with self._policy.open_file(order.archive_path, _ARCHIVE) as file:
            check_recognised(file, escape(order.archive_path), has_key=identity is not None)
        with self._policy.check_restore_target(
            order.folder, FIELD, create_parents=order.create_parents, dry_run=order.dry_run
        ):
            return self._engine.create(partial(_file, order, principal), key)


def _file(order: RestoreArchiveOrder, principal: str, connection: sa.Connection) -> NewTask:
    del connection
    return NewTask(
        kind=TaskKind.RESTORE_ARCHIVE,
        principal=principal,
        request={
            "archive_path": base64.b64encode(order.archive_path).decode(),
            "folder": base64.b64encode(order.folder).decode(),
            "paths": [base64.b64encode(path).decode() for path in order.paths],
            "limits": asdict(order.limits),
        },
        source_ids=[],
        wishes=[target_wish(order.folder)],
        dry_run=order.dry_run,
        message="waiting",
        credentials=order.credentials,
        queue="data",  # a dry run too reads all of the archive
    )


class RestoreArchiveHandler:
    """Does RESTORE_ARCHIVE tasks in a worker."""

    def __init__(self, policy: FolderPolicy, limits: ServiceLimits) -> None:
        self._policy = policy
        self._limits = limits

    def run(self, run: TaskRun) -> Outcome:
        request = run.row.request
        target = NewFolder(self._policy, run, base64.b64decode(request["folder"]))
        if target.committed:
            return target.finish()
        path, asked = base64.b64decode(request["archive_path"]), ArchiveLimits(**request["limits"])
        with self._policy.open_file(path, _ARCHIVE) as file:
            try:
                return self._open(run, target, file, escape(path), asked)
            except LimitExceeded as error:
                raise self._limits.explain(error, asked) from error

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  a proved restore is finished
        NewFolder(self._policy, run, base64.b64decode(run.row.request["folder"])).clean()
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass

    def _open(self, run: TaskRun, target: NewFolder, file: BinaryIO, shown: str, asked: ArchiveLimits) -> Outcome:
        limits, identity = self._limits.with_asked(asked), age_identity(run.credentials())
        with open_foreign(file, shown, identity=identity, limits=limits, control=run.control) as archive:
            sealed = ", sealed with age" if archive.sealed else ""
            run.log(f"{shown} is a {archive.format.value} archive{sealed}, {archive.reader.source.size} bytes")
            run.log(
                f"limits: {limits.entries} entries, {limits.ratio} times its size, {limits.depth} folders deep, "
                + (f"{asked.max_bytes} bytes" if asked.max_bytes is not None else "the free space")
            )
            work = _Work(run, archive, asked.max_bytes, self._limits.reserve)
            return work.survey(target) if run.row.dry_run else target.restore(work.prove)


class _Work:
    """One attempt's work on an opened archive."""

    def __init__(self, run: TaskRun, archive: ForeignArchive, max_bytes: int | None, reserve: int) -> None:
        paths = [base64.b64decode(path) for path in run.row.request["paths"]]
        self._run = run
        self._archive = archive
        self._max_bytes = max_bytes
        self._reserve = reserve
        self._select = PathSelection(paths) if paths else None
        run.progress.keep_names = not archive.sealed
        self._folder = escape(base64.b64decode(run.row.request["folder"]))
        self._losses = self._skipped = 0

    def survey(self, target: NewFolder) -> Outcome:
        free = target.foresee()
        self._stated_size()
        found = survey_foreign(
            self._archive, self._select, max_bytes=self._max_bytes, control=self._run.control,
            progress=self._run.progress, report=self._report,
        )  # fmt: skip
        self._run.progress.settle(found.bytes, found.files)
        has_manifest = found.manifest_header is not None
        fits = "" if found.bytes <= free - self._reserve else f"; only {free} bytes are free"
        text = f"would restore {found.files} files, {found.bytes} bytes; {self._proof(has_manifest)}{fits}"
        return self._outcome(found, text, has_manifest, warnings=bool(fits))

    def prove(self, root_fd: int, staging: bytes) -> tuple[Restored, Outcome]:
        unpacking = Unpacking(
            self._archive.reader,
            self._select,
            self._archive.progress_of(self._run.progress),
            self._report,
            needed=self._stated_size(),
            reserve=self._reserve,
            max_bytes=self._max_bytes,
            expect_manifest=False,
        )
        found = extract_to_staging(unpacking, root_fd, staging, control=self._run.control, progress=self._run.progress)
        self._run.progress.settle(found.bytes, found.files)
        text = f"restored {found.files} files, {found.bytes} bytes to {self._folder}; {self._proof(found.has_manifest)}"
        return found, self._outcome(found, text, found.has_manifest)

    def _stated_size(self) -> int | None:
        """What the archive says that it will write. More than is allowed need not be unpacked to be refused."""
        stated = self._archive.reader.stated_size(self._select or (lambda _path: True))
        if stated is not None and self._max_bytes is not None and stated > self._max_bytes:
            what = f"its files hold {stated} bytes, more than {self._max_bytes}"
            raise LimitExceeded("total_bytes", self._max_bytes, what)
        return stated

    def _report(self, path: bytes, what: str, whole: bool) -> None:
        self._losses += 1
        self._skipped += whole
        reason = "ENTRY_SKIPPED" if whole else "RESTORED_WITH_WARNING"
        self._run.problem(Problem(path, reason, what), source_id="", backup_id=None)

    def _proof(self, has_manifest: bool) -> str:
        return self._archive.proof(has_manifest=has_manifest)

    def _outcome(
        self, found: Restored | Extracted, message: str, has_manifest: bool, *, warnings: bool = False
    ) -> Outcome:
        archive_format = self._archive.format
        result = {
            "folder": self._folder,
            "format": archive_format.name if archive_format is not ArchiveFormat.TAR else "UNSPECIFIED",
            "sealed": self._archive.sealed,
            "has_manifest": has_manifest,
            "has_checksums": self._archive.has_checksums,
            **counts_of(found),
            "files_verified": found.files if has_manifest else 0,
            "entries_skipped": self._skipped,
        }
        return Outcome(result, message, warnings=warnings or self._losses > 0)
