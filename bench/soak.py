"""`python -m bench.soak`: the full counts of the promises that `make test` samples, seeded and resumable.

Each suite is a number of rounds; a round is one run of pytest with its own seed. `.soak/state.json` remembers the
rounds that are done, so that Ctrl-C loses at most one; another seed, or another state of the code, starts again. The
log of a failed round stays under `.soak/logs/`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.report import EVIDENCE, ROOT, Result, commit, write_evidence

SOAK = ROOT / ".soak"
STATE = SOAK / "state.json"


@dataclass(frozen=True, slots=True)
class Suite:
    """`rounds` runs of pytest. `per_round` is what one of them counts, `environment` says so to the tests."""

    name: str
    promise: str
    rounds: int
    per_round: int
    arguments: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


SUITES = (
    Suite(
        "kills",
        "SIGKILL of worker, edge, supervisor or all during a backup, and during restores",
        rounds=30,
        per_round=10,
        arguments=["tests/fault/test_kills.py", "-k", "random_moments"],
        environment={"HOLDFAST_KILLS": "10"},
    ),
    Suite(
        "snapshots",
        "SIGKILL of worker, edge, supervisor or all during a backup into a repository",
        rounds=30,
        per_round=10,
        arguments=["tests/fault/test_snapshot_kills.py"],
        environment={"HOLDFAST_KILLS": "10", "HOLDFAST_FILES": "3000"},
    ),
    Suite(
        "repository-crashes",
        "what a crash of the machine leaves of a repository between two syncs",
        rounds=10,
        per_round=1000,
        arguments=["tests/fault/test_repository_crashes.py", "-k", "test_crash_states"],
        environment={"HOLDFAST_CRASH_STATES": "1000"},
    ),
    Suite(
        "repository-histories",
        "a source that changes and a repository that is hurt, in any order: the last backup reads back",
        rounds=10,
        per_round=100,
        arguments=["tests/property/test_backup_histories.py"],
        environment={"HOLDFAST_HISTORIES": "100"},
    ),
    Suite(
        "interleavings",
        "writers, pruners and readers of a repository in any interleaving, with crashes, sleepers and wrong clocks: "
        "nothing that is needed is lost",
        rounds=50,
        per_round=2000,
        arguments=["tests/property/test_repository_interleavings.py", "-k", "nothing_is_lost", "-n", "2"],
        environment={"HOLDFAST_INTERLEAVINGS": "2000"},
    ),
    Suite(
        "repository-faults",
        "every call of the storage fails in every way, every byte of a repository is flipped and every length cut; "
        "writers of objects are killed; sizes of what changed little, at full size (tests)",
        rounds=1,
        per_round=68,
        arguments=[
            *("tests/fault/test_repository_faults.py", "tests/fault/test_repository_damage.py"),
            *("tests/fault/test_objects.py", "tests/unit/repository/test_sessions.py", "-m", "soak"),
        ],
    ),
    Suite(
        "maintenance",
        "SIGKILL of worker, edge, supervisor or all during prunes, compactions and the maintenance after a backup",
        rounds=60,
        per_round=10,
        arguments=["tests/fault/test_maintenance_kills.py"],
        environment={"HOLDFAST_KILLS": "10"},
    ),
    Suite(
        "rotations",
        "SIGKILL of edge, reader process or all while keys are rotated, added and removed",
        rounds=20,
        per_round=10,
        arguments=["tests/fault/test_rotation_kills.py"],
        environment={"HOLDFAST_KILLS": "10"},
    ),
    Suite(
        "retention",
        "ten years of hourly backups, pruned after each: what is kept is what the calendar says (years)",
        rounds=5,
        per_round=10,
        arguments=["tests/property/test_retention.py", "-k", "ten_years"],
        environment={"HOLDFAST_RETENTION_STEP": "1"},
    ),
    Suite(
        "repository-damage",
        "random packs damaged: exactly what is lost is named, all else comes back, before a repair and after it",
        rounds=10,
        per_round=100,
        arguments=["tests/fault/test_repository_damage.py", "-k", "exactly"],
        environment={"HOLDFAST_DAMAGES": "100"},
    ),
    Suite(
        "repository-upkeep",
        "hourly backups of a wallet of which three coins change, pruned and compacted daily: few objects, little waste",
        rounds=1,
        per_round=10_000,
        arguments=["tests/property/test_repository_upkeep.py", "-rP"],
        environment={"HOLDFAST_HOURS": "10000"},
    ),
    Suite(
        "coin-exports",
        "SIGKILL of worker, edge, supervisor or all during an export of coins, and before any line of one",
        rounds=25,
        per_round=20,
        arguments=["tests/fault/test_coin_exports.py", "tests/unit/tasks/test_export_coins_attempts.py", "-k", "kill"],
        environment={"HOLDFAST_COIN_KILLS": "10"},
    ),
    Suite(
        "coin-wallets",
        "any wallet, any amount: exported exactly, or refused with the nearest amounts",
        rounds=5,
        per_round=2000,
        arguments=["tests/property/test_coin_exports.py"],
        environment={"HOLDFAST_COIN_WALLETS": "2000"},
    ),
    Suite(
        "coin-imports",
        "SIGKILL during imports of coins, at random moments and at each step of their journal",
        rounds=21,
        per_round=12,
        arguments=["tests/fault/test_import_kills.py", "-k", "kills"],
        environment={"HOLDFAST_KILLS": "12"},
    ),
    Suite(
        "cancels",
        "CancelTask at a random moment of a backup",
        rounds=15,
        per_round=20,
        arguments=["tests/fault/test_cancel.py", "-k", "random_moments"],
        environment={"HOLDFAST_CANCELS": "20"},
    ),
    Suite(
        "trees",
        "any tree comes back; any archive is read by common tools; no damaged archive passes (examples per property)",
        rounds=10,
        per_round=1000,
        arguments=["tests/property"],
        environment={"HYPOTHESIS_PROFILE": "soak"},
    ),
    Suite(
        "swaps",
        "folders and files swapped for links to the outside while they are restored into or backed up",
        rounds=10,
        per_round=400_000,
        arguments=["tests/fault/test_swaps.py"],
        environment={"HOLDFAST_SWAPS": "100000"},
    ),
    Suite(
        "mutations",
        "mutated archives: success or a typed error, limits kept, no effect outside",
        rounds=40,
        per_round=25_000,
        arguments=["tests/property/test_archive_mutations.py", "-k", "test_mutations", "-n", "2"],
        environment={"HOLDFAST_MUTATIONS": "25000"},
    ),
)


@dataclass(slots=True)
class Progress:
    """What a suite has behind it."""

    done: int = 0
    seconds: float = 0.0
    failed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class State:
    """The content of `.soak/state.json`."""

    seed: int
    code: str
    commit: str
    suites: dict[str, Progress] = field(default_factory=dict)

    @classmethod
    def load(cls, seed: int | None) -> State:
        """Go on with the state on disk when seed and code are the same; else begin a new one and keep the old."""
        code = _code()
        try:
            found: dict[str, Any] = json.loads(STATE.read_text())
        except FileNotFoundError:
            return cls(seed if seed is not None else 1, code, commit())
        if found["code"] == code and seed in (None, found["seed"]):
            suites = {name: Progress(**one) for name, one in found["suites"].items()}
            return cls(found["seed"], code, found["commit"], suites)
        kept = STATE.with_name(f"state-{found['commit']}-{found['seed']}.json")
        STATE.replace(kept)
        print(f"another seed or other code: starting again; the old state is {kept.relative_to(ROOT)}")
        return cls(seed if seed is not None else found["seed"], code, commit())

    def save(self) -> None:
        SOAK.mkdir(exist_ok=True)
        temporary = STATE.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        temporary.replace(STATE)

    def of(self, suite: Suite) -> Progress:
        return self.suites.setdefault(suite.name, Progress())


def main() -> int:
    """Exit status: 0 when all rounds passed, 1 when one failed, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[suite.name for suite in SUITES], help="run one suite")
    parser.add_argument("--seed", type=int, help="default: that of the interrupted run, or 1")
    parser.add_argument("--rounds", type=int, metavar="N", help="stop after N more rounds of each suite")
    parser.add_argument("--evidence", action="store_true", help=f"write the table into {EVIDENCE.relative_to(ROOT)}")
    options = parser.parse_args()
    chosen = [suite for suite in SUITES if options.only in (None, suite.name)]
    state = State.load(options.seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 0
    try:
        for suite in chosen:
            last = suite.rounds if options.rounds is None else min(state.of(suite).done + options.rounds, suite.rounds)
            while state.of(suite).done < last:
                _round(suite, state)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here")
        status = 130
    result = _result(state, options)
    print(result.markdown())
    result.save(SOAK / "results")
    if options.evidence:
        write_evidence(result)
    return status or (1 if any(one.failed for one in state.suites.values()) else 0)


def _round(suite: Suite, state: State) -> None:
    """One round, booked when it has ended. KeyboardInterrupt passes through, and the round does not count."""
    progress = state.of(suite)
    number = progress.done
    # Rounds of different runs share no seed.
    seed = state.seed * 1_000_000 + number
    log, scratch = SOAK / "logs" / f"{suite.name}-{number}.log", SOAK / "tmp"
    log.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    began = time.monotonic()
    with log.open("wb") as output:
        passed = _pytest(suite, seed, scratch, output)
    seconds = time.monotonic() - began
    progress.done, progress.seconds = number + 1, progress.seconds + seconds
    if passed:
        log.unlink()
    else:
        progress.failed.append(number)
    state.save()
    shutil.rmtree(scratch, ignore_errors=True)
    verdict = "passed" if passed else f"FAILED, see {log.relative_to(ROOT)}"
    print(f"{suite.name} {progress.done}/{suite.rounds} seed {seed}: {verdict} ({seconds:.0f} s)", flush=True)


def _pytest(suite: Suite, seed: int, scratch: Path, output: Any) -> bool:
    command = [sys.executable, "-m", "pytest", *suite.arguments, "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    command += [f"--basetemp={scratch}", f"--hypothesis-seed={seed}", "-o", "timeout=7200"]
    paths = os.pathsep.join(["client", "server", os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": paths, "HOLDFAST_SEED": str(seed), **suite.environment}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    with _stopped_with_us(process):
        return process.wait() == 0


@contextlib.contextmanager
def _stopped_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """On Ctrl-C pytest gets its own SIGINT, so that its fixtures take their servers down; then it is waited for."""
    try:
        yield
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def _result(state: State, options: argparse.Namespace) -> Result:
    result = Result("soak", "Soak", ["suite", "what", "done", "of", "failed rounds", "hours"])
    result.command = f"python -m bench.soak --seed {state.seed}" + (f" --only {options.only}" if options.only else "")
    for suite in SUITES:
        progress = state.of(suite)
        done, wanted = progress.done * suite.per_round, suite.rounds * suite.per_round
        failed = ", ".join(map(str, progress.failed)) or "none"
        result.rows.append(
            [suite.name, suite.promise, f"{done:,}", f"{wanted:,}", failed, f"{progress.seconds / 3600:.2f}"]
        )
    result.notes.append(f"Begun at commit `{state.commit}`, seed {state.seed}.")
    result.data = asdict(state)
    return result


def _code() -> str:
    """What identifies the code that is tried: the tracked files of server, client and tests, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", "server", "client", "tests"], cwd=ROOT, capture_output=True, check=True
    )
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed.stdout.split(b"\0"))):
        digest.update(name + b"\0")
        with contextlib.suppress(FileNotFoundError):
            digest.update(hashlib.sha256((ROOT / os.fsdecode(name)).read_bytes()).digest())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
