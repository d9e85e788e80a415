"""What every backup of a source has in common, whatever it is stored in: the plan, and what becomes of problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.selection import Selection
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import EntryKind, ProblemReason, TreeEntry, TreeProblem, walk
from holdfast_server.wallets.envelope import WalletKey

__all__ = ["CHANGED", "BackupPlan", "SourceJob", "refuse_folder", "scan_source", "wallet_unlocked"]

#: What is missing from a backup when one of these happens; the rest are warnings only.
_MISSING = frozenset(
    {
        ProblemReason.PERMISSION_DENIED,
        ProblemReason.READ_ERROR,
        ProblemReason.VANISHED,
        ProblemReason.NOT_A_DIRECTORY_ANYMORE,
    }
)
#: What `on_source_error = FAIL` fails on: a file that vanished is no file of the source any more.
_UNREADABLE = frozenset({ProblemReason.PERMISSION_DENIED, ProblemReason.READ_ERROR})

CHANGED = "CHANGED_WHILE_READ"


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """What to back up, and what the backup says about it."""

    backup_id: str
    name: str
    source_id: str
    source_kind: str
    display_name: str
    ignore: list[str]
    created_us: int
    software: str
    fail_on_error: bool = False
    #: Folders left out wherever the walk meets them: the service's own data.
    skip: frozenset[tuple[int, int]] = frozenset()
    #: The folder that the backup goes to: meeting it below the source is an error.
    forbidden: frozenset[tuple[int, int]] = frozenset()
    #: Unlocked wallets other than the source, by (device, inode): their coins would go in as they are.
    unlocked: Mapping[tuple[int, int], str] = field(default_factory=dict)
    #: The key of an unlocked wallet: nothing that may show its coins goes in but as an envelope.
    wallet_key: WalletKey | None = field(default=None, repr=False)

    @property
    def is_wallet(self) -> bool:
        return self.source_kind == "WALLET"


def scan_source(source: OpenFolder, plan: BackupPlan, control: Control) -> Statistics:
    """Count what a backup would hold, without opening a file. Problems are counted as warnings only."""
    selection, found = Selection(plan.ignore), Statistics()
    for item in walk(source.fd, keep=selection.keep, check=control.check, skip_identities=plan.skip):
        if isinstance(item, TreeProblem):
            _count_problem(found, item.reason)
        elif item.kind is EntryKind.FILE:
            found.files += 1
            found.original_size += item.size
        elif item.kind is EntryKind.DIRECTORY:
            refuse_folder(plan, item)
            found.directories += 1
        else:
            found.symlinks += 1
    found.files_ignored = selection.ignored
    return found


class SourceJob:
    """One run over a source's tree: what was found, and what could not be had."""

    def __init__(
        self, plan: BackupPlan, control: Control, progress: Progress, report: Callable[[Problem], None]
    ) -> None:
        self._plan = plan
        self._control = control
        self._progress = progress
        self._report = report
        self._selection = Selection(plan.ignore)
        self.statistics = Statistics()

    def _problem(self, path: bytes, reason: ProblemReason, message: str) -> None:
        if reason in _UNREADABLE and self._plan.fail_on_error:
            raise FailedPrecondition(
                Reason.SOURCE_UNREADABLE,
                f"source {self._plan.source_id}: {message}",
                metadata={"source_id": self._plan.source_id, "path": escape(path), "problem": reason.value},
            )
        _count_problem(self.statistics, reason)
        if reason is not ProblemReason.SERVICE_DATA_SKIPPED:
            self._report(Problem(path, reason.value, message))

    def _warn(self, path: bytes, reason: str, message: str) -> None:
        self.statistics.warnings += 1
        self._report(Problem(path, reason, message))


def _count_problem(found: Statistics, reason: ProblemReason) -> None:
    if reason is ProblemReason.SERVICE_DATA_SKIPPED:
        return  # by design, and said in the docs: no warning at every backup of a parent folder
    found.warnings += 1
    if reason in _MISSING:
        found.complete = False
        found.files_skipped += 1
        found.wallet.skip()


def refuse_folder(plan: BackupPlan, entry: TreeEntry) -> None:
    identity = (entry.dev, entry.ino)
    if identity in plan.forbidden:
        raise FailedPrecondition(
            Reason.FOLDER_INSIDE_SOURCE,
            f"the backup's own folder lies inside source {plan.source_id}, at {escape(entry.path)}",
            metadata={"source_id": plan.source_id, "path": escape(entry.path)},
        )
    if identity in plan.unlocked:
        raise wallet_unlocked(plan.source_id, plan.unlocked[identity], escape(entry.path))


def wallet_unlocked(source_id: str, wallet_id: str, path: str) -> FailedPrecondition:
    """The source holds another wallet, or lies in it, whose coins are to be stored encrypted only."""
    return FailedPrecondition(
        Reason.WALLET_UNLOCKED,
        f"source {source_id} holds coins of wallet {wallet_id}, at {path}, which is unlocked: here they would be "
        "stored in clear",
        metadata={"source_id": source_id, "wallet_id": wallet_id, "path": path},
    )
