"""What must be true of a repository at every step of an interleaving, told without the code that is tried."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from holdfast_server.repository import (
    Snapshot,
)
from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.lists import read_list_page
from holdfast_server.repository.log import LogReader
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.packs import PackRecord, read_directory
from holdfast_server.repository.snapshots import read_run_end
from holdfast_server.storage.objects import MemoryObjects
from tests.interleaving import Actor, Steps
from tests.interleaving_stage import Files, Stage

__all__ = ["Oracle"]


@dataclass
class Oracle:
    """What is known of the repository apart from the code that is tried."""

    steps: Steps
    stage: Stage
    #: What each snapshot that may be committed holds.
    files: dict[str, Files]
    #: Those whose commit was acknowledged, and those that somebody wants to be removed.
    committed: set[str] = field(default_factory=set)
    doomed: set[str] = field(default_factory=set)
    #: Runs that another one has ended, and those that were committed though the log said that they are removed.
    ended: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    #: The chunks of the packs, how many packs hold each, and what each snapshot that can be seen needs.
    packs: dict[str, frozenset[bytes]] = field(default_factory=dict)
    holders: Counter[bytes] = field(default_factory=Counter)
    needs: dict[str, frozenset[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = MemoryObjects()
        self.store._objects = self.steps.objects
        for prefix in ("packs/", "snapshots/"):
            for name in self.steps.objects:
                if name.startswith(prefix):
                    self._came(name)
        self.steps.on_change = self.on_change

    def on_change(self, actor: Actor, call: str, name: str) -> None:
        """A change of the store has had its effect."""
        kind, _, rest = name.partition("/")
        if call == "delete":
            self._went(actor, kind, name, rest)
        elif kind in ("packs", "snapshots"):
            self._came(name)
            if kind == "snapshots":
                if rest not in self.needs and actor.note != rest:
                    self.ended.add(rest)  # a tombstone of somebody else
                self.require_whole(rest)
                if call == "create" and rest in self.doomed and rest in self.needs and rest in self.removed():
                    self.late.add(rest)
        elif kind == "runs" and call == "put":
            actor.note = rest

    def _went(self, actor: Actor, kind: str, name: str, rest: str) -> None:
        if kind == "packs" and name in self.packs:
            gone = self.packs.pop(name)
            self.holders.subtract(gone)
            for run_id, needed in self.needs.items():
                if not needed.isdisjoint(gone):
                    self.require_whole(run_id)
        elif kind == "snapshots" and self.needs.pop(rest, None) is not None:
            if rest in self.committed and rest not in self.doomed:
                self.steps.fail(f"snapshot {rest} was acknowledged, and {actor.name} has deleted it")
        elif kind == "runs" and actor.note != rest:
            self.ended.add(rest)

    def _came(self, name: str) -> None:
        if name.startswith("packs/"):
            record = _directory(self.stage.index_keys, name, self.steps.objects[name])
            if name not in self.packs:
                self.packs[name] = frozenset(chunk.chunk_id for chunk in record)
                self.holders.update(self.packs[name])
            return
        run_id = name.removeprefix("snapshots/")
        end = read_run_end(self.store, self.stage.index_keys, run_id)
        if isinstance(end, Snapshot):
            self.needs[run_id] = self._needed(end)
        elif run_id in self.needs:
            del self.needs[run_id]
            if run_id in self.committed and run_id not in self.doomed:
                self.steps.fail(f"snapshot {run_id} was acknowledged, and has become a tombstone")

    def _needed(self, snapshot: Snapshot) -> frozenset[bytes]:
        """What is in its list, and the pages of it."""
        index = ChunkIndex(keep_keys=True)
        for name in self.packs:
            index.add_pack(_directory(self.stage.index_keys, name, self.steps.objects[name]))
        source = ChunkSource(self.store, self.stage.index_keys, None, index)
        found = {snapshot.root}
        waiting = [(snapshot.list.level, snapshot.list.id)]
        while waiting:
            level, page = waiting.pop()
            found.add(page)
            if self.holders[page] <= 0:
                continue  # which is told
            children, records = read_list_page(source.fetch, level, page)
            waiting += [(level - 1, child) for child in children]
            found.update(chunk_id for _, chunk_id, _ in records)
        return frozenset(found)

    def acknowledge(self, run_id: str) -> None:
        """A commit has returned."""
        self.require(
            run_id not in self.late, f"the commit of {run_id} was acknowledged, and it had been removed before"
        )
        self.committed.add(run_id)

    def require_whole(self, run_id: str) -> None:
        """A snapshot that can be seen, and was not removed, has all of its chunks."""
        missing = [chunk for chunk in self.needs.get(run_id, ()) if self.holders[chunk] <= 0]
        if missing and run_id not in self.removed():
            self.steps.fail(f"snapshot {run_id} can be seen, and {len(missing)} of its chunks are in no pack")

    def removed(self) -> set[str]:
        """The snapshots that are gone on purpose, as the log says."""
        return LogState.of(LogReader(self.store, self.stage.index_keys).read()).removed

    def require(self, condition: object, text: str) -> None:
        if not condition:
            self.steps.fail(text)


@lru_cache(4_096)
def _directory(keys: IndexKeys, name: str, content: bytes) -> PackRecord:
    """What a pack says of itself."""
    return read_directory(MemoryObjects({name: content}), keys, bytes.fromhex(name[6:]), len(content))
