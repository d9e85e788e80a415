"""Where a repository lies, kept beside its keys in the data directory: with both a lost catalog can be made again.

The file `place` is JSON: `version` 1, `repository_id`, `display_name`, `location` (an absolute folder). The file
`config` is a copy of the repository's own, which nothing else could replace. No secret.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

from holdfast_server.core.repository_place import KEYS, OpenRepository, RepositoryPlace, open_place
from holdfast_server.errors import DataLoss
from holdfast_server.repository import MAX_CONFIG, RepositoryKeys, config_of, restore_config
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.local import fsync_directory, write_file

__all__ = [
    "PLACE",
    "KeptPlace",
    "has_keys",
    "keep_config",
    "keep_repository",
    "kept_uuid",
    "put_config_back",
    "read_place",
    "write_config",
    "write_place",
]

#: The files' names.
PLACE: Final = b"place"
_CONFIG: Final = b"config"
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
        values = json.loads(_read(folder, PLACE))
        version, texts = values["version"], [values[key] for key in ("repository_id", "display_name", "location")]
        repository_id, display_name, location = texts
        path = location.encode("utf-8", "surrogateescape")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    usable = version == _VERSION and all(isinstance(text, str) for text in texts) and path.startswith(b"/")
    return KeptPlace(repository_id, display_name, path) if usable else None


def write_config(folder_fd: int, content: bytes) -> None:
    """Write the copy of a config into an opened folder, durably. Raises OSError."""
    write_file(folder_fd, _CONFIG, content)


def keep_config(opened: OpenRepository) -> None:
    """Keep a copy of the repository's config, unless there is one. Durable. Raises OSError, and as `config_of`."""
    folder, content = opened.place.keys_folder, config_of(opened.repository)
    try:
        if _read(folder, _CONFIG) == content:
            return
    except FileNotFoundError:
        pass
    fd = os.open(folder, DIRECTORY_FLAGS)
    try:
        write_config(fd, content)
    finally:
        os.close(fd)


def put_config_back(place: RepositoryPlace, *, dry_run: bool = False) -> bool:
    """Put the copy of the config where the repository's own is damaged or gone; false when it is whole, when there is
    no copy of it, or when what lies there is not certain to be this repository. Raises as `open_place`."""
    try:
        kept = _read(place.keys_folder, _CONFIG)
    except OSError:
        return False
    with open_place(place, look=False) as opened:
        return restore_config(opened.store, opened.keys, kept, place.fingerprint, dry_run=dry_run)


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


def _read(folder: bytes, name: bytes) -> bytes:
    fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        return file.read(max(_MAX_FILE, MAX_CONFIG))


def _sync(path: bytes) -> None:
    fd = os.open(path, DIRECTORY_FLAGS)
    try:
        fsync_directory(fd)
    finally:
        os.close(fd)
