"""Checking the small objects of a repository: config, key slots, runs, snapshots and the log."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from holdfast_server.errors import DataLoss, FailedPrecondition, Unavailable
from holdfast_server.repository.check_report import Findings
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.facts import Checkpoint, Fact, Superseded
from holdfast_server.repository.format import CONFIG_NAME, SEALED_OBJECT_MAX, is_object_id, log_name, snapshot_name
from holdfast_server.repository.json_object import is_run_id
from holdfast_server.repository.keys import RepositoryKeys
from holdfast_server.repository.log import LogEntry, LogHead, LogReader
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.runs import Run
from holdfast_server.repository.slots import MAX_SLOT, Slot
from holdfast_server.repository.snapshots import Snapshot, Tombstone, read_run_end
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["check_config", "check_log", "check_runs", "check_slots", "check_snapshot_object"]

#: How often a log is listed anew that changes while it is listed.
_LISTS: Final = 20
_LOG_NAME: Final = re.compile(r"log/([0-9a-f]{32})/([0-9]{16})")


def check_config(
    store: ObjectStore, keys: RepositoryKeys, fingerprint: bytes | None, findings: Findings
) -> bool | None:
    """Check the config; gives whether the repository is sealed, None when the config cannot say so.

    Raises FailedPrecondition when it is that of another repository or of another version, and
    Unavailable/STORAGE_UNREACHABLE when there is no repository at all.
    """
    findings.report.objects += 1
    try:
        return Repository.open(store, keys, fingerprint).config.sealed
    except DataLoss as error:
        findings.error(CONFIG_NAME, error)
    except Unavailable as error:
        if error.metadata.get("object") != CONFIG_NAME or next(iter(store.list("")), None) is None:
            raise
        findings.damage(CONFIG_NAME, "it is gone")
    return None


def check_slots(
    store: ObjectStore, keys: IndexKeys, *, sealed: bool, findings: Findings, removed: Collection[str] = ()
) -> None:
    """Check the key slots as far as it can be done without their secrets; those in `removed` do not matter."""
    own = broken = 0
    for info in store.list("keys/"):
        slot_id = info.name.removeprefix("keys/")
        if not is_object_id(slot_id) or slot_id in removed:
            continue
        try:
            slot = Slot(info.name, store.get(info.name, 0, MAX_SLOT + 1))
            # A creation that was interrupted leaves slots of a repository that never was.
            if slot.uuid == keys.uuid:
                slot.info(keys)
                own += 1
        except ObjectMissing:
            continue
        except (DataLoss, FailedPrecondition) as error:
            findings.error(info.name, error)
            broken += 1
        findings.report.objects += 1
    if sealed and not own and not broken:
        findings.damage("keys/", "no key slot is left of a sealed repository: nobody can open it any more")


def check_runs(store: ObjectStore, keys: IndexKeys, findings: Findings) -> None:
    """Check the runs under way; they come and go."""
    for info in store.list("runs/"):
        if not is_run_id(info.name.removeprefix("runs/")):
            continue
        try:
            Run.decode(info.name, keys.open(info.name, store.get(info.name, 0, SEALED_OBJECT_MAX + 1)))
        except ObjectMissing:
            continue
        except (DataLoss, FailedPrecondition) as error:
            findings.error(info.name, error)
        findings.report.objects += 1


def check_snapshot_object(
    store: ObjectStore, keys: IndexKeys, run_id: str, findings: Findings
) -> Snapshot | Tombstone | None:
    """How a run ended; None when its object is damaged, which is told, or is not there."""
    name = snapshot_name(run_id)
    try:
        end = read_run_end(store, keys, run_id)
    except (DataLoss, FailedPrecondition) as error:
        findings.report.objects += 1
        findings.error(name, error)
        findings.backup(run_id).whole = True
        return None
    if end is not None:
        findings.report.objects += 1
    return end


def check_log(store: ObjectStore, keys: IndexKeys, known: Mapping[bytes, LogHead], findings: Findings) -> LogState:
    """Check every entry and each writer's chain. `known` are the newest entries that were ever seen."""
    check = _LogCheck(store, keys, findings)
    listed = _listed_entries(store)
    # A list may show neither what is written meanwhile nor what goes with it.
    for _ in range(_LISTS):
        again = _listed_entries(store)
        if again == listed:
            break
        listed = again
    for writer, sequences in sorted(listed.items()):
        check.chain(writer, sequences)
    for writer, head in known.items():
        check.tell(writer, head, "it was there before")
    check.compare(listed)
    return check.state


def _listed_entries(store: ObjectStore) -> dict[bytes, set[int]]:
    listed: dict[bytes, set[int]] = {}
    for info in store.list("log/"):
        found = _LOG_NAME.fullmatch(info.name)
        if found and int(found[2]):
            listed.setdefault(bytes.fromhex(found[1]), set()).add(int(found[2]))
    return listed


class _LogCheck:
    def __init__(self, store: ObjectStore, keys: IndexKeys, findings: Findings) -> None:
        self._reader = LogReader(store, keys)
        self._store = store
        self._findings = findings
        self.state = LogState()
        self._superseded: dict[bytes, int] = {}
        #: The hash of each entry that opened, or that the next one names, by writer and sequence.
        self._hashes: dict[tuple[bytes, int], bytes] = {}
        #: The newest entry of each writer that opened.
        self._newest: dict[bytes, int] = {}
        #: Entries that others tell of: by writer and sequence each hash that is told, and by whom.
        self._told: dict[tuple[bytes, int], dict[bytes, str]] = {}
        #: What is wrong with an entry, unless it turns out not to be needed.
        self._broken: dict[tuple[bytes, int], str] = {}

    def chain(self, writer: bytes, sequences: set[int]) -> None:
        """Check the entries of one writer from the newest down to the one that needs none before it."""
        after: LogEntry | None = None
        needed = True
        above = 0
        for sequence in (*sorted(sequences, reverse=True), 0):
            # Only one that opened proves that there were others before it: anybody can make up a name.
            if needed and writer in self._newest and above - sequence > 1:
                self._tell_gap(writer, above - 1, sequence)
                after = None
            above = sequence
            if not sequence:
                break
            entry = self._entry(writer, sequence, needed=needed)
            if entry is not None:
                self._newest.setdefault(writer, sequence)
                if after is not None and after.previous != entry.hash and needed:
                    self._broken[writer, sequence] = "it is not the entry that the next one follows"
                if entry.previous is not None:
                    self._hashes[writer, sequence - 1] = entry.previous
            after = entry
            needed = needed and not (entry is not None and entry.is_checkpoint)

    def _tell_gap(self, writer: bytes, newest: int, before: int) -> None:
        for sequence in range(newest, before, -1):
            self._broken[writer, sequence] = "it is gone, and later entries of its writer follow"

    def _entry(self, writer: bytes, sequence: int, *, needed: bool) -> LogEntry | None:
        name = log_name(writer, sequence)
        try:
            entry = self._reader.entry(writer, sequence)
        except (DataLoss, FailedPrecondition) as error:
            # What comes before a checkpoint may be deleted at any time.
            if needed or self._is_there(name):
                self._findings.report.objects += 1
                self._broken[writer, sequence] = str(error.metadata.get("detail", error.message))
            return None
        self._findings.report.objects += 1
        self._hashes[writer, sequence] = entry.hash
        for other, head in entry.seen.items():
            self.tell(other, head, f"{name} tells of it")
        if needed:
            self._add(entry.facts)
        return entry

    def _add(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, Checkpoint):
                self._add(one.fact for one in fact.facts)
            elif isinstance(fact, Superseded):
                self._superseded[fact.writer_id] = max(self._superseded.get(fact.writer_id, 0), fact.sequence)
            else:
                self.state.add(fact)

    def tell(self, writer: bytes, head: LogHead, who: str) -> None:
        """There must be such an entry, or a later one."""
        self._told.setdefault((writer, head.sequence), {})[head.hash] = who

    def compare(self, listed: Mapping[bytes, Collection[int]]) -> None:
        """Tell what is broken, and what others tell of and is not there; `listed` are the sequences in the store, by
        writer."""
        cut = {writer for writer in {writer for writer, _ in self._broken} if self._is_cut(writer)}
        for (writer, sequence), detail in self._broken.items():
            if sequence > self._superseded.get(writer, 0) and writer not in cut:
                self._findings.damage(log_name(writer, sequence), detail)
        for (writer, sequence), told in self._told.items():
            if sequence <= self._superseded.get(writer, 0):
                continue
            name, found = log_name(writer, sequence), self._hashes.get((writer, sequence))
            for digest, who in told.items():
                if sequence > self._newest.get(writer, 0) and sequence not in listed.get(writer, ()):
                    detail = f"it is gone, and all that its writer wrote later; {who}"
                elif found is not None and found != digest:
                    detail = f"it is another entry than the one that was there; {who}"
                else:
                    continue
                self._findings.damage(name, detail)
                self._findings.report.rolled_back = True

    def _is_cut(self, writer: bytes) -> bool:
        """Whether a checkpoint was written since the chain was read, so that what lay before it may be gone."""
        try:
            log = self._reader.read()
        except DataLoss:
            return False
        return bool(log.entries.get(writer)) and log.vector[writer].sequence > self._newest.get(writer, 0)

    def _is_there(self, name: str) -> bool:
        try:
            self._store.size(name)
        except ObjectMissing:
            return False
        return True
