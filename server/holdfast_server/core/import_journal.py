"""The end of an import, once it is decided: renames alone, in an order that may be cut off anywhere and gone through
again.

`<wallet>/.holdfast/import-<task>.json` stands only while an import is committed and not finished. Everything that the
import puts into the wallet lies in its staging folder beside it, whole and synced, so that all that is left to do is
to give files their names. No coin's numbers stand in the record.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Self

from holdfast_server.core.control import Problem
from holdfast_server.core.read_back import hash_file
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import FailedPrecondition, Fenced, Reason
from holdfast_server.storage.folder import may
from holdfast_server.storage.local import fsync_directory, remove_tree
from holdfast_server.storage.mounts import mount_id
from holdfast_server.storage.names import escape, unescape
from holdfast_server.storage.tree import TreeEntry, walk
from holdfast_server.wallets.layout import RESERVED_FOLDER

__all__ = [
    "ImportRecord",
    "Original",
    "Staged",
    "check_folders",
    "commit_record",
    "finish_import",
    "forget_record",
    "read_import",
    "recover_imports",
    "remove_stagings",
    "staging_name",
]

_FORMAT, _VERSION = "holdfast-import", 1
_SERVICE = RESERVED_FOLDER.encode()
_NAME = re.compile(rb"import-([0-9a-f-]{36})(?:\.json|\.([1-9][0-9]*))")
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Staged:
    """A file in staging: `name` there, the wallet's `folder` that it goes to, and the name it is to have if free."""

    name: bytes
    folder: bytes
    wanted: bytes


@dataclass(frozen=True, slots=True)
class Original:
    """A file of the wallet's own `Import` whose coins are taken: `folder` is Import or one directly in it, `to` the
    wallet's folder that it is moved to, `size` and `sha256` (hex) those of the content that was read."""

    folder: bytes
    name: bytes
    to: bytes
    inode: int
    size: int
    sha256: str

    @property
    def path(self) -> bytes:
        """Relative to the wallet."""
        return self.folder + b"/" + self.name


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """What a committed import still has to do; see docs/format.md."""

    task_id: str
    attempt: int
    staged: tuple[Staged, ...]
    originals: tuple[Original, ...]

    @property
    def staging(self) -> bytes:
        return staging_name(self.task_id, self.attempt)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "state": "COMMITTED",
            "task_id": self.task_id,
            "attempt": self.attempt,
            "staged": [_texts(one) for one in self.staged],
            "originals": [_texts(one) for one in self.originals],
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Raises ValueError for what `to_json` did not make."""
        try:
            if (record["format"], record["version"], record["state"]) != (_FORMAT, _VERSION, "COMMITTED"):
                raise ValueError("it is no committed import of this version")
            staged = tuple(Staged(**_raw(one, "name", "folder", "wanted")) for one in record["staged"])
            originals = tuple(Original(**_raw(one, "folder", "name", "to")) for one in record["originals"])
            made = cls(str(record["task_id"]), int(record["attempt"]), staged, originals)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the journal is incomplete: {error}") from error
        for one in staged:
            _require_components(one.name, one.wanted, one.folder)
        for two in originals:
            _require_components(*two.folder.split(b"/"), two.name, two.to)
        return made


def _texts(value: Staged | Original) -> dict[str, Any]:
    return {name: escape(field) if isinstance(field, bytes) else field for name, field in asdict(value).items()}


def _raw(record: dict[str, Any], *paths: str) -> dict[str, Any]:
    return {**record, **{name: unescape(record[name]) for name in paths}}


def _require_components(*names: bytes) -> None:
    for name in names:
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise ValueError(f"the journal holds the name {escape(name)}")


def staging_name(task_id: str, attempt: int) -> bytes:
    """An attempt's staging folder in `.holdfast`."""
    return f"import-{task_id}.{attempt}".encode()


def _record_name(task_id: str) -> bytes:
    return f"import-{task_id}.json".encode()


def read_import(wallet: WalletFolder, task_id: str) -> ImportRecord | None:
    """The committed import of a task, None when there is none. Raises ValueError for a damaged one."""
    record = wallet.read_record(_record_name(task_id))
    return None if record is None else ImportRecord.from_json(record)


def check_folders(wallet: WalletFolder, record: ImportRecord) -> None:
    """Whether the renames can be done, before anything depends on them.

    Raises FailedPrecondition/FOLDER_NOT_WRITABLE for a folder of the wallet that is a link, a file, on another file
    system than `.holdfast`, or not the service's to write to.
    """
    folders = {one.folder for one in record.staged} | {b""}
    folders.update(folder for one in record.originals for folder in (one.folder, one.to))
    with wallet.folder(_SERVICE) as service:
        here = _place_of(service)
    for folder in sorted(folders):
        what = ""
        try:
            with wallet.folder(*filter(None, folder.split(b"/"))) as fd:
                if folder and _place_of(fd) != here:
                    what = "lies on another file system, so that coins cannot be renamed into it"
                elif not may(fd, os.W_OK | os.X_OK):
                    what = "is not the service's to write to"
        except FileNotFoundError:
            continue  # it will be made
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                raise
            what = "is a link or no folder" if error.errno != errno.EACCES else "is not the service's to read"
        if what:
            path = f"{wallet.root.display}/{escape(folder)}".rstrip("/")
            raise FailedPrecondition(Reason.FOLDER_NOT_WRITABLE, f"{path} {what}", metadata={"path": path})


def _place_of(fd: int) -> tuple[int, int | None]:
    return os.fstat(fd).st_dev, mount_id(fd)


def commit_record(wallet: WalletFolder, record: ImportRecord) -> None:
    """The point of no return, durable. Raises Fenced when a later attempt has committed."""
    known = read_import(wallet, record.task_id)
    if known is not None and known.attempt > record.attempt:
        raise Fenced
    wallet.write_record(_record_name(record.task_id), record.to_json())


def finish_import(wallet: WalletFolder, record: ImportRecord, check: Callable[[], None]) -> list[Problem]:
    """Do what is left of a committed import, but for its record; may be cut off anywhere and called again.

    Gives the originals that stay where they are, because they changed or vanished after they were read. Their coins
    were taken as they were then. `check` is called between renames and stops by raising.
    """
    _place_staged(wallet, record, check)
    kept = _move_originals(wallet, record.originals, check)
    _remove_staging(wallet, record.staging)
    return kept


def forget_record(wallet: WalletFolder, task_id: str) -> None:
    """Forget a finished import, durably; no error if there is no record."""
    wallet.remove_record(_record_name(task_id))


def remove_stagings(wallet: WalletFolder, task_id: str, attempts: Iterable[int]) -> tuple[int, int]:
    """Remove what attempts that did not commit have staged; gives (files, bytes)."""
    files = size = 0
    with suppress(FileNotFoundError), wallet.folder(_SERVICE) as service:
        for attempt in attempts:
            more = remove_tree(service, staging_name(task_id, attempt))
            files, size = files + more[0], size + more[1]
    return files, size


def recover_imports(wallet: WalletFolder, is_live: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Finish or undo imports that died here and whose tasks nobody goes on with. The caller holds the wallet's
    exclusive lock.

    What was committed is finished (renames only), what was not is removed: its originals were never touched. Gives
    (task id, what became of it) of each. A journal that cannot be read is left alone, with its staging, and told.
    """
    try:
        with wallet.folder(_SERVICE) as service:
            names = [match for entry in sorted(os.listdir(service)) if (match := _NAME.fullmatch(os.fsencode(entry)))]
    except FileNotFoundError:
        return []
    lines: list[tuple[str, str]] = []
    found: dict[str, list[int]] = {}
    for match in names:
        attempts = found.setdefault(match[1].decode(), [])
        if match[2] is not None:
            attempts.append(int(match[2]))
    for task_id, attempts in found.items():
        if not is_live(task_id):
            lines.append((task_id, _recover(wallet, task_id, attempts)))
    return lines


def _recover(wallet: WalletFolder, task_id: str, attempts: list[int]) -> str:
    try:
        record = read_import(wallet, task_id)
    except ValueError as error:
        return f"the journal of import {task_id} cannot be read and is left alone: {error}"
    if record is None:
        files, _ = remove_stagings(wallet, task_id, attempts)
        return f"import {task_id} had not committed: {files} staged files removed, its originals are where they were"
    kept = finish_import(wallet, record, lambda: None)
    remove_stagings(wallet, task_id, attempts)
    forget_record(wallet, task_id)
    left = f", {len(kept)} originals stay in Import" if kept else ""
    return f"import {task_id} was committed and is finished: {len(record.staged)} files{left}"


def _place_staged(wallet: WalletFolder, record: ImportRecord, check: Callable[[], None]) -> None:
    try:
        with wallet.folder(_SERVICE, record.staging) as staging:
            for folder, files in groupby(record.staged, key=lambda one: one.folder):
                with wallet.folder(folder, create=True) as to:
                    for one in files:
                        check()
                        _place(wallet, staging, one, to)
                    fsync_directory(to)
            fsync_directory(staging)
    except FileNotFoundError:
        # Only staging can be missing: an earlier attempt had emptied and removed it.
        with wallet.folder(_SERVICE) as service:
            if record.staging in map(os.fsencode, os.listdir(service)):
                raise


def _place(wallet: WalletFolder, staging: int, one: Staged, to: int) -> None:
    try:
        status = os.stat(one.name, dir_fd=staging, follow_symlinks=False)
    except FileNotFoundError:
        return  # an earlier attempt gave it its name
    # Where there is no rename without replacing, a file gets its second name before it loses the first one. A crash in
    # between must not make a second coin of it, wherever the wallet program has moved the first to.
    if status.st_nlink > 1 and _lies_in_wallet(wallet, status):
        os.unlink(one.name, dir_fd=staging)
    else:
        wallet.move(staging, one.name, to, one.wanted)


def _lies_in_wallet(wallet: WalletFolder, status: os.stat_result) -> bool:
    """Whether a staged file has another name outside of `.holdfast`."""
    identity = (status.st_dev, status.st_ino)
    entries = walk(wallet.root.fd, keep=lambda path, _: path != _SERVICE, check=lambda: None)
    return any(isinstance(entry, TreeEntry) and (entry.dev, entry.ino) == identity for entry in entries)


def _move_originals(wallet: WalletFolder, originals: tuple[Original, ...], check: Callable[[], None]) -> list[Problem]:
    kept: list[Problem] = []
    for (folder, to), files in groupby(originals, key=lambda one: (one.folder, one.to)):
        with wallet.folder(*folder.split(b"/")) as from_fd, wallet.folder(to, create=True) as to_fd:
            with os.scandir(to_fd) as entries:
                moved = {entry.inode() for entry in entries}
            for one in files:
                check()
                problem = _move_original(from_fd, one, to_fd, moved)
                if problem is not None:
                    kept.append(problem)
            fsync_directory(to_fd)
            fsync_directory(from_fd)
    return kept


def _move_original(from_fd: int, one: Original, to_fd: int, moved: set[int]) -> Problem | None:
    """Move one original; None when it lies where it belongs."""
    try:
        fd = os.open(one.name, _FILE_FLAGS, dir_fd=from_fd)
    except OSError as error:
        if one.inode in moved:  # by an earlier attempt
            return None
        if error.errno == errno.ENOENT:
            text = f"{escape(one.path)} is gone since its coins were read; they were taken in"
            return Problem(one.path, "VANISHED", text)
        return _changed(one)
    try:
        status = os.fstat(fd)
        if status.st_size != one.size or hash_file(fd, lambda: None) != one.sha256:
            return None if one.inode in moved else _changed(one)
    finally:
        os.close(fd)
    try:
        if status.st_nlink > 1 and status.st_ino in moved:
            os.unlink(one.name, dir_fd=from_fd)  # it got its second name, and the crash came
        else:
            WalletFolder.move(from_fd, one.name, to_fd)
    except PermissionError as error:  # an immutable file must not keep the import from its end for ever
        text = f"{escape(one.path)} stays where it is, its coins were taken in: {error.strerror}"
        return Problem(one.path, "PERMISSION_DENIED", text)
    return None


def _changed(one: Original) -> Problem:
    text = f"{escape(one.path)} changed since its coins were read; they were taken in, and what lies there now stays"
    return Problem(one.path, "CHANGED", text)


def _remove_staging(wallet: WalletFolder, staging: bytes) -> None:
    with wallet.folder(_SERVICE) as service:
        try:
            os.rmdir(staging, dir_fd=service)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # somebody put something there; it is not ours to remove
                raise
        fsync_directory(service)
