"""A config that is damaged or gone is put back from a copy: without it nothing of its repository can be opened."""

from __future__ import annotations

import hmac
from typing import Final

from holdfast_server.errors import DataLoss, FailedPrecondition
from holdfast_server.repository.config import MAX_CONFIG, RepositoryConfig, fingerprint_of
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.format import CONFIG_NAME, SEALED_OBJECT_MAX, damaged
from holdfast_server.repository.keys import RepositoryKeys
from holdfast_server.repository.repository import Repository
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["config_of", "restore_config"]

#: How many objects of a store are tried at most, until one shows whose it is.
_TRIED: Final = 64


def config_of(repository: Repository) -> bytes:
    """The config object as it was opened, for `restore_config`. Raises DataLoss/CHECKSUM_MISMATCH when it is another by
    now, and the store's own errors."""
    content = repository.store.get(CONFIG_NAME, 0, MAX_CONFIG + 1)
    if not hmac.compare_digest(fingerprint_of(content), repository.fingerprint):
        raise damaged(CONFIG_NAME, "it is not the one that was opened")
    return content


def restore_config(
    store: ObjectStore, keys: RepositoryKeys, kept: bytes, fingerprint: bytes | None, *, dry_run: bool = False
) -> bool:
    """Put the config `kept` where the one of the store is damaged or missing; gives whether it was.

    Nothing is written where it is not certain to belong: `kept` must be what was written with these keys, and what
    `fingerprint` (32 bytes) says was seen, and the store must hold entries of this repository's log. An empty folder
    may be a disk that is not there. A config that is whole is never replaced, whatever it says, nor one of another
    version. Raises the store's own errors.
    """
    try:
        stored = store.get(CONFIG_NAME, 0, MAX_CONFIG + 1)
    except ObjectMissing:
        stored = b""
    index_keys = IndexKeys(keys.index_key, keys.uuid)
    try:
        RepositoryConfig.decode(kept, index_keys)
    except DataLoss:
        return False
    if fingerprint is not None and not hmac.compare_digest(fingerprint_of(kept), fingerprint):
        return False
    if _is_whole(stored, index_keys) or not _is_of(store, index_keys):
        return False
    if not dry_run:
        store.put(CONFIG_NAME, [kept])
    return True


def _is_whole(stored: bytes, keys: IndexKeys) -> bool:
    """Whether it is no damage that keeps a config from being read."""
    try:
        RepositoryConfig.decode(stored, keys)
    except DataLoss:
        return False
    except FailedPrecondition:
        pass  # of a version that other software knows
    return True


def _is_of(store: ObjectStore, keys: IndexKeys) -> bool:
    """Whether something of the log opens, which nobody can make without the index key."""
    for tried, info in enumerate(store.list("log/")):
        try:
            keys.open(info.name, store.get(info.name, 0, SEALED_OBJECT_MAX + 1))
        except (DataLoss, ObjectMissing):
            if tried >= _TRIED:
                break
        else:
            return True
    return False
