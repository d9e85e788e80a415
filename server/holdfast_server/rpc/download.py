"""Streams of bytes: header, chunks, digest. A stream without its digest is truncated."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

from holdfast.v1 import download_pb2
from holdfast_server.core.verify import StoredArchive, open_archive
from holdfast_server.errors import DataLoss, Reason, invalid_field
from holdfast_server.storage.names import escape
from holdfast_server.tasks.snapshot_downloads import SnapshotDownload

__all__ = ["archive_parts", "snapshot_parts", "text_parts"]

#: Measured: a stream is fastest between 256 KiB and 1 MiB a message.
_CHUNK = 1 << 20


def archive_parts(archive: StoredArchive, offset: int) -> Iterator[download_pb2.DownloadPart]:
    """A stored archive from `offset`; the digest is that of the whole file.

    Raises InvalidArgument for an offset past the end, DataLoss/CHECKSUM_MISMATCH instead of the digest when the bytes
    read are not those that were written (known only when they are read from the start).
    """
    if offset > archive.size:
        raise invalid_field("offset", f"is {offset}, the archive has {archive.size} bytes")
    with open_archive(archive) as file:
        yield _header(escape(archive.file_name), archive.size, archive.content_type)
        digest, position = hashlib.sha256(), offset
        while position < archive.size:
            data = os.pread(file.fileno(), min(_CHUNK, archive.size - position), position)
            if not data:
                raise DataLoss(
                    Reason.CHECKSUM_MISMATCH,
                    f"{escape(archive.path)} became shorter while it was read",
                    metadata={"path": escape(archive.path)},
                )
            digest.update(data)
            yield download_pb2.DownloadPart(chunk=download_pb2.DownloadPart.Chunk(offset=position, data=data))
            position += len(data)
        if offset == 0 and digest.hexdigest() != archive.sha256:
            raise DataLoss(
                Reason.CHECKSUM_MISMATCH,
                f"{escape(archive.path)} is damaged: its SHA-256 is {digest.hexdigest()}, {archive.sha256} was written",
                metadata={"path": escape(archive.path)},
            )
    yield _digest(archive.sha256)


def snapshot_parts(download: SnapshotDownload, content_type: str) -> Iterator[download_pb2.DownloadPart]:
    """A snapshot as the archive that is made of it; raises as `SnapshotDownload.blocks`, instead of the digest."""
    yield _header(download.file_name(), None, content_type)
    position = 0
    for data in download.blocks():
        yield _chunk(position, data)
        position += len(data)
    yield _digest(download.sha256)


def text_parts(file_name: str, lines: Iterable[str], offset: int) -> Iterator[download_pb2.DownloadPart]:
    """Text of unknown length from `offset`; the digest is that of the whole text."""
    yield _header(file_name, None, "text/plain; charset=utf-8")
    digest, position, pending = hashlib.sha256(), 0, bytearray()
    for line in lines:
        data = line.encode("utf-8", "replace")
        digest.update(data)
        pending += data[max(offset - position, 0) :]
        position += len(data)
        if len(pending) >= _CHUNK:
            yield _chunk(position - len(pending), pending)
            pending.clear()
    if offset > position:
        raise invalid_field("offset", f"is {offset}, the text has {position} bytes")
    if pending:
        yield _chunk(position - len(pending), pending)
    yield _digest(digest.hexdigest())


def _header(file_name: str, size: int | None, content_type: str) -> download_pb2.DownloadPart:
    header = download_pb2.DownloadPart.Header(file_name=file_name, size=size, content_type=content_type)
    return download_pb2.DownloadPart(header=header)


def _chunk(offset: int, data: bytes | bytearray) -> download_pb2.DownloadPart:
    return download_pb2.DownloadPart(chunk=download_pb2.DownloadPart.Chunk(offset=offset, data=bytes(data)))


def _digest(sha256: str) -> download_pb2.DownloadPart:
    return download_pb2.DownloadPart(digest=download_pb2.DownloadPart.Digest(sha256=sha256))
