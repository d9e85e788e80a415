"""What an archive holds and what is missing from it: counted while it is written, stated in its manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.wallets.classify import WalletCounters

__all__ = ["Statistics"]


@dataclass(slots=True)
class Statistics:
    """What an archive holds. Sizes in bytes of the source; `files_ignored` counts entries, a folder as one."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    hardlinks: int = 0
    original_size: int = 0
    files_skipped: int = 0
    files_ignored: int = 0
    warnings: int = 0
    complete: bool = True
    wallet: WalletCounters = field(default_factory=WalletCounters)

    def count(self, member: Member) -> None:
        """Add a member that is in the archive."""
        if member.kind is MemberKind.FILE:
            self.files += 1
            self.original_size += member.size
        elif member.kind is MemberKind.DIRECTORY:
            self.directories += 1
        elif member.kind is MemberKind.SYMLINK:
            self.symlinks += 1
        else:
            self.hardlinks += 1

    def manifest_totals(self, *, wallet: bool) -> dict[str, Any]:
        """The last line of the manifest (docs/format.md)."""
        counts = {
            "files": self.files,
            "directories": self.directories,
            "symlinks": self.symlinks,
            "hardlinks": self.hardlinks,
            "bytes": self.original_size,
            "files_skipped": self.files_skipped,
            "files_ignored": self.files_ignored,
            "warnings": self.warnings,
        }
        totals: dict[str, Any] = {"counts": counts, "complete": self.complete, "key_ids": []}
        if wallet:
            totals["wallet"] = asdict(self.wallet)
        return totals
