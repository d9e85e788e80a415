"""What a check finds, and how it tells so while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum

from holdfast_server.errors import DataLoss, FailedPrecondition
from holdfast_server.storage.objects import Buffer, ObjectInfo, ObjectStore

__all__ = ["BackupDamage", "CheckLevel", "CheckReport", "CheckWatch", "CountedReads", "Damage", "Findings"]


class CheckLevel(IntEnum):
    """How deep a check goes; each level includes those before."""

    #: Every object opens and fits the others. Index key alone.
    STRUCTURE = 1
    #: Every byte of the packs is what was written. Index key alone.
    CHECKSUM = 2
    #: Every chunk is decrypted, unpacked and compared with its id, every tree is walked. Content keys.
    READ_DATA = 3


@dataclass(frozen=True, slots=True)
class Damage:
    """An object, by its full name, that is missing or not what it must be; `detail` says what is wrong."""

    object: str
    detail: str


@dataclass(slots=True)
class BackupDamage:
    """What a backup has lost.

    `whole`: its snapshot object or root, so that nothing of it can be restored. `chunks` are those of its list, and
    pages of the list itself, that are lost. `files` are lost files and links by name, None below READ_DATA; `unnamed`
    are lost entries whose names are lost too.
    """

    run_id: str
    whole: bool = False
    chunks: int = 0
    files: int | None = None
    unnamed: int = 0


class CheckWatch:
    """Whoever wants to know how a check goes on. Nothing is kept here of what `lost` tells."""

    def check(self) -> None:
        """Called often; raises what shall stop the check."""

    def phase(self, name: str) -> None:
        """What follows: `objects`, `packs`, `data` or `snapshots`."""

    def expect(self, size: int) -> None:
        """So many bytes of packs will be read in the phase `data`."""

    def advance(self, size: int) -> None:
        """So many of them were."""

    def damaged(self, damage: Damage) -> None:
        """An object is damaged; told once for each."""

    def lost(self, run_id: str, path: bytes) -> None:
        """A file or link of a backup is lost; told once for each that still has a name, with content keys only."""


@dataclass(slots=True)
class CheckReport:
    """What was checked and what was found.

    `percent` is the share of the packs' bytes that was read (0 at STRUCTURE), `bytes` what was read of the store in
    all, `files` those of which all content was read. `packs` and `chunks` were looked up at STRUCTURE, read above.
    `cursor` is to be given to the next check of a part. `rolled_back`: the log lacks entries that were seen before, or
    that others tell of, and all that came behind them, or has others in their place; they are among `damaged`.
    """

    level: CheckLevel
    percent: float = 0.0
    backups: int = 0
    objects: int = 0
    packs: int = 0
    chunks: int = 0
    files: int = 0
    bytes: int = 0
    cursor: str = ""
    rolled_back: bool = False
    damaged: list[Damage] = field(default_factory=list)
    backups_damaged: list[BackupDamage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether something was checked and all of it is right."""
        return self.objects > 0 and not self.damaged and not self.backups_damaged


class Findings:
    """Gathers damage, once for each object and backup, into a report."""

    def __init__(self, report: CheckReport, watch: CheckWatch, check: Callable[[], None]) -> None:
        """`check` is called often and raises what shall stop the work."""
        self.report = report
        self.watch = watch
        self.check = check
        self._objects: set[str] = set()
        self._backups: dict[str, BackupDamage] = {}

    def damage(self, name: str, detail: str) -> None:
        if name not in self._objects:
            self._objects.add(name)
            found = Damage(name, detail)
            self.report.damaged.append(found)
            self.watch.damaged(found)

    def error(self, name: str, error: DataLoss | FailedPrecondition) -> None:
        """The damage that an error tells of."""
        self.damage(name, str(error.metadata.get("detail", error.message)))

    def chunk(self, error: DataLoss) -> None:
        """The damage of the pack that a chunk could not be read from, if the error tells of one."""
        pack = error.metadata.get("pack")
        if pack:
            self.damage(f"packs/{pack}", f"{error.metadata['object']}: {error.metadata['detail']}")

    def backup(self, run_id: str) -> BackupDamage:
        """To be told what a backup has lost."""
        found = self._backups.get(run_id)
        if found is None:
            found = self._backups[run_id] = BackupDamage(run_id)
            self.report.backups_damaged.append(found)
        return found

    def forget_backup(self, run_id: str) -> None:
        """It was removed meanwhile: what it lost is lost to nobody."""
        found = self._backups.pop(run_id, None)
        if found is not None:
            self.report.backups_damaged.remove(found)


class CountedReads:
    """A store that counts the bytes read from it, and asks before each read whether to go on."""

    def __init__(self, store: ObjectStore, check: Callable[[], None]) -> None:
        self._store = store
        self._check = check
        self.bytes = 0

    def __str__(self) -> str:
        return str(self._store)

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._store.put(name, parts)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        return self._store.create_if_absent(name, content)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._check()
        content = self._store.get(name, offset, length)
        self.bytes += len(content)
        return content

    def size(self, name: str) -> int:
        return self._store.size(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def use_reserve(self) -> AbstractContextManager[None]:
        return self._store.use_reserve()

    def keep_reserve(self) -> None:
        self._store.keep_reserve()
