"""Entries of snapshots as messages."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import backup_pb2
from holdfast_server.core.snapshot_listing import EntryRow

__all__ = ["entry_message"]

_TYPES = {
    "FILE": backup_pb2.ENTRY_TYPE_FILE,
    "DIRECTORY": backup_pb2.ENTRY_TYPE_DIRECTORY,
    "SYMLINK": backup_pb2.ENTRY_TYPE_SYMLINK,
    "HARDLINK": backup_pb2.ENTRY_TYPE_HARDLINK,
}


def entry_message(row: EntryRow) -> backup_pb2.Entry:
    seconds, nanos = divmod(row.mtime_ns, 1_000_000_000)
    return backup_pb2.Entry(
        path=row.path,
        type=_TYPES[row.kind],
        size=row.size,
        mode=row.mode,
        modify_time=Timestamp(seconds=seconds, nanos=nanos),
        uid=row.uid,
        gid=row.gid,
        link_target=row.link_target,
    )
