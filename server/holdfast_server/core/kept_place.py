"""Where a repository lies, kept beside its keys in the data directory: with both a lost catalog can be made again.

The file `place` is JSON: `version` 1, `repository_id`, `display_name`, `location` (an absolute folder). No secret.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

from holdfast_server.core.repository_place import KEYS
from holdfast_server.errors import DataLoss
from holdfast_server.repository import RepositoryKeys
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.local import fsync_directory, write_file

__all__ = ["PLACE", "KeptPlace", "has_keys", "keep_repository", "kept_uuid", "read_place", "write_place"]

#: The file's name.
PLACE: Final = b"place"
_VERSION: Final = 1
_MAX_FILE: Final = 65_536


@dataclass(frozen=True, slots=True)
class KeptPlace:
    """What `place` says. `location` is the folder as it was named, absolute."""

    repository_id: str
    display_name: str
    location: bytes


def write_place(folder_fd: int, place: KeptPlace) -> None:
    """Write the file into an opened folder, durably. Raises OSError."""
    values = {
        "version": _VERSION,
        "repository_id": place.repository_id,
        "display_name": place.display_name,
        "location": place.location.decode("utf-8", "surrogateescape"),
    }
    write_file(folder_fd, PLACE, json.dumps(values).encode())


def read_place(folder: bytes) -> KeptPlace | None:
    """What the folder of a repository's keys says; None when it says nothing that could be meant."""
    try:
        fd = os.open(os.path.join(folder, PLACE), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            values = json.loads(file.read(_MAX_FILE))
        version, texts = values["version"], [values[key] for key in ("repository_id", "display_name", "location")]
        repository_id, display_name, location = texts
        path = location.encode("utf-8", "surrogateescape")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    usable = version == _VERSION and all(isinstance(text, str) for text in texts) and path.startswith(b"/")
    return KeptPlace(repository_id, display_name, path) if usable else None


def has_keys(folder: bytes) -> bool:
    """Whether there is something that should be a repository's keys."""
    return os.path.lexists(os.path.join(folder, KEYS))


def kept_uuid(folder: bytes) -> bytes | None:
    """Which repository the kept keys are of; None where there are none, or damaged ones."""
    try:
        fd = os.open(folder, DIRECTORY_FLAGS)
        try:
            return RepositoryKeys.load(fd).uuid
        finally:
            os.close(fd)
    except (OSError, DataLoss):
        return None


def keep_repository(folder: bytes, place: KeptPlace, keys: RepositoryKeys | None) -> None:
    """Keep a repository's place, and its keys unless they are there already. Makes the folder; durable. A crash leaves
    what a repetition finishes. Raises OSError."""
    for path in (os.path.dirname(folder), folder):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        _sync(os.path.dirname(path))
    fd = os.open(folder, DIRECTORY_FLAGS)
    try:
        write_place(fd, place)
        if keys is not None:
            keys.save(fd)
        fsync_directory(fd)
    finally:
        os.close(fd)


def _sync(path: bytes) -> None:
    fd = os.open(path, DIRECTORY_FLAGS)
    try:
        fsync_directory(fd)
    finally:
        os.close(fd)
