"""`python -m bench [names]`: run benchmarks, print their tables, keep the figures under .bench/results/."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys

from bench.report import EVIDENCE, ROOT, Result, write_evidence
from bench.service import WORK
from bench.trees import SIZES

NAMES = ("startup", "idle", "cancel", "watchers", "wallet", "archives", "memory", "profile")


def main() -> int:
    """Exit status: 0, or with --strict 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=f"default all: {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--size", choices=sorted(SIZES), default="small", help="trees of `archives` and `memory` (default: small)"
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
    parser.add_argument("--runs", type=int, metavar="N", help="how often each measurement is repeated")
    parser.add_argument("--evidence", action="store_true", help=f"write the tables into {EVIDENCE.relative_to(ROOT)}")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    missed = 0
    for name in options.names or NAMES:
        print(f"running {name} …", file=sys.stderr, flush=True)
        load = os.getloadavg()[0]
        result: Result = importlib.import_module(f"bench.{name}").run(options)
        result.command = _command(name, options)
        first = name == (options.names or NAMES)[0]
        if first and load > 0.5:  # later on the load is our own
            result.notes.append(f"Other work shared the machine: load average {load:.1f} before the run.")
        print(result.markdown(), flush=True)
        result.save(WORK / "results")
        if options.evidence:
            write_evidence(result)
        missed += sum(not check.met for check in result.checks)
    return 1 if missed and options.strict else 0


def _command(name: str, options: argparse.Namespace) -> str:
    words = ["python", "-m", "bench", name]
    if name in ("archives", "profile"):
        words += ["--tree", options.tree] if options.tree else ["--size", options.size]
    if name == "memory":
        words += ["--size", options.size]
        words += [word for chosen in options.format or () for word in ("--format", chosen)]
        words += ["--shape", options.shape] if options.shape else []
    if name == "wallet":
        words += ["--coins", str(options.coins)]
    if options.runs:
        words += ["--runs", str(options.runs)]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
