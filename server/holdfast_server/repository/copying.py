"""Copying chunks from pack to pack as they are encrypted: nobody needs the content key for it."""

from __future__ import annotations

from collections.abc import Collection

from holdfast_server.repository.fetching import chunk_label
from holdfast_server.repository.format import ChunkType, damaged
from holdfast_server.repository.index import write_index
from holdfast_server.repository.packs import ChunkRecord, Message, PackBuilder, PackRecord
from holdfast_server.repository.repository import Repository
from holdfast_server.storage.objects import ObjectMissing

__all__ = ["PackCopier", "read_messages"]

#: Messages with less than this between them are read at once.
_GAP = 64 << 10


class PackCopier:
    """New packs of copied messages: file content and the rest apart, as writers part them. For one thread."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._builders: dict[bool, PackBuilder] = {}
        #: The packs that are durable; those that an index object lists by now are not among them any more.
        self.records: list[PackRecord] = []
        self.packs_written = self.bytes_written = 0

    def add(self, record: PackRecord, chunk: ChunkRecord, message: bytes, small_files: bytes) -> None:
        """Add a chunk of a pack, which must be in none of the new ones yet."""
        kind = ChunkType(chunk.kind)
        copy = Message(
            chunk.chunk_id, kind, record.segments[chunk.segment], chunk.number, chunk.raw_length, message,
            chunk.check, small_files,
        )  # fmt: skip
        is_data = kind is ChunkType.DATA
        builder = self._builders.get(is_data)
        if builder is not None and not builder.fits(copy):
            self._put(builder)
            builder = None
        if builder is None:
            builder = self._builders[is_data] = PackBuilder(self._repository.index_keys)
        builder.add(copy)

    def finish(self) -> None:
        """Make all of it durable, packs and an index of them. What fails leaves packs that nothing refers to."""
        builders, self._builders = list(self._builders.values()), {}
        for builder in builders:
            self._put(builder)
        if self.records:
            write_index(self._repository.store, self._repository.index_keys, self.records)
        self.records = []

    def _put(self, builder: PackBuilder) -> None:
        record, parts = builder.finish()
        self._repository.store.put(record.name, parts)
        self.records.append(record)
        self.packs_written += 1
        self.bytes_written += record.size


def read_messages(
    repository: Repository, record: PackRecord, wanted: Collection[bytes]
) -> list[tuple[ChunkRecord, bytes, bytes]]:
    """(chunk, message, records of its small files) of the wanted chunks of a pack, each compared with its check.

    Raises DataLoss/CHECKSUM_MISMATCH for one that is not what was stored, or a pack that is gone.
    """
    store, keys = repository.store, repository.index_keys
    chosen = [(chunk, small) for chunk, small in record.with_small_files() if chunk.chunk_id in wanted]
    found: list[tuple[ChunkRecord, bytes, bytes]] = []
    block, start = b"", 0
    for at, (chunk, small) in enumerate(chosen):
        if chunk.offset + chunk.length > start + len(block):
            start = chunk.offset
            try:
                block = store.get(record.name, start, _end_of_run(chosen, at) - start)
            except ObjectMissing:
                raise damaged(record.name, "it is gone", pack=record.pack_id.hex()) from None
        message = block[chunk.offset - start : chunk.offset - start + chunk.length]
        if len(message) != chunk.length or keys.check_of(message) != chunk.check:
            label, detail = (
                chunk_label(chunk.kind, chunk.chunk_id),
                f"its bytes in {record.name} are not what was stored",
            )
            raise damaged(label, detail, pack=record.pack_id.hex())
        found.append((chunk, message, small))
    return found


def _end_of_run(chosen: list[tuple[ChunkRecord, bytes]], at: int) -> int:
    """Where the messages end that are read together with one."""
    end = chosen[at][0].offset + chosen[at][0].length
    for chunk, _ in chosen[at + 1 :]:
        if chunk.offset - end > _GAP:
            break
        end = chunk.offset + chunk.length
    return end
