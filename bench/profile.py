"""Where the time of an archive goes: each stage alone on one core, and all of them together in one process."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from isal import isal_zlib

from bench.report import Result
from bench.service import WORK, fresh_folder
from bench.trees import SIZES, count, mixed_tree
from holdfast_server.archive.blocks import BLOCK, deflate, deflate_tightly
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.proof import require_inflates
from holdfast_server.core.backup import ArchivePlan, scan_source, write_archive
from holdfast_server.core.control import Control, Progress
from holdfast_server.storage.folder import OpenFolder

__all__ = ["run"]


def run(options: argparse.Namespace) -> Result:
    """Processor seconds of one core (user and system), and beside the whole its wall time."""
    tree = Path(options.tree).resolve() if options.tree else mixed_tree(options.size, SIZES[options.size])
    files, size = count(tree)
    work = fresh_folder(WORK / "profile")
    result = Result(
        "profile",
        f"Where the time of an archive goes ({files:,} files, {size / 2**20:,.0f} MiB)",
        ["stage", "processor", "wall"],
    )
    _stages(result, tree, work / "out")
    for archive_format in (ArchiveFormat.ZIP, ArchiveFormat.TAR_GZ, ArchiveFormat.TAR_ZST):
        _add(
            result, f"all of a {archive_format.value} in the worker's way", partial(_whole, tree, work, archive_format)
        )
    result.notes.append(
        "Seconds of one core, user and system. The last rows are one process with the worker's threads: one "
        f"reads and writes, {os.cpu_count()} pack and prove; beside the stages they hold Python's work on each file "
        "and the handing over of its lock. Without a server, so without the task's start and its scan."
    )
    return result


def _stages(result: Result, tree: Path, output: Path) -> None:
    contents = [path.read_bytes() for path in _files(tree)]
    pieces = [content[at : at + BLOCK] for content in contents for at in range(0, len(content), BLOCK)]
    packed: list[bytes] = []
    stages: list[tuple[str, Callable[[], object]]] = [
        ("open, read and close every file", lambda: [_read(path) for path in _files(tree)]),
        ("SHA-256 of every file", lambda: [hashlib.sha256(content).digest() for content in contents]),
        ("deflate for zip (ISA-L, level 2)", lambda: packed.extend(deflate(piece) for piece in pieces)),
        ("deflate for tar.gz, without its headers", lambda: [deflate_tightly(piece) for piece in pieces]),
        ("unpack and compare what was packed", lambda: _prove(packed, pieces)),
        ("write the archive's bytes", lambda: _write(output, packed)),
        ("read them back, SHA-256 and CRC-32", lambda: _read_back(output)),
    ]
    for what, stage in stages:
        _add(result, what, stage)


def _add(result: Result, what: str, stage: Callable[[], object]) -> None:
    wall, processor = time.monotonic(), time.process_time()
    stage()
    processor, wall = time.process_time() - processor, time.monotonic() - wall
    result.rows.append([what, f"{processor:.2f} s", f"{wall:.2f} s"])
    result.data[what] = [processor, wall]


def _files(tree: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(tree):
        for name in names:
            yield Path(folder, name)


def _read(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return len(os.read(fd, os.fstat(fd).st_size + 1))
    finally:
        os.close(fd)


def _prove(packed: list[bytes], pieces: list[bytes]) -> None:
    for stored, piece in zip(packed, pieces, strict=True):
        if piece:
            require_inflates(stored, piece)


def _write(path: Path, packed: list[bytes]) -> None:
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(packed), 64):
            file.write(b"".join(packed[at : at + 64]))
        os.fsync(file.fileno())


def _read_back(path: Path) -> None:
    digest, crc = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            crc = isal_zlib.crc32(block, crc)


def _whole(tree: Path, work: Path, archive_format: ArchiveFormat) -> None:
    source = OpenFolder(os.open(tree, os.O_RDONLY | os.O_DIRECTORY), os.fsencode(tree))
    plan = ArchivePlan("b", "n", "s", "DIRECTORY", "d", archive_format, [], 0, "bench")
    pool = CompressorPool()
    fd = os.open(work / f"whole.{archive_format.value}", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        scan_source(source, plan, Control())
        write_archive(source, plan, fd, pool, Control(), Progress(), lambda _problem: None)
    finally:
        os.close(fd)
        source.close()
        pool.close()
