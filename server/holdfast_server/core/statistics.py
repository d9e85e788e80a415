"""What an archive holds and what is missing from it: counted while it is written, stated in its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.wallets.census import Census
from holdfast_server.wallets.classify import WalletCounters

__all__ = ["Statistics"]


@dataclass(slots=True)
class Statistics:
    """What an archive holds. Sizes in bytes of the files as they were stored; `files_ignored` counts entries, a folder
    as one. `key_ids` are those of the keys that files were encrypted with on the way. `census` counts the coins of a
    wallet that could be read, as in the source; None where nobody counted.
    """

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
    key_ids: set[str] = field(default_factory=set)
    census: Census | None = None

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
        totals: dict[str, Any] = {"counts": counts, "complete": self.complete, "key_ids": sorted(self.key_ids)}
        if wallet:
            totals["wallet"] = asdict(self.wallet)
            if self.census is not None:
                totals["coins"] = self.census.to_record()
        return totals

    def to_record(self) -> dict[str, Any]:
        """The counts, for the catalog. What coins there are stays in the manifest."""
        return {
            **{name: getattr(self, name) for name in (*_COUNTS, "original_size", "complete")},
            "wallet": asdict(self.wallet),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """What `to_record` gave; other keys are passed over."""
        counts = {name: record[name] for name in (*_COUNTS, "original_size", "complete")}
        return cls(**counts, wallet=WalletCounters(**record["wallet"]))

    @classmethod
    def of_manifest_totals(cls, totals: Mapping[str, Any]) -> Self:
        """What `manifest_totals` stated. Raises ValueError where a count is missing or no count."""
        counts = _counts(totals.get("counts"), [*_COUNTS, "bytes"])
        wallet = totals.get("wallet")
        names = [f.name for f in fields(WalletCounters)]
        key_ids, coins = totals.get("key_ids", []), totals.get("coins")
        if not isinstance(key_ids, list) or not all(isinstance(key_id, str) for key_id in key_ids):
            raise ValueError("its totals do not list key ids")
        if not isinstance(totals.get("complete"), bool):
            raise ValueError("its totals do not say whether it is complete")  # noqa: TRY004  as for all of them
        return cls(
            original_size=counts.pop("bytes"),
            complete=totals["complete"],
            wallet=WalletCounters() if wallet is None else WalletCounters(**_counts(wallet, names)),
            key_ids=set(key_ids),
            census=None if coins is None else Census.from_record(coins),
            **counts,
        )


_COUNTS = ("files", "directories", "symlinks", "hardlinks", "files_skipped", "files_ignored", "warnings")


def _counts(record: Any, names: Sequence[str]) -> dict[str, int]:
    """The named counts, in the range that the catalog holds."""
    if not isinstance(record, dict):
        raise ValueError("its totals hold no counts")  # noqa: TRY004
    found = {}
    for name in names:
        value = record.get(name)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise ValueError(f"its totals do not count {name}")
        found[name] = value
    return found
