"""The repository: a deduplicated, compressed, encrypted store of snapshots. docs/format.md specifies it."""

from holdfast_server.repository.browsing import BrowsingIndex
from holdfast_server.repository.check import (
    BackupDamage,
    CheckLevel,
    CheckReport,
    CheckWatch,
    Damage,
    check_repository,
    check_snapshot,
)
from holdfast_server.repository.compact import CompactReport, compact_repository
from holdfast_server.repository.config import MAX_CONFIG
from holdfast_server.repository.config_repair import config_of, restore_config
from holdfast_server.repository.content_keys import ContentKeys
from holdfast_server.repository.counting import ChunkCounts, count_chunks
from holdfast_server.repository.entries import Entry, EntryFlag, EntryKind, encode_entry
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.format import LARGE_FILE
from holdfast_server.repository.history import DamagedSnapshot, History, read_history
from holdfast_server.repository.key_changes import (
    KeySlots,
    NewEpoch,
    add_slot,
    begin_epoch,
    key_slots,
    lacking_keys,
    remove_slot,
)
from holdfast_server.repository.keys import RepositoryKeys
from holdfast_server.repository.log import LogHead, LogVector
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.prune import PruneReport, prune_repository
from holdfast_server.repository.read_ahead import Blocks, ReadAhead
from holdfast_server.repository.reader import Hole, SnapshotReader
from holdfast_server.repository.removal import MaintenanceWatch
from holdfast_server.repository.repair import KnownBackup, RepairReport, repair_repository
from holdfast_server.repository.repository import (
    Created,
    Repository,
    RepositoryCounts,
    create_repository,
    open_from_slots,
    stated_id,
)
from holdfast_server.repository.root import MAX_PROBLEMS, RootInfo, RootProblem, SourceAttributes, encode_root
from holdfast_server.repository.run_marks import end_dead_runs
from holdfast_server.repository.runs import RunKind, end_reading_run
from holdfast_server.repository.sessions import (
    BackupRun,
    ReadingRun,
    bury_run,
    remove_snapshots,
    settle_run,
    take_back_run,
    tell_of_snapshot,
)
from holdfast_server.repository.slots import NewSlot, SlotInfo, SlotKind
from holdfast_server.repository.snapshots import Snapshot, SnapshotCounts
from holdfast_server.repository.tails import Encryption, encode_extras, folder_tail, link_tail
from holdfast_server.repository.tree import TreeRoot
from holdfast_server.repository.writer import SnapshotWriter, StoredContent, Written

__all__ = [
    "LARGE_FILE",
    "MAX_CONFIG",
    "MAX_PROBLEMS",
    "BackupDamage",
    "BackupRun",
    "Blocks",
    "BrowsingIndex",
    "CheckLevel",
    "CheckReport",
    "CheckWatch",
    "ChunkSource",
    "ChunkCounts",
    "CompactReport",
    "ContentKeys",
    "Created",
    "Damage",
    "DamagedSnapshot",
    "Encryption",
    "Entry",
    "EntryFlag",
    "EntryKind",
    "History",
    "Hole",
    "KnownBackup",
    "KeySlots",
    "LogHead",
    "LogState",
    "LogVector",
    "MaintenanceWatch",
    "NewEpoch",
    "NewSlot",
    "PruneReport",
    "ReadAhead",
    "ReadingRun",
    "RepairReport",
    "Repository",
    "RepositoryCounts",
    "RepositoryKeys",
    "RootInfo",
    "RootProblem",
    "RunKind",
    "SlotInfo",
    "SlotKind",
    "Snapshot",
    "SnapshotCounts",
    "SnapshotReader",
    "SnapshotWriter",
    "SourceAttributes",
    "StoredContent",
    "TreeRoot",
    "Written",
    "add_slot",
    "begin_epoch",
    "bury_run",
    "check_repository",
    "check_snapshot",
    "compact_repository",
    "config_of",
    "count_chunks",
    "create_repository",
    "encode_entry",
    "encode_extras",
    "encode_root",
    "end_dead_runs",
    "end_reading_run",
    "folder_tail",
    "key_slots",
    "lacking_keys",
    "link_tail",
    "open_from_slots",
    "prune_repository",
    "read_history",
    "remove_slot",
    "remove_snapshots",
    "repair_repository",
    "restore_config",
    "settle_run",
    "stated_id",
    "take_back_run",
    "tell_of_snapshot",
]
