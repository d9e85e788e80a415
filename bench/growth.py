"""How the cost of a repository grows: with the number of files, with their bytes, and with the number of backups.

One tool after the other, each with a new store, so that the data and one store at a time need room.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.disk import fresh_places, has_room
from bench.processes import Usage
from bench.report import Check, Result
from bench.service import WORK
from bench.tools import Holdfast, Keeper, Tool, present
from bench.trees import COIN_SIZE, SIZES, coin_files, mixed_tree, random_files, warm

__all__ = ["AXES", "run"]

_WORK = WORK / "growth"

_MIB, _GIB = 1 << 20, 1 << 30

MEMORY_TARGET_MIB = 400
#: What a backup of an unchanged source of at most `UNCHANGED_FILES` may store.
UNCHANGED_TARGET_KIB, UNCHANGED_FILES = 64, 100_000

#: Room that is left free beside what the largest store needs.
_SPARE = 4 * _GIB


@dataclass(frozen=True, slots=True)
class _Axis:
    """What grows. `values` are measured in turn; `room` gives the bytes of disk that the data of one takes, and a store
    of it at most."""

    title: str
    show: Callable[[int], str]
    values: dict[str, tuple[int, ...]]
    room: Callable[[int], int]


AXES = {
    "files": _Axis(
        f"the number of files of {COIN_SIZE} bytes",
        lambda value: f"{value:,} files",
        {"small": (1_000, 10_000), "full": (10_000, 100_000, 1_000_000)},
        lambda value: value * (4096 + COIN_SIZE),
    ),
    "size": _Axis(
        "the size of incompressible files",
        lambda value: f"{value / _GIB:g} GiB" if value >= _GIB else f"{value // _MIB} MiB",
        {"small": (64 * _MIB, 256 * _MIB), "full": (_GIB, 4 * _GIB, 16 * _GIB)},
        lambda value: value + value // 50,
    ),
    "snapshots": _Axis(
        f"the number of backups of {SIZES['small'].files:,} unchanged files, {SIZES['small'].size // _MIB} MiB",
        lambda value: f"{value:,} before",
        {"small": (1, 10), "full": (1, 10, 100)},
        lambda _value: 2 * SIZES["small"].size,
    ),
}


@dataclass(frozen=True, slots=True)
class _Point:
    """One tool at one value. `grown` is by how many bytes the unchanged backup let the store grow."""

    first: Usage | None
    again: Usage
    grown: int
    listed: Usage
    described: Usage | None

    @property
    def peak(self) -> int:
        return max(usage.peak for usage in (self.first, self.again) if usage)


def run(options: argparse.Namespace) -> Iterator[Result]:
    """One table for each axis."""
    tools, absent = present(options.tool)
    for name in options.axis or AXES:
        yield _axis(name, options, [tool for tool in tools if isinstance(tool, Keeper)], absent)


def _axis(name: str, options: argparse.Namespace, tools: list[Keeper], absent: list[str]) -> Result:
    axis = AXES[name]
    fresh_places(_WORK)
    columns = ["", "by", "first backup", "again", "store grew by", "list", "GetRepository", "processor", "peak memory"]
    result = Result(f"growth-{name}", f"Repository: growth with {axis.title}", columns, options=["--axis", name])
    result.notes += [f"Not measured: {reason}." for reason in absent]
    points: dict[tuple[int, str], _Point] = {}
    values = list(itertools.takewhile(lambda value: _has_room(axis, value, result), axis.values[options.size]))
    measured = _over_snapshots(values, tools) if name == "snapshots" else _over_data(name, values, tools)
    for value, tool, point in measured:
        points[value, tool.name] = point
    shutil.rmtree(_WORK)
    for value in values:
        result.rows += [[axis.show(value), tool.label, *_cells(points[value, tool.name])] for tool in tools]
    _check(result, name, values, points)
    result.data = {f"{value} {tool}": asdict(point) for (value, tool), point in points.items()}
    result.notes.append(
        "Page cache warm as far as memory goes. First backup into a new store, then again with nothing changed: "
        "processor is that of the latter, peak memory the larger. List: `ListBackups` of all, `restic snapshots`, "
        "`borg list`."
    )
    return result


def _has_room(axis: _Axis, value: int, result: Result) -> bool:
    needed = 2 * axis.room(value) + _SPARE
    if has_room(_WORK, needed):
        return True
    result.notes.append(f"Left out for want of disk space: {axis.show(value)} ({needed / _GIB:.0f} GiB are needed).")
    return False


def _over_data(name: str, values: list[int], tools: list[Keeper]) -> Iterator[tuple[int, Tool, _Point]]:
    for value in values:
        source = _WORK / "source"
        _make(name, value, source)
        for tool in tools:
            with tool.opened(_WORK / tool.name, source):
                yield value, tool, _point(tool, first=_warm_backup(tool))
            shutil.rmtree(tool.folder)
        shutil.rmtree(source)


def _over_snapshots(values: list[int], tools: list[Keeper]) -> Iterator[tuple[int, Tool, _Point]]:
    """The store of a tool is kept, and backed up into as often as it takes."""
    source = mixed_tree("small", SIZES["small"])
    for tool in tools:
        taken = 0
        with tool.opened(_WORK / tool.name, source):
            for value in values:
                while taken < value:
                    tool.backup()
                    taken += 1
                yield value, tool, _point(tool, first=None)
                taken += 1
        shutil.rmtree(tool.folder)


def _make(name: str, value: int, source: Path) -> None:
    if name == "files":
        coin_files(source, value)
    else:
        random_files(source, value, files=8)


def _point(tool: Keeper, *, first: Usage | None) -> _Point:
    """Of a store with backups of the source as it is."""
    before = tool.stored()
    again = _warm_backup(tool)
    grown = tool.stored() - before
    described = tool.describe() if isinstance(tool, Holdfast) else None
    return _Point(first, again, grown, tool.list_backups(), described)


def _warm_backup(tool: Keeper) -> Usage:
    warm(tool.source)
    os.sync()
    return tool.backup()


def _cells(point: _Point) -> list[str]:
    return [
        f"{point.first.seconds:.2f} s" if point.first else "",
        f"{point.again.seconds:.2f} s",
        f"{point.grown / 1024:,.1f} KiB",
        f"{point.listed.seconds:.3f} s",
        f"{point.described.seconds:.3f} s" if point.described else "",
        f"{point.again.processor:.2f} s",
        f"{point.peak / _MIB:.0f} MiB",
    ]


def _check(result: Result, name: str, values: list[int], points: dict[tuple[int, str], _Point]) -> None:
    ours = {value: points[value, Holdfast.name] for value in values if (value, Holdfast.name) in points}
    if not ours:
        return
    worst = max(point.peak for point in ours.values())
    result.checks.append(Check("Holdfast: peak memory of the worker", worst / _MIB, MEMORY_TARGET_MIB, "MiB"))
    if name == "files":
        kept = {value: point.grown / 1024 for value, point in ours.items() if value <= UNCHANGED_FILES}
        result.checks += [
            Check(f"Holdfast: stored by an unchanged backup of {value:,} files", kib, UNCHANGED_TARGET_KIB, "KiB")
            for value, kib in kept.items()
        ]
    for smaller, larger in itertools.pairwise(values):
        few, many = ours[smaller].first, ours[larger].first
        if few and many:
            # n log n in files, linear in bytes
            factor = math.log(larger) / math.log(smaller) if name == "files" else 1.0
            what = f"first backup of {AXES[name].show(larger)}, times that of {AXES[name].show(smaller)}"
            result.checks.append(Check(f"Holdfast: {what}", many.seconds / few.seconds, factor * larger / smaller))
