"""`python -m bench [names]`: run benchmarks, print their tables, keep the figures under .bench/results/."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Iterable

from bench.growth import AXES
from bench.report import EVIDENCE, ROOT, Result, write_evidence
from bench.repository import STEPS, WORKLOADS
from bench.service import WORK
from bench.tools import TOOLS
from bench.trees import SIZES

NAMES = (
    "startup", "idle", "cancel", "watchers", "wallet", "archives", "memory", "profile", "repository", "growth",
    "upkeep",
)  # fmt: skip


def main() -> int:
    """Exit status: 0, or with --strict 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=f"default all: {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--size", choices=sorted(SIZES), default="small", help="how much data, where it is generated (default: small)"
    )
    parser.add_argument("--tree", metavar="DIR", help="back up this folder in `archives` instead of a generated tree")
    parser.add_argument(
        "--format",
        action="append",
        choices=("zip", "tar.gz", "tar.zst"),
        help="only this format in `memory`; repeatable",
    )
    parser.add_argument("--shape", metavar="TEXT", help="only shapes in `memory` whose name has this text")
    parser.add_argument("--coins", type=int, default=100_000, metavar="N", help="coins in `wallet` (default: 100000)")
    parser.add_argument(
        "--data", action="append", choices=sorted(WORKLOADS), help="only this data in `repository`; repeatable"
    )
    parser.add_argument(
        "--step",
        action="append",
        choices=list(STEPS),
        help="only the first backup and this step in `repository`; repeatable",
    )
    parser.add_argument("--axis", action="append", choices=sorted(AXES), help="only this growth; repeatable")
    parser.add_argument(
        "--tool",
        action="append",
        choices=[make().name for make in TOOLS],
        help="only this tool in `repository` and `growth`; repeatable",
    )
    parser.add_argument("--runs", type=int, metavar="N", help="how often each measurement is repeated")
    parser.add_argument("--evidence", action="store_true", help=f"write the tables into {EVIDENCE.relative_to(ROOT)}")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    missed = 0
    names = options.names or NAMES
    load = os.getloadavg()[0]  # later on the load is our own
    note = f"Other work shared the machine: load average {load:.1f} before the run." if load > 0.5 else ""
    for name in names:
        print(f"running {name} …", file=sys.stderr, flush=True)
        for result in _results(name, options):
            result.command = _command(name, result.options, options)
            if note:
                result.notes.append(note)
                note = ""
            print(result.markdown(), flush=True)
            result.save(WORK / "results")
            if options.evidence:
                write_evidence(result)
            missed += sum(not check.met for check in result.checks)
    return 1 if missed and options.strict else 0


def _results(name: str, options: argparse.Namespace) -> Iterable[Result]:
    """The tables of a suite, each as soon as it is measured."""
    found: Result | Iterable[Result] = importlib.import_module(f"bench.{name}").run(options)
    return [found] if isinstance(found, Result) else found


def _command(name: str, own: Iterable[str], options: argparse.Namespace) -> str:
    words = ["python", "-m", "bench", name, *own]
    if name in ("archives", "profile"):
        words += ["--tree", options.tree] if options.tree else ["--size", options.size]
    if name == "memory":
        words += ["--size", options.size]
        words += [word for chosen in options.format or () for word in ("--format", chosen)]
        words += ["--shape", options.shape] if options.shape else []
    if name in ("repository", "growth"):
        words += ["--size", options.size]
        words += [word for chosen in options.tool or () for word in ("--tool", chosen)]
    if name == "wallet":
        words += ["--coins", str(options.coins)]
    if options.runs:
        words += ["--runs", str(options.runs)]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
