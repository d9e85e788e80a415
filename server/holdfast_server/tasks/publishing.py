"""Archives that tasks make in a caller's folder: one attempt's partial, its name, and what a dead attempt left of both.

An archive's name, size and hash are recorded directly before the rename. So a later attempt, or a cancel, can tell an
archive that stands there whole from one that never got its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.sidecar import Sidecar
from holdfast_server.core.publish import (
    create_partial,
    find_published,
    partial_name,
    publish_archive,
    remove_partials,
    remove_sidecar,
)
from holdfast_server.errors import Reason, ResourceExhausted, invalid_field
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local import free_bytes
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.run import TaskRun

__all__ = [
    "Announced",
    "PartialArchive",
    "check_tag",
    "open_destination",
    "partial_archive",
    "require_space",
    "settle",
    "take_back",
]

_MAX_TAG = 64
_LEAST_SPACE = 1 << 20


@dataclass(frozen=True, slots=True)
class Announced:
    """An archive as it was recorded before its rename. `path` is absolute, `sha256` that of the whole file, in hex."""

    path: bytes
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PartialArchive:
    """A new, empty, open file in a folder, which becomes an archive or goes."""

    run: TaskRun
    folder: OpenFolder
    name: bytes
    fd: int

    def publish(
        self,
        base: str,
        archive_format: ArchiveFormat,
        announce: Callable[[bytes], None],
        sidecar: Sidecar | None = None,
    ) -> bytes:
        """Give it a free name that begins with `base`; `core.publish.publish_archive` says what the others are."""
        self.run.progress.begin("publishing")
        return publish_archive(self.folder.fd, self.name, base, archive_format, announce, sidecar)


def check_tag(tag: str, field: str) -> None:
    """Raises InvalidArgument/INVALID_FIELD."""
    if len(tag) > _MAX_TAG or not tag.isprintable():
        raise invalid_field(field, f"must be printable text of at most {_MAX_TAG} characters")


def open_destination(
    policy: FolderPolicy, path: bytes, field: str, *, sources: Sequence[OpenFolder], needed: int = 0
) -> OpenFolder:
    """The folder that an archive goes to, which exists by now and has `needed` bytes free.

    Raises what `FolderPolicy.check_destination` raises, ResourceExhausted/DISK_FULL.
    """
    folder = policy.check_destination(path, field, sources=sources, create=False)
    if folder is None:
        raise AssertionError("only a dry run has no folder")
    try:
        require_space(folder, needed)
    except BaseException:
        folder.close()
        raise
    return folder


def require_space(folder: OpenFolder, needed: int) -> None:
    """Raises ResourceExhausted/DISK_FULL when a file of `needed` bytes cannot fit, or hardly anything can."""
    free, needed, shown = free_bytes(folder.fd), max(needed, _LEAST_SPACE), escape(folder.path)
    if free < needed:
        raise ResourceExhausted(
            Reason.DISK_FULL,
            f"the filesystem of {shown} has {free} bytes free, {needed} or more are needed",
            metadata={"path": shown, "needed": str(needed), "free": str(free)},
        )


@contextmanager
def partial_archive(run: TaskRun, folder: OpenFolder, number: int = 0) -> Iterator[PartialArchive]:
    """A new partial of this attempt. Whatever ends the block by an exception, the attempt's partials are removed."""
    name = partial_name(run.task_id, run.attempt, number)
    fd = create_partial(folder.fd, name)
    try:
        yield PartialArchive(run, folder, name, fd)
    except BaseException:
        run.cleanup.removed(*remove_partials(folder.fd, run.task_id, [run.attempt]))
        raise
    finally:
        os.close(fd)


def settle(
    run: TaskRun, folder: bytes, announced: Sequence[Announced], adopt: Callable[[Announced], None], *, cancelled: bool
) -> list[str]:
    """Remove the partials of lower attempts from a folder; then a late rename of theirs fails.

    An announced archive that stands there is given to `adopt`, which records it, or removed when the task was
    cancelled: none is left that the catalog does not know. Gives what had to stay, in words.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return [f"{escape(folder)}: {error.strerror}"]
    try:
        run.cleanup.removed(*remove_partials(fd, run.task_id, range(1, run.attempt)))
        for archive in announced:
            name = archive.path.rpartition(b"/")[2]
            if not find_published(fd, name, archive.size, archive.sha256, lambda: None):
                run.cleanup.removed(*remove_sidecar(fd, name, archive.sha256))
            elif cancelled:
                _remove(run, fd, archive)
            else:
                adopt(archive)
    finally:
        os.close(fd)
    return []


def take_back(run: TaskRun, archive: Announced) -> None:
    """Remove an archive that was published a moment before the cancel."""
    fd = os.open(os.path.dirname(archive.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove(run, fd, archive)
    finally:
        os.close(fd)


def _remove(run: TaskRun, folder_fd: int, archive: Announced) -> None:
    """The sidecar last: what is found without its archive is taken away later, an archive without it is not."""
    name = archive.path.rpartition(b"/")[2]
    os.unlink(name, dir_fd=folder_fd)
    run.cleanup.removed(1, archive.size)
    run.cleanup.removed(*remove_sidecar(folder_fd, name, archive.sha256))
