"""Small repositories for tests, built chunk by chunk, and a model of what each file of each snapshot needs.

The model is kept while the repository is written and knows nothing of how one is read: which packs hold a chunk and
where, which chunks a file or a page of the tree needs. So it says what is lost when a byte or an object is.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import zstandard

from holdfast_server.errors import DataLoss
from holdfast_server.repository import (
    ContentKeys,
    EntryKind,
    NewSlot,
    Repository,
    RepositoryKeys,
    RootInfo,
    RunKind,
    SlotKind,
    Snapshot,
    SnapshotCounts,
    SnapshotReader,
    SourceAttributes,
    create_repository,
    encode_root,
)
from holdfast_server.repository.check import CheckLevel, CheckReport, CheckWatch, check_repository
from holdfast_server.repository.crypto import IndexKeys, Segment
from holdfast_server.repository.entries import (
    EntryFlag,
    decode_entries,
    encode_entry,
    file_tail,
    folder_tail,
    link_tail,
)
from holdfast_server.repository.extents import encode_extent
from holdfast_server.repository.facts import Committed, Fact, Removed
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.format import TIER_OF, ChunkType, Tier, snapshot_name
from holdfast_server.repository.index import load_index, write_index
from holdfast_server.repository.lists import ListRoot, ListWriter
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.repository.packs import Message, PackBuilder, PackRecord
from holdfast_server.repository.runs import begin_run
from holdfast_server.repository.snapshots import end_run_as
from holdfast_server.repository.tree import TreeWriter
from holdfast_server.storage.objects import MemoryObjects, ObjectStore

__all__ = ["KEY_FILE", "NOW", "Lost", "Made", "Seen", "SmallRepository", "check", "read_all"]

KEY_FILE = "the same secret opens every repository of these tests"
NOW = 1_800_000_000_000_000


@dataclass
class Made:
    """A snapshot as the model knows it. `files` are the chunks that each file or link needs beside its tree page,
    `pages` the paths in each page of level 0 of the tree, `higher` the pages above."""

    snapshot: Snapshot
    contents: dict[bytes, bytes]
    files: dict[bytes, set[bytes]]
    pages: dict[bytes, list[bytes]]
    higher: list[bytes]
    listed: set[bytes]
    list_pages: set[bytes]


@dataclass
class Lost:
    """What the model says, or a check has found, to be lost of one snapshot."""

    whole: bool = False
    chunks: int = 0
    files: set[bytes] = field(default_factory=set)
    unnamed: int = 0


class SmallRepository:
    """A repository in memory. `per_pack` is how many chunks go into a pack at most."""

    def __init__(self, *, sealed: bool = False, per_pack: int = 1_000, seed: int = 0) -> None:
        self.store = MemoryObjects()
        self._random = random.Random(seed)
        made = create_repository(
            self.store,
            sealed=sealed,
            slots=[NewSlot(SlotKind.KEY_FILE, KEY_FILE, "key")],
            compression_level=3,
            now_us=NOW,
        )
        assert made.keys.content is not None
        self.keys: RepositoryKeys = made.keys
        self.content: ContentKeys = made.keys.content
        self.fingerprint = made.fingerprint
        self.repository = Repository.open(self.store, made.keys, made.fingerprint)
        self.index_keys: IndexKeys = self.repository.index_keys
        self.made: list[Made] = []
        self.packs: dict[bytes, PackRecord] = {}
        #: Those that no index object lists.
        self.unindexed: set[bytes] = set()
        self._per_pack = per_pack
        #: The type of each chunk.
        self.kinds: dict[bytes, ChunkType] = {}
        self._messages: list[Message] = []
        self._segments = {
            Tier.CONTENT: Segment.new_content(self.content.public(1), self.index_keys.uuid),
            Tier.INDEX: Segment.new_index(self.index_keys),
        }
        self._numbers = dict.fromkeys(Tier, 0)

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(
        self,
        files: Mapping[bytes, Sequence[bytes]],
        *,
        links: Mapping[bytes, bytes] | None = None,
        paged: bool = False,
        indexed: bool = True,
        stretch: int = 0,
        wrong_digests: bool = False,
    ) -> Made:
        """Commit a snapshot of files, each given as the chunks of its content, and of hard links to them.

        Files are in the source itself; `paged` keeps all extents in pages; without `indexed` no index object is put,
        as if the run had died before. Writers with a defect: with `stretch` each extent is so much longer than its
        chunk, with `wrong_digests` small files have the digests of other content.
        """
        needs: dict[bytes, set[bytes]] = {}
        pages: dict[bytes, list[bytes]] = {}
        higher: list[bytes] = []
        used: dict[bytes, tuple[ChunkType, int]] = {}

        def keep(kind: ChunkType, content: bytes) -> bytes:
            chunk_id = self.put_chunk(kind, content)
            if kind is not ChunkType.LIST:
                used[chunk_id] = kind, len(content)
            return chunk_id

        def keep_tree(page: bytes) -> bytes:
            chunk_id = keep(ChunkType.TREE, page)
            if page[0]:
                higher.append(chunk_id)
            else:
                pages[chunk_id] = [entry.path for entry in decode_entries(page, "a page")]
            return chunk_id

        tree = TreeWriter(keep_tree)
        entries: dict[bytes, bytes] = {}
        for name, pieces in files.items():
            entries[name], needs[name] = self._file(
                name, pieces, keep, paged=paged, stretch=stretch, wrong_digests=wrong_digests
            )
        for name, target in (links or {}).items():
            entries[name] = encode_entry(EntryKind.HARDLINK, 0, 0o600, 0, 0, 0, name, link_tail(target))
            needs[name] = needs[target]
        entries[b"~folder"] = encode_entry(EntryKind.DIRECTORY, 0, 0o700, 0, 0, 0, b"~folder", folder_tail())
        needs[b"~folder"] = set()
        for name in sorted(entries):
            tree.add(b"", name, entries[name])
        root = encode_root(RootInfo(SourceAttributes(0o700, 0, 0, 0), tree.finish()))
        root_id = keep(ChunkType.ROOT, root)
        list_pages: set[bytes] = set()

        def keep_list(page: bytes) -> bytes:
            list_pages.add(keep(ChunkType.LIST, page))
            return self.index_keys.chunk_id(ChunkType.LIST, page)

        lists = ListWriter(keep_list)
        for chunk_id, (kind, live) in used.items():
            lists.add(kind, chunk_id, live)
        size = sum(len(piece) for pieces in files.values() for piece in pieces)
        counts = SnapshotCounts(files=len(files), directories=1, hardlinks=len(links or {}), bytes=size)
        snapshot = self._snapshot(counts, lists.finish(), root_id)
        self.flush(indexed=indexed)
        self.commit(snapshot)
        contents = {name: b"".join(pieces) for name, pieces in files.items()}
        made = Made(snapshot, contents, needs, pages, higher, set(used), list_pages)
        self.made.append(made)
        return made

    def put_chunk(self, kind: ChunkType, content: bytes, *, again: bool = False) -> bytes:
        """Encrypt a chunk for the next packs, unless it is known; `again`: another copy, as a second writer stores."""
        chunk_id = self.index_keys.chunk_id(kind, content)
        if chunk_id in self.kinds and not again:
            return chunk_id
        self.kinds[chunk_id] = kind
        tier = TIER_OF[kind]
        number = self._numbers[tier]
        self._numbers[tier] += 1
        frame = zstandard.compress(content)
        body = frame if len(frame) < len(content) else content
        out = bytearray(len(body) + 16)
        segment = self._segments[tier]
        segment.encrypt_into(kind, number, chunk_id, body, memoryview(out))
        check = self.index_keys.check_of(out)
        self._messages.append(Message(chunk_id, kind, segment, number, len(content), out, check, b""))
        return chunk_id

    def flush(self, *, indexed: bool = True) -> list[PackRecord]:
        """Put what waits into packs, in no particular order."""
        self._random.shuffle(self._messages)
        records = []
        for at in range(0, len(self._messages), self._per_pack):
            builder = PackBuilder(self.index_keys)
            for message in self._messages[at : at + self._per_pack]:
                builder.add(message)
            record, parts = builder.finish()
            self.store.put(record.name, parts)
            self.packs[record.pack_id] = record
            records.append(record)
        self._messages = []
        if indexed:
            write_index(self.store, self.index_keys, records)
        else:
            self.unindexed.update(record.pack_id for record in records)
        return records

    def commit(self, snapshot: Snapshot) -> None:
        assert end_run_as(self.store, self.index_keys, snapshot)
        self.log(Committed(snapshot.run_id))

    def remove(self, made: Made) -> None:
        """Remove a snapshot on purpose."""
        self.log(Removed((made.snapshot.run_id,)))
        self.store.delete(snapshot_name(made.snapshot.run_id))
        self.made.remove(made)

    def log(self, *facts: Fact) -> None:
        vector = LogReader(self.store, self.index_keys).read().vector
        LogWriter(self.store, self.index_keys, self.keys.writer, vector).append(facts, NOW)

    def begin(self, kind: RunKind = RunKind.RESTORE) -> str:
        """A run under way; gives the object's name."""
        run_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        begin_run(self.store, self.index_keys, run_id, kind, writer_id=self.keys.writer.writer_id, now_us=NOW)
        return f"runs/{run_id}"

    def _snapshot(self, counts: SnapshotCounts, listed: ListRoot, root: bytes) -> Snapshot:
        return Snapshot(
            run_id=str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            name="a backup",
            locked=False,
            source_id="source",
            source_kind="DIRECTORY",
            source_display_name="Source",
            create_us=NOW,
            complete_us=NOW,
            counts=counts,
            stored_size=0,
            complete=True,
            list=listed,
            root=root,
            writer_id=self.keys.writer.writer_id,
            software="tests",
        )

    def _file(
        self,
        name: bytes,
        pieces: Sequence[bytes],
        keep: Callable[[ChunkType, bytes], bytes],
        *,
        paged: bool,
        stretch: int,
        wrong_digests: bool,
    ) -> tuple[bytes, set[bytes]]:
        needs: set[bytes] = set()
        extents = b""
        for piece in pieces:
            chunk_id = keep(ChunkType.DATA, piece)
            needs.add(chunk_id)
            extents += encode_extent(chunk_id, 0, len(piece) + stretch)
        flags, references = 0, extents
        if paged and pieces:
            references, flags = keep(ChunkType.EXTENTS, extents), int(EntryFlag.PAGED)
            needs.add(references)
        digest = None
        if len(pieces) == 1 and not paged:
            digest, flags = self.index_keys.small_digest(pieces[0] + b"!" * wrong_digests), int(EntryFlag.DIGEST)
        size = sum(len(piece) + stretch for piece in pieces)
        tail = file_tail(size, digest, references, paged=bool(flags & EntryFlag.PAGED))
        return encode_entry(EntryKind.FILE, flags, 0o600, 0, 0, 0, name, tail), needs

    # -- the model --------------------------------------------------------------------------------------------------

    def lost(self, bad: Mapping[bytes, set[bytes]]) -> dict[str, Lost]:
        """What each snapshot has lost when these chunks, by pack, cannot be read any more."""
        good = {
            chunk.chunk_id
            for pack_id, record in self.packs.items()
            for chunk in record
            if chunk.chunk_id not in bad.get(pack_id, ())
        }
        found = {}
        for made in self.made:
            lost = self._lost_of(made, good)
            if lost != Lost():
                found[made.snapshot.run_id] = lost
        return found

    def _lost_of(self, made: Made, good: set[bytes]) -> Lost:
        lost = Lost(chunks=len(made.listed - good))
        if made.list_pages - good:
            # All lists of these tests have one page; what it lists is not known without it.
            lost.chunks = 1
        if made.snapshot.root not in good:
            return Lost(True, lost.chunks, set(), len(made.files))
        gone_above = set(made.higher) - good
        assert len(made.higher) <= 1
        for page, paths in made.pages.items():
            if gone_above or page not in good:
                lost.unnamed += len(paths)
                continue
            lost.files |= {path for path in paths if made.files[path] - good}
        return lost


class Seen(CheckWatch):
    """Keeps what a check tells."""

    def __init__(self) -> None:
        self.files: dict[str, set[bytes]] = {}

    def lost(self, run_id: str, path: bytes) -> None:
        paths = self.files.setdefault(run_id, set())
        assert path not in paths
        paths.add(path)

    def all(self, report: CheckReport) -> dict[str, Lost]:
        """What was found to be lost, as the model says it."""
        return {
            one.run_id: Lost(one.whole, one.chunks, self.files.get(one.run_id, set()), one.unnamed)
            for one in report.backups_damaged
        }


def check(
    made: SmallRepository,
    level: CheckLevel,
    store: ObjectStore | None = None,
    *,
    watch: CheckWatch | None = None,
    percent: float = 100.0,
    cursor: str = "",
) -> CheckReport:
    """Check a repository, or another store as if it were its own, with its keys."""
    return check_repository(
        made.store if store is None else store, made.keys, level, now=lambda: NOW, fingerprint=made.fingerprint,
        content=made.content, percent=percent, cursor=cursor, watch=watch,
    )  # fmt: skip


def read_all(made: SmallRepository, store: ObjectStore, one: Made) -> dict[bytes, bytes | Exception]:
    """Each file of a snapshot as a reader gives it, or the error."""
    loaded = load_index(store, made.index_keys, keep_keys=True, check=lambda: None)
    reader = SnapshotReader(ChunkSource(store, made.index_keys, made.content, loaded.chunks).fetch, one.snapshot)
    found: dict[bytes, bytes | Exception] = {}
    try:
        entries = list(reader.salvage(lambda _: None))
    except DataLoss as error:
        return dict.fromkeys(one.contents, error)
    for entry in entries:
        if entry.kind is not EntryKind.FILE:
            continue
        try:
            found[entry.path] = b"".join(block for block in reader.blocks(entry) if isinstance(block, bytes))
        except DataLoss as error:
            found[entry.path] = error
    return found
