"""Whether an opened folder lies in that of a repository: of this service, of another, or of nobody's any more.

What is written there would stand among objects that are removed when no backup needs them. Only the folder's own
ancestors are looked at, so that a repository whose storage hangs keeps nobody waiting.
"""

from __future__ import annotations

import os
from contextlib import suppress

from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.storage.folder import ancestors
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.names import escape

__all__ = ["holds_repository", "lies_in_repository", "require_apart"]

#: The object that makes a folder a repository, and how it begins: docs/format.md, "config". A text never goes on so.
_CONFIG = b"config"
_BEGINNING = b"HOLDFAST"
_HEAD_BYTES = 16
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def lies_in_repository(folder_fd: int) -> bool:
    """Whether the folder, or any above it, holds the config of a repository. `OSError` where they cannot be asked."""
    return any(holds_repository(fd) for fd in ancestors(folder_fd))


def require_apart(folder_fd: int, path: bytes) -> None:
    """Raises FailedPrecondition/FOLDER_INSIDE_REPOSITORY for an opened folder, which is `path` or what exists of it."""
    shown = escape(path)
    try:
        inside = lies_in_repository(folder_fd)
    except OSError as error:
        raise translate_os_error(error, f"finding out where {shown} lies") from error
    if inside:
        text = f"{shown} lies in the folder of a repository, which is nobody's to write to but the repository's"
        raise FailedPrecondition(Reason.FOLDER_INSIDE_REPOSITORY, text, metadata={"path": shown})


def holds_repository(fd: int) -> bool:
    """Whether an opened folder holds the config of a repository, as far as its first bytes tell."""
    with suppress(OSError):  # none, or none that the service may read: then it is no repository of this service
        config = os.open(_CONFIG, _FLAGS, dir_fd=fd)
        try:
            head = os.read(config, _HEAD_BYTES)
        finally:
            os.close(config)
        return head.startswith(_BEGINNING) and b"\0" in head
    return False
