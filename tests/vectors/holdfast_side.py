"""Holdfast's own writer and reader, driven with sources that never lay on a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.repository import Encryption, EntryFlag, EntryKind, SnapshotWriter, encode_entry
from holdfast_server.repository.content_keys import ContentKeys
from holdfast_server.repository.entries import Entry, folder_tail, link_tail
from holdfast_server.repository.reader import Hole, SnapshotReader
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.root import RootInfo, RootProblem, SourceAttributes, encode_root
from holdfast_server.repository.runs import RunKind
from holdfast_server.repository.sessions import BackupRun, ReadingRun
from holdfast_server.repository.snapshots import Snapshot, SnapshotCounts
from holdfast_server.repository.tails import encode_extras
from holdfast_server.repository.writer import Written
from tests.vectors import made_sources as made
from tests.vectors.made_sources import Description, Made

#: Every snapshot of the vectors is of this folder.
ATTRIBUTES = SourceAttributes(0o750, 1_600_000_000_000_000_001, 0, 0, ((b"user.root", b"\xff"),))


def back_up(
    repository: Repository, run_id: str, entries: Sequence[Made], now_us: int, caches: int, **values: Any
) -> Snapshot:
    """Commit a snapshot of these entries."""
    pool = CompressorPool(1)
    try:
        with BackupRun(
            repository, run_id, "made", caches=caches, pool=pool, check=lambda: None, now=lambda: now_us
        ) as run:
            for entry in entries:
                _add(run.writer, entry)
            snapshot = run.commit(_root, lambda written: _snapshot(repository, run_id, written, now_us, values))
            run.settle()
            return snapshot
    finally:
        pool.close()


def _root(tree: Any) -> bytes:
    problems = (RootProblem(b"gone\xff", "SOURCE_CHANGED", "it was gone when it was its turn"),)
    return encode_root(RootInfo(ATTRIBUTES, tree, ("*.tmp",), problems, ("00" * 16,)))


def _snapshot(repository: Repository, run_id: str, written: Written, now_us: int, values: dict[str, Any]) -> Snapshot:
    return Snapshot(
        run_id=run_id,
        name=values.get("name", "made"),
        locked=False,
        source_id="made",
        source_kind="DIRECTORY",
        source_display_name="Made \u00fcp",
        create_us=now_us,
        complete_us=now_us + 1,
        counts=SnapshotCounts(),
        stored_size=written.stored_size,
        complete=True,
        list=written.list,
        root=written.root,
        writer_id=repository.keys.writer.writer_id,
        software="holdfast",
    )


def _add(writer: SnapshotWriter, entry: Made) -> None:
    encryption = None
    flags = EntryFlag.XATTRS if entry.xattrs else EntryFlag(0)
    if entry.sealed_as is not None:
        usual = entry.name + b".hfcc"
        encryption = Encryption(bytes(16), 448, bytes(32), None if entry.sealed_as == usual else entry.sealed_as)
        flags |= EntryFlag.ENCRYPTED
    about = entry.mode, *entry.owner, entry.mtime_ns
    if entry.kind == made.FILE:
        rest = encode_extras(entry.xattrs, encryption)
        if any(isinstance(part, int) for part in entry.parts) or sum(map(len, entry.parts)) >= 1 << 20:  # type: ignore[arg-type]
            holes = any(isinstance(part, int) for part in entry.parts)
            flags |= EntryFlag.SPARSE if holes else EntryFlag(0)
            stored = writer.store_content(_filled(entry.parts))
            writer.add_large(entry.folder, entry.name, int(flags), *about, stored, rest, None)
        else:
            content = b"".join(part for part in entry.parts if isinstance(part, bytes))
            writer.add_small(entry.folder, entry.name, int(flags), *about, content, rest, None)
        return
    if entry.kind == made.DIRECTORY:
        kind, tail = EntryKind.DIRECTORY, folder_tail(entry.xattrs)
    else:
        kind = EntryKind.SYMLINK if entry.kind == made.SYMLINK else EntryKind.HARDLINK
        tail = link_tail(entry.target, entry.xattrs, encryption)
    writer.add_entry(entry.folder, entry.name, encode_entry(kind, flags, *about, entry.name, tail))


def _filled(parts: Iterable[bytes | int]) -> Callable[[memoryview], int]:
    """A `Fill` that gives these parts, content in pieces as large as there is room."""
    waiting: list[bytes | int] = [part for part in parts if part]

    def fill(view: memoryview) -> int:
        if not waiting:
            return 0
        part = waiting.pop(0)
        if isinstance(part, int):
            return -part
        given, left = part[: len(view)], part[len(view) :]
        view[: len(given)] = given
        if left:
            waiting.insert(0, left)
        return len(given)

    return fill


def describe(repository: Repository, snapshot: Snapshot, content: ContentKeys | None) -> Description:
    """What Holdfast's reader gives of a snapshot, as `made_sources` describes it."""
    with ReadingRun(repository, RunKind.RESTORE, lambda: None, lambda: 1_700_000_000_000_000) as run:
        reader = run.reader(snapshot, content)
        return made.describe_source(_made(reader, entry) for entry in reader.entries())


def _made(reader: SnapshotReader, entry: Entry) -> Made:
    kind = {EntryKind.FILE: made.FILE, EntryKind.DIRECTORY: made.DIRECTORY, EntryKind.SYMLINK: made.SYMLINK}
    is_file = entry.kind is EntryKind.FILE
    blocks = reader.blocks(entry) if is_file else ()
    parts = tuple(block.length if isinstance(block, Hole) else bytes(block) for block in blocks)
    return Made(
        entry.path,
        kind.get(entry.kind, made.HARDLINK),
        parts,
        entry.mode,
        entry.mtime_ns,
        (entry.uid, entry.gid),
        entry.xattrs,
        entry.link_target,
        None if entry.encryption is None else entry.stored_path.rpartition(b"/")[2],
    )
