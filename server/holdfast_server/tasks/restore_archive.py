"""The RESTORE_ARCHIVE task: any archive file of the server into a new folder or wallet, as hostile input."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, BinaryIO

import sqlalchemy as sa

from holdfast_server.archive.extract import Extracted
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reader import Limits
from holdfast_server.archive.reading import LimitExceeded
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import TaskKind, TaskRow
from holdfast_server.catalog.sources import wallet_ids
from holdfast_server.clock import Clock
from holdfast_server.core.control import Problem
from holdfast_server.core.foreign import ForeignArchive, check_recognised, open_foreign, survey_foreign
from holdfast_server.core.new_wallet import require_wallet_backup
from holdfast_server.core.restore import Restored, Unpacking, extract_to_staging
from holdfast_server.core.selection import PathSelection
from holdfast_server.errors import Reason, ResourceExhausted, invalid_field
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.new_folder import NewFolder, counts_of, field_of, target_wish
from holdfast_server.tasks.new_wallet import NewWallet, order_wallet, registering
from holdfast_server.tasks.restored_coins import coin_restore, coin_result, coin_sentence, decrypts, with_wallet_keys
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.stored import age_identity, check_entry_paths
from holdfast_server.tasks.wallet_keys import WalletKeys

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
    """What RestoreArchive asks for. Paths are bytes; those in the archive are relative.

    `wallet`: the folder becomes a wallet of the service. `decrypt` None: if there is a wallet password, or `wallet`.
    """

    archive_path: bytes
    folder: bytes
    create_parents: bool = False
    paths: tuple[bytes, ...] = ()
    limits: ArchiveLimits = ArchiveLimits()
    dry_run: bool = False
    credentials: Credentials | None = None
    wallet: NewWallet | None = None
    decrypt: bool | None = None


class RestoreArchiveOrders:
    """Files restores of archives. Thread-safe."""

    def __init__(self, engine: TaskEngine, policy: FolderPolicy, clock: Clock, keys: WalletKeys) -> None:
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._keys = keys

    def create(self, order: RestoreArchiveOrder, principal: str, key: RequestKey | None) -> TaskRow:
        """Check archive and target now, make the target's parents if asked to, and queue the task.

        Raises FailedPrecondition (FILE_NOT_FOUND, ARCHIVE_INVALID for what is no archive, KEY_REQUIRED, FOLDER_…),
        AlreadyExists/SOURCE_EXISTS, InvalidArgument, PermissionDenied/PATH_NOT_ALLOWED, Unavailable/NO_WORKER.
        """
        check_entry_paths(order.paths)
        if order.wallet is not None:
            order.wallet.check(order.paths, order.decrypt)
        decrypt = decrypts(order.decrypt, order.wallet, order.credentials)
        for name, value in asdict(order.limits).items():
            if value == 0:
                raise invalid_field(f"limits.{name}", "must be at least 1, or be left out")
        identity = age_identity(order.credentials)
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        with self._policy.open_file(order.archive_path, _ARCHIVE) as file:
            check_recognised(file, escape(order.archive_path), has_key=identity is not None)
        new = partial(self._file, order, principal, decrypt)
        self._engine.inside(new)  # before the folder: parents are made only for what will be restored
        with self._policy.check_restore_target(
            order.folder, field_of(order.wallet), create_parents=order.create_parents, dry_run=order.dry_run
        ):
            return self._engine.create(new, key)

    def _file(self, order: RestoreArchiveOrder, principal: str, decrypt: bool, connection: sa.Connection) -> NewTask:
        request: dict[str, Any] = {
            "archive_path": base64.b64encode(order.archive_path).decode(),
            "folder": base64.b64encode(order.folder).decode(),
            "paths": [base64.b64encode(path).decode() for path in order.paths],
            "limits": asdict(order.limits),
            "decrypt": decrypt,
        }
        wishes, credentials = [target_wish(order.folder)], order.credentials
        if order.wallet is not None:
            request["new_wallet"], reserved = order_wallet(connection, order.wallet, order.folder, self._clock.now())
            wishes += [] if order.dry_run else [reserved]
        if decrypt:
            # Whose coins the archive holds shows when it is read: the key of any wallet may be the one.
            credentials = with_wallet_keys(
                self._keys, wallet_ids(connection), credentials, connection, required=order.decrypt is True
            )
        return NewTask(
            kind=TaskKind.RESTORE_ARCHIVE,
            principal=principal,
            request=request,
            source_ids=[],
            wishes=wishes,
            dry_run=order.dry_run,
            message="waiting",
            credentials=credentials,
            queue="data",  # a dry run too reads all of the archive
        )


class RestoreArchiveHandler:
    """Does RESTORE_ARCHIVE tasks in a worker."""

    def __init__(self, policy: FolderPolicy, limits: ServiceLimits, clock: Clock) -> None:
        self._policy = policy
        self._limits = limits
        self._clock = clock

    def run(self, run: TaskRun) -> Outcome:
        request = run.row.request
        target = NewFolder(self._policy, run, base64.b64decode(request["folder"]))
        if target.committed:
            return registering(run, self._clock, target.finish())
        path, asked = base64.b64decode(request["archive_path"]), ArchiveLimits(**request["limits"])
        with self._policy.open_file(path, _ARCHIVE) as file:
            try:
                outcome = self._open(run, target, file, escape(path), asked)
                return registering(run, self._clock, outcome)
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
        if "new_wallet" in self._run.row.request:
            require_wallet_backup(found.manifest_header)
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
            coins=coin_restore(self._run, "", None),
        )
        found = extract_to_staging(unpacking, root_fd, staging, control=self._run.control, progress=self._run.progress)
        self._run.progress.settle(found.bytes, found.files)
        text = f"restored {found.files} files, {found.bytes} bytes to {self._folder}; {self._proof(found.has_manifest)}"
        text += coin_sentence(found)
        outcome = self._outcome(found, text, found.has_manifest, warnings=found.coin_warnings > 0)
        outcome.result.update(coin_result(found))
        return found, outcome

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
