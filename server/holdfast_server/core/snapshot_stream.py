"""Sending a snapshot as an archive that is made on the way. Runs in a process of its own, one for each download."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.clock import Clock
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.export import BackupExport, ExportPlan
from holdfast_server.core.publish import archive_base_name
from holdfast_server.core.repository_place import open_place
from holdfast_server.core.snapshot_contents import SnapshotContents
from holdfast_server.core.snapshot_place import StreamOrder, content_keys, require_snapshot
from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.repository import ReadingRun, RunKind
from holdfast_server.storage.names import escape

__all__ = ["stream_snapshot"]

#: Bytes handed over at a time, at most.
_PART = 1 << 20


def stream_snapshot(
    order: StreamOrder,
    begin: Callable[[str], None],
    send: Callable[[memoryview], None],
    pool: CompressorPool,
    control: Control,
    clock: Clock,
) -> str:
    """Tell the archive's file name, then send its bytes in order; gives their SHA-256, in hex.

    The archive is an export of the whole backup (docs/format.md). It is not read back: its writer proves what it
    packed, and whoever takes it compares the hash. Raises Stopped when asked to; FailedPrecondition: KEY_REQUIRED,
    KEY_WRONG, NOT_REPRESENTABLE for an entry that the format cannot hold, so that nothing is left out in silence;
    DataLoss/CHECKSUM_MISMATCH, and what `open_place`, `begin` and `send` raise. Then what was sent is no archive.
    """
    place = order.place
    with open_place(place.repository) as opened:
        content = content_keys(opened, place.access)
        snapshot = require_snapshot(opened, place.backup_id)
        with ReadingRun(opened.repository, RunKind.EXPORT, control.check, clock.now, place.repository.marks) as session:
            contents = SnapshotContents(session.reader(snapshot, content), snapshot, (), session.check)
            plan = ExportPlan(place.backup_id, order.format, (), order.created_us, order.software)
            export = BackupExport(contents, plan, control, Progress())
            base = archive_base_name(snapshot.source_display_name, "", snapshot.create_us)
            begin(base + order.format.suffix)
            file = _SentFile(send)
            export.send(file, pool, _refuse)
            return file.sha256.hexdigest()


class _SentFile(io.RawIOBase):
    """Takes the archive and sends it on."""

    def __init__(self, send: Callable[[memoryview], None]) -> None:
        self._send = send
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PART):
            part = view[start : start + _PART]
            self.sha256.update(part)
            self._send(part)
        return len(view)


def _refuse(problem: Problem) -> None:
    shown = escape(problem.path)
    raise FailedPrecondition(
        Reason.NOT_REPRESENTABLE, f"{shown}: {problem.message}", metadata={"path": shown, "detail": problem.message}
    )
