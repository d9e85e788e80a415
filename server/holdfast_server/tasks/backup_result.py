"""What a BACKUP task says in the end: what became of each source, and the sum over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast_server.catalog.rows import SourceKind
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import HoldfastError
from holdfast_server.storage.names import escape
from holdfast_server.tasks.run import Outcome, TaskRun, error_record
from holdfast_server.wallets.classify import WalletCounters

__all__ = ["SourceOutcome", "summarise"]

_SHOWN = 100


@dataclass(slots=True)
class SourceOutcome:
    """What became of one source; `error` None means a completed backup (or, in a dry run, a finished count)."""

    entry: dict[str, Any]
    statistics: Statistics
    output: bytes = b""
    size: int = 0
    error: HoldfastError | None = None

    def record(self) -> dict[str, Any]:
        return {
            "source_id": self.entry["source_id"],
            "backup_id": self.entry["backup_id"],
            "ok": self.error is None,
            "error": error_record(self.error) if self.error else None,
            "output_file": escape(self.output),
            "original_size": self.statistics.original_size,
            "stored_size": self.size,
            "files": self.statistics.files,
            "warnings": self.statistics.warnings,
        }


def summarise(run: TaskRun, outcomes: Sequence[SourceOutcome]) -> Outcome:
    """The task's result over all sources. Raises the first failure when no source succeeded."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not good and failed and failed[0].error is not None:
        raise failed[0].error
    wallet, total = WalletCounters(), Statistics()
    for outcome in good:
        wallet.merge(outcome.statistics.wallet)
        for name in ("files", "directories", "symlinks", "hardlinks", "original_size", "files_ignored", "files_skipped",
                     "warnings"):  # fmt: skip
            setattr(total, name, getattr(total, name) + getattr(outcome.statistics, name))
    stored = sum(outcome.size for outcome in good)
    result = {
        "wallets_processed": sum(outcome.entry["kind"] == SourceKind.WALLET for outcome in good),
        "coins_backed_up": wallet.coins_backed_up,
        "output_files": [escape(outcome.output) for outcome in good if outcome.output][:_SHOWN],
        "files_added": total.files + total.hardlinks,
        "files_skipped": total.files_skipped,
        "files_reencrypted": wallet.files_reencrypted,
        "files_added_plaintext": wallet.files_added_plaintext,
        "files_added_multi_coin": wallet.files_added_multi_coin,
        "backup_ids": [] if run.row.dry_run else [outcome.entry["backup_id"] for outcome in good][:_SHOWN],
        "original_size": total.original_size,
        "stored_size": stored,
        "directories": total.directories,
        "symlinks": total.symlinks,
        "files_ignored": total.files_ignored,
        "sources": [outcome.record() for outcome in outcomes][:_SHOWN],
        "sources_failed": len(failed),
    }
    warned = bool(failed) or total.warnings > 0
    return Outcome(result, _sentence(run, good, failed, total, stored), warnings=warned,
                   error=error_record(failed[0].error) if failed and failed[0].error else None)  # fmt: skip


def _sentence(
    run: TaskRun, good: Sequence[SourceOutcome], failed: Sequence[SourceOutcome], total: Statistics, stored: int
) -> str:
    what = f"{len(good)} source{'s' if len(good) != 1 else ''}, {total.files} files, {total.original_size} bytes"
    text = f"would back up {what}" if run.row.dry_run else f"backed up {what} into {stored} bytes"
    if failed:
        text += f"; {len(failed)} failed"
    if total.warnings:
        text += f"; {total.warnings} warnings"
    return text
