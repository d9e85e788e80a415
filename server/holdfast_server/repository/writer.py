"""Writing a snapshot: what is new goes into packs, what is known is referred to (docs/format.md, "Order of writing").

The caller walks the source and hands over entries in the tree's order; content is taken in three ways: known from the
files cache, small (below 1 MiB, in memory), or large (read through a `Fill`). Small files that nobody has stored are
put into a stream that is cut between files; entries wait until the chunk that they refer to has an id.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from blake3 import blake3

from holdfast_server.repository.crypto import ContentPublicKey, IndexKeys
from holdfast_server.repository.cutting import Cutter, Fill
from holdfast_server.repository.entries import EntryFlag, EntryKind, encode_entry
from holdfast_server.repository.extents import EXTENT_SIZE, encode_extent, encode_extent_pages, encode_hole
from holdfast_server.repository.files_cache import FilesCacheReader, FilesCacheWriter
from holdfast_server.repository.format import CHUNK_MAX, CHUNK_MIN, ChunkType
from holdfast_server.repository.healing import Healing
from holdfast_server.repository.index import LoadedIndex, write_index
from holdfast_server.repository.lists import ListRoot, ListWriter
from holdfast_server.repository.sending import JobPool, PackSender
from holdfast_server.repository.small_files import SmallFiles
from holdfast_server.repository.tails import file_tail
from holdfast_server.repository.tree import TreeRoot, TreeWriter
from holdfast_server.repository.waste import NOTE_KEY, Repacking, too_small
from holdfast_server.storage.objects import ObjectStore

__all__ = ["SnapshotWriter", "StoredContent", "Written"]

_SMALL_TAIL: Final = struct.Struct("<Q16sI32sII")
_EXTENT: Final = struct.Struct("<32sII")
_EMPTY_TAIL: Final = file_tail(0, None, b"")
_COUNT: Final = struct.Struct("<I")
_NO_CHUNK: Final = bytes(32)
_DIGEST, _PAGED = int(EntryFlag.DIGEST), int(EntryFlag.PAGED)
_FILE: Final = int(EntryKind.FILE)

#: Small files of one chunk of the stream, at most.
_STREAM_FILES: Final = 16_384
#: Above the least size, the stream is cut after a file of n bytes with a chance of n in so many.
_STREAM_CHANCE: Final = 512 << 10


#: An entry that waits for those before it: folder, name, record, key and value of the files cache.
_Ready: TypeAlias = tuple[bytes, bytes, bytes, bytes | None, bytes]
#: A small file in the stream: folder, name, flags, mode, uid, gid, mtime, size, digest, offset, extras, key.
_Pending: TypeAlias = tuple[bytes, bytes, int, int, int, int, int, int, bytes, int, bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A large file's content, stored. `extents` are records; `chunks` the numbers of the chunks among them."""

    size: int
    extents: bytearray
    chunks: array[int]


@dataclass(frozen=True, slots=True)
class Written:
    """What a snapshot refers to. `stored_size`: bytes that were added to the store."""

    list: ListRoot
    root: bytes
    stored_size: int


class SnapshotWriter:
    """One source's snapshot on its way into the repository. For one thread; `close` in any case.

    `index` is what there is (`load_index` without keys). `cache_key` and `binding` belong to the source's files cache.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: IndexKeys,
        public: ContentPublicKey,
        level: int,
        index: LoadedIndex,
        open_small_files: Callable[[], SmallFiles],
        old_cache: FilesCacheReader,
        new_cache: FilesCacheWriter | None,
        pool: JobPool,
        check: Callable[[], None],
        on_stored: Callable[[int], None],
        repacking: Repacking | None = None,
        healing: Healing | None = None,
    ) -> None:
        """`repacking` says which small files are stored anew, `healing` has chunks that were lost."""
        self._healing = healing or None
        self._store = store
        self._keys = keys
        self._small_key = keys.small
        self._loaded = index
        self._index = index.chunks
        self._open_small_files = open_small_files
        self._small_files: SmallFiles | None = None
        self._lookup = old_cache.lookup if len(old_cache) else None
        self._new_cache = new_cache
        self._sender = PackSender(store, keys, public, level, pool, check, on_stored)
        seed = int.from_bytes(keys.derive(keys.uuid, b"holdfast repository 1 chunker")[:4], "little")
        self._cutter = Cutter(seed, self._sender.wait_for)
        self._tree = TreeWriter(lambda page: self.store_page(ChunkType.TREE, page))
        self._order = array("I")
        self._live = array("Q")
        #: Small files of the stream's open chunk: their content, records, and digests with offset.
        self._stream: list[bytes] = []
        self._stream_records: list[bytes] = []
        self._stream_offsets: dict[bytes, int] = {}
        self._stream_size = 0
        self._waiting: list[_Ready | _Pending] = []
        self._last_known: tuple[bytes, int] = (b"", -1)
        self._repacking = repacking or Repacking(index.chunks, b"")
        self._stale = self._repacking.numbers
        #: The chunks of small files that the snapshot needs.
        self._small_chunks: set[int] = set()
        #: Bytes of content that were not known.
        self.new_size = 0

    def close(self) -> None:
        """Stop; what is not durable by now is given up. Nothing to be done after `finish`."""
        self._sender.close()
        if self._new_cache is not None:
            self._new_cache.abort()

    # -- entries ------------------------------------------------------------------------------------------------

    def add_entry(self, folder: bytes, name: bytes, record: bytes) -> None:
        """Add an entry without content."""
        if self._waiting:
            self._waiting.append((folder, name, record, None, b""))
        else:
            self._tree.add(folder, name, record)

    def cached(self, key: bytes) -> tuple[int, bytes, bytes] | None:
        """(flags, tail, value) of a file that is as it was when it was stored, if all of its chunks are there."""
        if self._lookup is None or (value := self._lookup(key)) is None:
            return None
        flags = value[0]
        end = self._refer(flags, value)
        return None if end < 0 else (flags, value[1:end], value)

    def add_cached(self, folder: bytes, name: bytes, record: bytes, key: bytes, value: bytes) -> None:
        """Add a file that `cached` knew; `record` is made of its flags and tail."""
        if self._waiting:
            self._waiting.append((folder, name, record, key, value))
            return
        self._tree.add(folder, name, record)
        if self._new_cache is not None:
            self._new_cache.add(key, value)

    def add_small(
        self, folder: bytes, name: bytes, flags: int, mode: int, uid: int, gid: int, mtime_ns: int,
        content: bytes, rest: bytes, key: bytes | None,
    ) -> None:  # fmt: skip
        """Add a file below 4 MiB. `rest` follows the extents in its tail; `key` is that of the files cache, None when
        the content may not be what the attributes say."""
        size = len(content)
        if not size:
            self._add_file(folder, name, flags, mode, uid, gid, mtime_ns, _EMPTY_TAIL + rest, key)
            return
        digest = blake3(content, key=self._small_key).digest(16)
        flags |= _DIGEST
        if self._healing is not None:
            self._heal(digest, content)
        offset = self._stream_offsets.get(digest)
        if offset is None:
            known = self._known_small(digest, size)
            if known is not None:
                number, chunk_id, offset = known
                self._use(number, size)
                tail = _SMALL_TAIL.pack(size, digest, 1, chunk_id, offset, size) + rest
                self._add_file(folder, name, flags, mode, uid, gid, mtime_ns, tail, key)
                return
            if self._stream_size + size > CHUNK_MAX:
                self._cut_stream()
            offset = self._stream_size
            self._stream.append(content)
            self._stream_records.append(digest + size.to_bytes(4, "little"))
            self._stream_offsets[digest] = offset
            self._stream_size = offset + size
            self.new_size += size
        self._waiting.append((folder, name, flags, mode, uid, gid, mtime_ns, size, digest, offset, rest, key))
        if self._stream_size >= CHUNK_MIN and (
            int.from_bytes(digest[:4], "little") * _STREAM_CHANCE < size << 32
            or len(self._stream_records) >= _STREAM_FILES
        ):
            self._cut_stream()

    def store_content(self, fill: Fill) -> StoredContent:
        """Store a large file's content. It counts only once it was added."""
        extents, chunks, size = bytearray(), array("I"), 0
        for piece in self._cutter.pieces(fill):
            size += piece.length
            if piece.content is None:
                extents += encode_hole(piece.length)
                continue
            chunk_id = blake3(piece.content, key=self._keys.id_keys[ChunkType.DATA]).digest()
            number = self._index.find(chunk_id)
            if number < 0:
                piece.hold()
                number = self._index.add_new(chunk_id, ChunkType.DATA, piece.length)
                self.new_size += piece.length
                self._sender.send(ChunkType.DATA, chunk_id, piece.content, done=piece.release)
            extents += encode_extent(chunk_id, 0, piece.length)
            chunks.append(number)
        return StoredContent(size, extents, chunks)

    def add_large(
        self, folder: bytes, name: bytes, flags: int, mode: int, uid: int, gid: int, mtime_ns: int,
        stored: StoredContent, rest: bytes, key: bytes | None,
    ) -> None:  # fmt: skip
        """Add a file whose content was stored."""
        for number in stored.chunks:
            self._use(number, self._index.raw_length(number))
        extents, shown = bytes(stored.extents), b""
        records = (extents[at : at + EXTENT_SIZE] for at in range(0, len(extents), EXTENT_SIZE))
        references, paged = encode_extent_pages(records, lambda page: self.store_page(ChunkType.EXTENTS, page))
        if paged:
            flags, shown = flags | _PAGED, extents
        tail = file_tail(stored.size, None, references, paged=paged) + rest
        # What lies behind the tail is for the cache alone: without a content key no extent page can be read again.
        self._add_file(folder, name, flags, mode, uid, gid, mtime_ns, tail, key, shown)

    def store_page(self, kind: ChunkType, content: bytes) -> bytes:
        """Store a chunk of metadata; gives its id."""
        chunk_id = self._keys.chunk_id(kind, content)
        number = self._index.find(chunk_id)
        if number < 0:
            number = self._index.add_new(chunk_id, kind, len(content))
            self._sender.send(kind, chunk_id, content)
        if kind is not ChunkType.LIST:
            self._use(number, len(content))
        return chunk_id

    # -- the end ------------------------------------------------------------------------------------------------

    def finish(self, encode_root: Callable[[TreeRoot | None], bytes]) -> Written:
        """Make all of it durable. Raises what the store raises; then nothing refers to what was stored."""
        self._cut_stream()
        root = self.store_page(ChunkType.ROOT, encode_root(self._tree.finish()))
        lists = ListWriter(lambda page: self.store_page(ChunkType.LIST, page))
        index, live = self._index, self._live
        for number in self._order:
            kind = ChunkType(index.kind(number))
            lists.add(kind, index.chunk_id(number), min(live[number], index.raw_length(number)))
        top = lists.finish()
        if self._new_cache is not None:
            note = too_small((index.raw_length(number), index.chunk_id(number)) for number in self._small_chunks)
            if note:
                self._new_cache.add(NOTE_KEY, note)
        self._sender.flush()
        written, size = write_index(self._store, self._keys, [*self._loaded.adopted, *self._sender.records])
        self._loaded.index_ids.update(written)
        return Written(top, root, self._sender.stored_size + size)

    def keep_cache(self) -> None:
        """The snapshot is committed: its files need not be read again."""
        if self._new_cache is not None:
            self._new_cache.commit()
            self._new_cache = None

    def _heal(self, digest: bytes, content: bytes) -> None:
        """Store the lost chunks again that are complete with this small file."""
        for healed in self._healing.offer(digest, content) if self._healing else ():
            if self._index.find(healed.chunk_id) < 0:
                self._index.add_new(healed.chunk_id, ChunkType.DATA, len(healed.content))
                self._sender.send(ChunkType.DATA, healed.chunk_id, healed.content, healed.small_files)

    # -- inside -------------------------------------------------------------------------------------------------

    def _add_file(
        self, folder: bytes, name: bytes, flags: int, mode: int, uid: int, gid: int, mtime_ns: int,
        tail: bytes, key: bytes | None, for_cache: bytes = b"",
    ) -> None:  # fmt: skip
        record = encode_entry(_FILE, flags, mode, uid, gid, mtime_ns, name, tail)
        value = b"" if key is None else _cache_value(flags, tail, for_cache)
        if self._waiting:
            self._waiting.append((folder, name, record, key, value))
            return
        self._tree.add(folder, name, record)
        if key is not None and self._new_cache is not None:
            self._new_cache.add(key, value)

    def _cut_stream(self) -> None:
        """Close the stream's chunk, and let the entries go that waited for it."""
        chunk_id, number = b"", -1
        if self._stream:
            content = b"".join(self._stream)
            chunk_id = blake3(content, key=self._keys.id_keys[ChunkType.DATA]).digest()
            number = self._index.find(chunk_id)
            if number < 0:
                number = self._index.add_new(chunk_id, ChunkType.DATA, len(content))
                self._sender.send(ChunkType.DATA, chunk_id, content, b"".join(self._stream_records))
            self._known_files().remember_all(chunk_id[:16], self._stream_offsets, map(len, self._stream))
            self._stream, self._stream_records, self._stream_offsets = [], [], {}
            self._stream_size = 0
        waiting, self._waiting = self._waiting, []
        add, cache = self._tree.add, self._new_cache
        pack_tail = _SMALL_TAIL.pack
        used = 0
        for item in waiting:
            if len(item) == 5:
                folder, name, record, key, value = item
            else:
                folder, name, flags, mode, uid, gid, mtime_ns, size, digest, offset, rest, key = item
                tail = pack_tail(size, digest, 1, chunk_id, offset, size) + rest
                record = encode_entry(_FILE, flags, mode, uid, gid, mtime_ns, name, tail)
                value = bytes((flags,)) + tail
                used += size
            add(folder, name, record)
            if key is not None and cache is not None:
                cache.add(key, value)
        if used:
            self._use(number, used)
            self._small_chunks.add(number)

    def _known_files(self) -> SmallFiles:
        """The small-file table, opened when it is first needed."""
        if self._small_files is None:
            self._small_files = self._open_small_files()
        return self._small_files

    def _known_small(self, digest: bytes, size: int) -> tuple[int, bytes, int] | None:
        """(chunk's number, its id, offset) of a small file that is stored, in a chunk that is there."""
        table = self._small_files or self._known_files()
        found = table.lookup(digest)
        if found is None:
            return None
        index = self._index
        places = (
            (index.find(one.chunk), one.offset)
            for one in chain((found,), table.lookup_all(digest))
            if one.length == size
        )
        chosen = self._repacking.choose(
            (number, at) for number, at in places if number >= 0 and at + size <= index.raw_length(number)
        )
        if chosen is None:
            return None
        number, offset = chosen
        self._small_chunks.add(number)
        return number, index.chunk_id(number), offset

    def _refer(self, flags: int, value: bytes) -> int:
        """Count what a cached file refers to; gives where its tail ends, or -1 when something of it is not there."""
        at = 25 if flags & _DIGEST else 9
        (count,) = _COUNT.unpack_from(value, at)
        at += 4
        if count == 1 and not flags & _PAGED:
            chunk_id, _, length = _EXTENT.unpack_from(value, at)
            known, number = self._last_known
            if chunk_id != known:
                number = self._index.find(chunk_id)
                if number < 0 or number in self._stale:
                    return len(value) if chunk_id == _NO_CHUNK else -1
                self._last_known = chunk_id, number
                if flags & _DIGEST:
                    self._small_chunks.add(number)
            self._use(number, length)
            return len(value)
        return self._refer_many(flags, value, at, count)

    def _refer_many(self, flags: int, value: bytes, at: int, count: int) -> int:
        end, pages = len(value), array("I")
        first, last = at, at + 40 * count
        if flags & _PAGED:
            for page in range(count):
                number = self._index.find(value[at + 32 * page : at + 32 * page + 32])
                if number < 0:
                    return -1
                pages.append(number)
            last = len(value) - 4
            first = end = last - _COUNT.unpack_from(value, last)[0]
        uses = []
        for chunk_id, _, length in _EXTENT.iter_unpack(value[first:last]):
            if chunk_id == _NO_CHUNK:
                continue
            number = self._index.find(chunk_id)
            if number < 0:
                return -1
            uses.append((number, length))
        for number, length in uses:
            self._use(number, length)
        for number in pages:
            self._use(number, self._index.raw_length(number))
        return end

    def _use(self, number: int, length: int) -> None:
        """The snapshot needs so many bytes (more than none) of a chunk."""
        live = self._live
        if number >= len(live):
            live.frombytes(bytes(8 * (max(number + 1, len(self._index)) - len(live))))
        if not live[number]:
            self._order.append(number)
        live[number] += length


def _cache_value(flags: int, tail: bytes, extents: bytes) -> bytes:
    """What the files cache keeps of a file: flags, tail, and for a paged one the extents of its pages."""
    if not extents:
        return bytes((flags,)) + tail
    return b"".join((bytes((flags,)), tail, extents, _COUNT.pack(len(extents))))
