"""Making a repository so that a crash between any two steps leaves nothing that a repeat of the call does not finish.

The steps: a *journal* in the repository's folder of the data directory; its place and its keys beside it; the names and
hashes of its first objects in the journal; the objects, the config last; the catalog's row; the journal removed. Each
is durable before the next begins. So the keys are kept before there is a repository, and whoever finds a journal knows
whether the creation was done (there is a row) or must be undone: nobody has used a repository without a row, and
undoing removes just the objects that the journal names.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from holdfast_server.core.kept_place import KeptPlace, write_config, write_place
from holdfast_server.core.new_repository import CONFIG, MadeRepository
from holdfast_server.errors import AlreadyExists, FailedPrecondition, HoldfastError, Reason, Unavailable
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.folder import OpenFolder, open_folder
from holdfast_server.storage.local import fsync_directory, translate_os_error, write_file
from holdfast_server.storage.local_objects import LocalObjects
from holdfast_server.storage.names import escape
from holdfast_server.storage.objects import ObjectMissing, probe

__all__ = ["KEYS_FOLDER", "NewRepositories", "keys_folder"]

_log = logging.getLogger(__name__)

#: In the data directory: a folder for each repository, with its keys.
KEYS_FOLDER = b"repositories"
_JOURNAL = b"creating"
_NEXT_JOURNAL = b"creating.tmp"
#: What a probe of the store leaves when it is killed.
_PROBES = "runs/probe-"
_PATIENCE_SECONDS = 60.0


def keys_folder(data_dir: bytes, repository_id: str) -> bytes:
    """Where the data directory keeps the keys of a repository."""
    return os.path.join(data_dir, KEYS_FOLDER, repository_id.encode())


class NewRepositories:
    """Creates repositories in a data directory, one at a time. Thread-safe, and safe between processes.

    `known` says whether the catalog has a repository of an id.
    """

    def __init__(self, data_dir: bytes, known: Callable[[str], bool]) -> None:
        self._base = os.path.join(data_dir, KEYS_FOLDER)
        self._known = known
        self._turn = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else creates a repository meanwhile, and whatever a dead creation left has been settled.

        Raises Unavailable/CATALOG_BUSY when another creation takes too long.
        """
        if not self._turn.acquire(timeout=_PATIENCE_SECONDS):
            raise _busy()
        try:
            base = self._open_base()
            try:
                try:
                    fcntl.flock(base, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise _busy() from None
                for name in os.listdir(base):
                    self._settle_quietly(base, name)
                yield
            finally:
                os.close(base)
        finally:
            self._turn.release()

    def create(
        self,
        place: KeptPlace,
        folder: OpenFolder,
        make: Callable[[bytes], MadeRepository],
        record: Callable[[MadeRepository], None],
    ) -> MadeRepository:
        """Make a repository in an opened, checked folder, that of `place`; to be called inside `alone`.

        `make` saves the keys in the folder that it is given; `record` adds the row. Raises AlreadyExists/
        REPOSITORY_EXISTS, FailedPrecondition (FOLDER_NOT_EMPTY, STORE_UNSUITABLE), what `make` and `record` raise, and
        what a store raises; then nothing is left, or the next creation clears it away.
        """
        _require_empty(folder)
        repository_id = place.repository_id
        base = self._open_base()
        try:
            kept = self._begin(base, repository_id, folder)
            try:
                with LocalObjects(folder.fd, folder.display) as store:
                    probe(store)
                    write_place(kept, place)
                    made = make(os.path.join(self._base, repository_id.encode()))
                    write_config(kept, made.objects[-1][1])
                    _write_journal(kept, folder, made.objects)
                    _publish(store, made.objects)
                    record(made)
                os.unlink(_JOURNAL, dir_fd=kept)
                fsync_directory(kept)
                return made
            except BaseException:
                self._settle_quietly(base, repository_id)
                raise
            finally:
                os.close(kept)
        except OSError as error:
            raise translate_os_error(error, f"creating repository {repository_id}") from error
        finally:
            os.close(base)

    def _open_base(self) -> int:
        """The folder of all keys, made when it is first needed."""
        try:
            with suppress(FileExistsError):
                os.mkdir(self._base, 0o700)
                _sync_parent(self._base)
            return os.open(self._base, DIRECTORY_FLAGS)
        except OSError as error:
            raise translate_os_error(error, f"opening {escape(self._base)}") from error

    def _begin(self, base: int, repository_id: str, folder: OpenFolder) -> int:
        """The repository's own folder with a journal that names no object yet."""
        with suppress(FileExistsError):
            os.mkdir(repository_id, 0o700, dir_fd=base)
        fsync_directory(base)
        kept = os.open(repository_id, DIRECTORY_FLAGS, dir_fd=base)
        try:
            if os.listdir(kept):
                raise _keys_in_the_way(repository_id, os.path.join(self._base, repository_id.encode()))
            _write_journal(kept, folder, ())
        except BaseException:
            os.close(kept)
            raise
        return kept

    def _settle_quietly(self, base: int, name: str) -> None:
        try:
            self._settle(base, name)
        except (HoldfastError, OSError, ValueError) as error:
            _log.warning("the unfinished creation of repository %s stays as it is: %s", name, error)

    def _settle(self, base: int, name: str) -> None:
        """Finish or undo a creation that left its journal; do nothing where there is none."""
        try:
            kept = os.open(name, DIRECTORY_FLAGS, dir_fd=base)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            if not {_JOURNAL, _NEXT_JOURNAL} & set(map(os.fsencode, os.listdir(kept))):
                return  # as good as always
            journal = _read_journal(kept)
            if journal is not None and not self._known(name):
                _take_back(journal)
                for file in os.listdir(kept):
                    if os.fsencode(file) != _JOURNAL:
                        os.unlink(file, dir_fd=kept)
                fsync_directory(kept)
            for left in (_NEXT_JOURNAL, _JOURNAL):
                with suppress(FileNotFoundError):
                    os.unlink(left, dir_fd=kept)
            fsync_directory(kept)
        finally:
            os.close(kept)
        with suppress(OSError):  # keys are in it
            os.rmdir(name, dir_fd=base)


def _require_empty(folder: OpenFolder) -> None:
    metadata = {"path": folder.display}
    names = os.listdir(folder.fd)
    if CONFIG in names:
        text = f"{folder.display} holds a repository already"
        raise AlreadyExists(Reason.REPOSITORY_EXISTS, text, metadata=metadata)
    if names:
        raise FailedPrecondition(Reason.FOLDER_NOT_EMPTY, f"{folder.display} is not empty", metadata=metadata)


def _publish(store: LocalObjects, objects: tuple[tuple[str, bytes], ...]) -> None:
    for name, content in objects:
        if name != CONFIG:
            store.put(name, [content])
        elif not store.create_if_absent(name, content):
            raise AlreadyExists(Reason.REPOSITORY_EXISTS, f"{store} got another repository just now")


def _take_back(journal: Mapping[str, Any]) -> None:
    """Remove from the repository's folder what the journal names, the config first.

    What is not as it was stored is somebody else's and stays, and so does everything when there is more than a new
    repository holds.
    """
    objects: dict[str, str] = journal["objects"]
    try:
        folder = open_folder(bytes.fromhex(journal["location"]))
    except FailedPrecondition as error:
        if error.reason is Reason.FOLDER_NOT_FOUND:
            return
        raise
    with folder:
        if [folder.device, folder.inode] != journal["folder"]:
            return
        with LocalObjects(folder.fd, folder.display) as store:
            if any(not one.name.startswith(_PROBES) for one in store.list("") if one.name not in objects):
                raise ValueError(f"{folder.display} holds more than a new repository")
            for name in sorted(objects, key=lambda name: name != CONFIG):
                with suppress(ObjectMissing):
                    if hashlib.sha256(store.get(name)).hexdigest() == objects[name]:
                        store.delete(name)
            for one in list(store.list("")):
                if one.name not in objects:
                    store.delete(one.name)
            store.clean(0.0)
        _remove_empty_folders(folder.fd)


def _remove_empty_folders(fd: int) -> None:
    for name in os.listdir(fd):
        with suppress(OSError):
            os.rmdir(name, dir_fd=fd)
    fsync_directory(fd)


def _write_journal(kept: int, folder: OpenFolder, objects: tuple[tuple[str, bytes], ...]) -> None:
    journal = {
        "location": folder.path.hex(),
        "folder": [folder.device, folder.inode],
        "objects": {name: hashlib.sha256(content).hexdigest() for name, content in objects},
    }
    write_file(kept, _JOURNAL, json.dumps(journal).encode(), temporary=_NEXT_JOURNAL)


def _read_journal(kept: int) -> dict[str, Any] | None:
    try:
        fd = os.open(_JOURNAL, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=kept)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        journal: dict[str, Any] = json.load(file)
    return journal


def _sync_parent(path: bytes) -> None:
    fd = os.open(os.path.dirname(path), DIRECTORY_FLAGS)
    try:
        fsync_directory(fd)
    finally:
        os.close(fd)


def _keys_in_the_way(repository_id: str, path: bytes) -> AlreadyExists:
    shown = escape(path)
    return AlreadyExists(
        Reason.REPOSITORY_EXISTS,
        f"{shown} holds keys of a repository {repository_id} that the catalog does not know, or could not be cleared: "
        "choose another repository_id; whoever deletes them may lose that repository",
        metadata={"repository_id": repository_id, "path": shown},
    )


def _busy() -> Unavailable:
    return Unavailable(Reason.CATALOG_BUSY, "another repository is being created", retry_after=2.0)
