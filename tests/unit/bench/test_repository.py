"""The comparison with other programs: what it changes, measures, refuses and calculates."""

import argparse
import os
from pathlib import Path

import pytest

from bench import repository
from bench.processes import Usage, measured
from bench.report import Result
from bench.tools import Copy, Holdfast, Restic, Tool
from bench.trees import change, coin_files, count, random_files


def contents(root: Path) -> dict[Path, bytes]:
    return {Path(folder, name): Path(folder, name).read_bytes() for folder, _, names in os.walk(root) for name in names}


def test_a_hundredth_of_many_files_changes_and_no_size(tmp_path: Path) -> None:
    coin_files(tmp_path / "top", 1000)
    before = contents(tmp_path)
    change(tmp_path, 0.01, seed=1)
    after = contents(tmp_path)
    assert sum(before[path] != after[path] for path in before) == 10
    assert {path: len(content) for path, content in before.items()} == {
        path: len(content) for path, content in after.items()
    }


def test_a_part_of_the_bytes_of_few_files_changes(tmp_path: Path) -> None:
    random_files(tmp_path / "top", 8 << 20, files=2)
    before = contents(tmp_path)
    change(tmp_path, 0.25, seed=1)
    after = contents(tmp_path)
    starts = range(0, 4 << 20, 4096)
    changed = sum(before[path][at : at + 4096] != after[path][at : at + 4096] for path in before for at in starts)
    assert 256 <= changed <= 514  # pages; two places of a MiB, which may overlap
    assert count(tmp_path) == (2, 8 << 20)


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="status 3: no room"):
        measured(["sh", "-c", "echo no room >&2; exit 3"], tmp_path, os.environ)


def test_the_processor_of_children_counts_and_waiting_does_not(tmp_path: Path) -> None:
    loop = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    usage = measured(["sh", "-c", f"sh -c '{loop}'; sleep 0.3"], tmp_path, os.environ)
    assert 0 < usage.processor <= usage.seconds
    assert usage.seconds >= 0.3
    assert usage.peak > 0


def test_a_round_measures_each_step_that_the_tool_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = repository._Workload("few files", {"small": lambda path: coin_files(path, 20)})
    monkeypatch.setitem(repository.WORKLOADS, "coins", few)
    monkeypatch.setattr(repository, "_WORK", tmp_path / "work")
    monkeypatch.setattr(repository, "_SPARE", 0)
    monkeypatch.setattr("os.sync", lambda: None)  # would wait for all that anyone writes
    options = argparse.Namespace(tool=["cp"], data=["coins"], size="small", runs=2, step=None)
    (result,) = repository.run(options)
    assert {(row[0], row[1]) for row in result.rows} == {
        *(("first backup", figure) for figure in ("time", "processor", "peak memory", "store")),
        *(("restore", figure) for figure in ("time", "processor", "peak memory")),
    }
    assert len(result.data["restore"]["cp"]) == 2
    assert not (tmp_path / "work").exists()
    options.step = ["changed"]
    (result,) = repository.run(options)
    assert {row[0] for row in result.rows} == {"first backup"}


def test_a_restore_that_lacks_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sync", lambda: None)
    coin_files(tmp_path / "source" / "top", 3)
    tool = Copy()
    with tool.opened(tmp_path / "tool", tmp_path / "source"):
        tool.backup()
        next(tool.store.rglob("*.bin")).unlink()
        with pytest.raises(RuntimeError, match="restored"):
            repository._restore(tool, tmp_path / "source", tmp_path / "restored", repository._Turns())


def test_figures_are_medians_of_pairs_and_held_against_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    restic = Restic()
    monkeypatch.setitem(restic.__dict__, "label", "restic")
    tools: list[Tool] = [Holdfast(), restic]
    ours = [Usage(seconds, 1.0, 500 << 20) for seconds in (1.0, 2.0, 9.0)]
    theirs = [Usage(seconds, 1.0, 1 << 20) for seconds in (10.0, 4.0, 10.0)]
    turns = {(step, tool.name): repository._Turns() for step in repository.STEPS for tool in tools}
    for step in repository.STEPS:
        turns[step, "holdfast"] = repository._Turns(ours, [50 << 20] * 3)
        turns[step, "restic"] = repository._Turns(theirs, [100 << 20] * 3)
    result = Result("repository-tree", "", [])
    repository._report(result, "tree", tools, list(repository.STEPS), turns)
    assert result.rows[0] == ["first backup", "time", "2.00 s", "10.00 s (0.50)"]
    assert result.rows[3] == ["first backup", "store", "50.00 MiB", "100.00 MiB (0.5)"]
    met = {check.what: check.met for check in result.checks}
    assert met == {
        "tree, first backup: time, share of restic": False,
        "tree, first backup: store, share of restic": True,
        "tree, again, nothing changed: time, share of restic": True,
        "tree, restore: time, share of restic": True,
        "tree: peak memory of the worker": False,
    }
