"""Balance and coins of a large wallet through a running server, against reading the same files with plain tools.

As in `archives` every way takes its turn in every round, over a warm page cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.report import Check, Result
from bench.service import WORK, Api, Server, fresh_folder, proportional_memory
from holdfast.v1 import source_pb2
from holdfast_server.wallets.generate import generate_wallet

__all__ = ["run"]

TARGET_SECONDS = 2.0
_PAGE = 1000
_BASELINE = "find . -type f -exec cat {} +"
_LOOP = """\
import os
for folder, _, names in os.walk("."):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            file.read()
"""


def run(options: argparse.Namespace) -> Result:
    """The first call starts the reader process and is told apart."""
    runs = options.runs or 5
    work = fresh_folder(WORK / "wallet")
    wallet = work / "wallet"
    coins = generate_wallet(wallet, options.coins, seed=1).coins
    result = Result(
        "wallet",
        f"A wallet of {coins:,} coins",
        ["what", "median", "max", f"share of `{_BASELINE}`"],
    )
    with Server(work / "data") as server, server.api() as api:
        api.register("wallet", wallet, source_pb2.SOURCE_KIND_WALLET)
        ways = _ways(server, api, wallet, coins)
        _plain(wallet, "sh", "-c", f"{_BASELINE} > /dev/null")
        first = _timed(lambda: api.balance("wallet"))
        times: dict[str, list[float]] = {what: [] for what in ways}
        for _ in range(runs):
            for what, way in ways.items():
                times[what].append(_timed(way))
        result.notes.append(
            f"{runs} rounds, page cache warm. The first GetBalance, which starts the reader process: {first:.2f} s. "
            f"Memory of that process after the last list, still kept for further pages: {_reader_memory(server)}."
        )
    baseline = times[f"`{_BASELINE}`"]
    for what, seconds in times.items():
        share = statistics.median(a / b for a, b in zip(seconds, baseline, strict=True))
        result.rows.append([what, f"{statistics.median(seconds):.2f} s", f"{max(seconds):.2f} s", f"{share:.2f}"])
        if what.startswith(("GetBalance", "ListCoins")) and options.coins <= 100_000:
            result.checks.append(Check(f"{what}, median", round(statistics.median(seconds), 3), TARGET_SECONDS, "s"))
    result.data = {"first": first, "times": times}
    return result


def _ways(server: Server, api: Api, wallet: Path, coins: int) -> dict[str, Callable[[], object]]:
    start = "import sys; from holdfast.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "--data-dir", str(server.data_dir), "--json", "wallet"]

    def listed() -> None:
        found = api.count_coins("wallet", _PAGE)
        if found != coins:
            raise RuntimeError(f"{found} coins listed instead of {coins}")

    return {
        f"`{_BASELINE}`": lambda: _plain(wallet, "sh", "-c", f"{_BASELINE} > /dev/null"),
        "a loop in Python that reads every file": lambda: _plain(wallet, sys.executable, "-c", _LOOP),
        "GetBalance": lambda: api.balance("wallet"),
        f"ListCoins, all pages of {_PAGE:,}": listed,
        "`holdfast wallet balance`, whole process": lambda: _plain(wallet, *command, "balance", "wallet"),
        "`holdfast wallet coins`, whole process": lambda: _plain(wallet, *command, "coins", "wallet"),
    }


def _timed(way: Callable[[], object]) -> float:
    began = time.monotonic()
    way()
    return time.monotonic() - began


def _plain(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)


def _reader_memory(server: Server) -> str:
    for process in server.processes():
        try:
            if "holdfast_server.tasks.wallet_reader" in process.cmdline():
                size, kind = proportional_memory(process)
                return f"{size / 2**20:.0f} MiB ({kind})"
        except psutil.Error:
            continue
    return "unknown"
