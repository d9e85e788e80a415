"""Proving a file that was just written, with the strict reader, and hashing it as a whole beside that."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.verify import verify_archive
from holdfast_server.core.control import Control, Progress, ReadingProgress
from holdfast_server.errors import DataLoss, Reason

__all__ = ["READ_BACK_WORK", "hash_file", "read_back"]

#: What reading back a byte costs, against reading and compressing it.
READ_BACK_WORK = 0.25

_HASH_BLOCK = 1 << 20


def read_back(
    fd: int, archive_format: ArchiveFormat, files: int, size: int, control: Control, progress: Progress
) -> str:
    """SHA-256 (hex) of the open file, once it is proved to hold `files` files of `size` bytes that fit its manifest.

    Raises DataLoss/CHECKSUM_MISMATCH, and what `control` raises.
    """
    digest: list[str] = []
    failure: list[BaseException] = []

    def hash_whole() -> None:
        try:
            digest.append(hash_file(fd, control.check))
        except BaseException as error:  # noqa: BLE001  raised again on the caller's thread
            failure.append(error)

    hasher = threading.Thread(target=hash_whole, name="archive-hash")
    hasher.start()
    try:
        with open(os.dup(fd), "rb", buffering=0) as file:
            reader = open_reader(archive_format.name, file, limits=Limits(), check=control.check)

            on_progress = ReadingProgress(progress, size, files, work=READ_BACK_WORK, count_as_read=False)
            proved = verify_archive(reader, check=control.check, on_progress=on_progress)
    finally:
        hasher.join()
    if failure:
        raise failure[0]
    if (proved.files, proved.bytes) != (files, size):
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH,
            f"the archive holds {proved.files} files of {proved.bytes} bytes, {files} of {size} were written",
        )
    return digest[0]


def hash_file(fd: int, check: Callable[[], None]) -> str:
    """SHA-256 of a whole open file, in hex. Does not move the file's position."""
    digest, position = hashlib.sha256(), 0
    while data := os.pread(fd, _HASH_BLOCK, position):
        check()
        digest.update(data)
        position += len(data)
    return digest.hexdigest()
