"""The log: each writer's chain of signed entries, and what they tell.

An entry names the hash of the one before it, and the newest entries of the other writers that its writer knew. So a log
that lacks an entry, holds one of another history or goes back behind what was seen is told from a whole one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from blake3 import blake3

from holdfast_server.errors import DataLoss
from holdfast_server.repository.config import unsupported
from holdfast_server.repository.content_keys import KEY
from holdfast_server.repository.crypto import UUID, IndexKeys
from holdfast_server.repository.facts import (
    MAX_SEQUENCE,
    Checkpoint,
    Fact,
    Superseded,
    decode_fact,
    encode_fact,
)
from holdfast_server.repository.format import SEALED_OBJECT_MAX, damaged, is_object_id, log_name
from holdfast_server.repository.json_object import JsonObject, Malformed, damage_of, to_json
from holdfast_server.repository.keys import SIGNATURE, WriterKey, is_signed, writer_id_of
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["Log", "LogEntry", "LogHead", "LogReader", "LogVector", "LogWriter"]

VERSION: Final = 1
CONTEXT_LOG: Final = b"holdfast repository 1 log"

#: How often a chain is read anew that is cut while it is read.
_TRIES: Final = 20
_LENGTH = struct.Struct("<I")
_MAX_TIME = (1 << 63) - 1
#: How often a chain is listed again of which less is there than was read before.
_LISTS: Final = 3
_NAME = re.compile(r"log/([0-9a-f]{32})/([0-9]{16})")


class LogHead(NamedTuple):
    """An entry of a chain: its number from 1, the hash (32 bytes) of its object."""

    sequence: int
    hash: bytes


class LogVector(dict[bytes, LogHead]):
    """The newest entry of each writer, by writer id (16 bytes)."""

    #: Up to which entry a writer's chain is not needed, by writer id, where that was looked at.
    superseded: Mapping[bytes, int] = MappingProxyType({})

    def behind(self, seen: Mapping[bytes, LogHead]) -> list[bytes]:
        """The writers of whom `seen` has a newer entry, or another one of the same number.

        When `seen` was read before this, the store was rolled back, or forked, since.
        """
        return [
            writer
            for writer, head in seen.items()
            if (writer not in self or (head != self[writer] and head.sequence >= self[writer].sequence))
            and head.sequence > self.superseded.get(writer, 0)
        ]

    def including(self, other: Mapping[bytes, LogHead]) -> LogVector:
        """The newer entry of each writer of both; this one's where both have the number."""
        newest = LogVector(self)
        for writer, head in other.items():
            if writer not in newest or head.sequence > newest[writer].sequence:
                newest[writer] = head
        return newest


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry whose seal and signature were checked. `time_us` in microseconds; `seen` are other writers' newest."""

    writer_id: bytes
    sequence: int
    time_us: int
    public_key: bytes
    previous: bytes | None
    seen: LogVector
    facts: tuple[Fact, ...]
    hash: bytes

    @property
    def name(self) -> str:
        return log_name(self.writer_id, self.sequence)

    @property
    def head(self) -> LogHead:
        return LogHead(self.sequence, self.hash)

    @property
    def is_checkpoint(self) -> bool:
        """Whether nothing before it is needed."""
        return any(isinstance(fact, Checkpoint) for fact in self.facts)


@dataclass(frozen=True, slots=True)
class Log:
    """What was read: the entries of each writer in their order, and the newest entry of each.

    `seen` are the newest entries that the entries themselves tell of: `vector.behind(seen)` names what is gone.
    `broken` are the errors of entries that are damaged and not needed any more, by writer.
    """

    entries: Mapping[bytes, Sequence[LogEntry]]
    vector: LogVector
    seen: LogVector
    broken: Mapping[bytes, DataLoss] = field(default_factory=dict)

    def facts(self) -> Iterator[tuple[LogEntry, Fact]]:
        """All facts in the order in which they count, with the entry that holds each; those that a checkpoint keeps
        stand in its place."""
        found = []
        for writer, chain in self.entries.items():
            for entry in chain:
                for fact in entry.facts:
                    kept = [(one.time_us, one.fact) for one in fact.facts] if isinstance(fact, Checkpoint) else []
                    for time_us, one in kept or [(entry.time_us, fact)]:
                        found.append((time_us, writer, entry, one))
        found.sort(key=lambda one: (one[0], one[1], one[2].sequence))
        return ((entry, fact) for _, _, entry, fact in found if not isinstance(fact, Checkpoint))


class LogReader:
    """Reads the log of a repository and checks it."""

    def __init__(self, store: ObjectStore, keys: IndexKeys) -> None:
        self._store = store
        self._keys = keys

    def read(self, after: Mapping[bytes, LogHead] | None = None) -> Log:
        """All entries that are still needed, or of them those newer than `after`, a vector that was read before.

        Raises DataLoss/CHECKSUM_MISMATCH, naming the entry, for one that is missing, damaged, not signed by its writer
        or of another history than the ones around it. An end that is missing is told by `LogVector.behind` alone.
        """
        log = self.salvage(after)
        for error in log.broken.values():
            raise error
        return log

    def salvage(self, after: Mapping[bytes, LogHead] | None = None) -> Log:
        """As `read`, but what is damaged is told in `broken`; of that writer only the entries behind it are there."""
        known = after or {}
        entries: dict[bytes, list[LogEntry]] = {}
        vector, seen = LogVector(), LogVector()
        broken: dict[bytes, tuple[int, DataLoss]] = {}
        for writer, newest in sorted(self._newest().items()):
            chain, failure = self._chain(writer, newest, known.get(writer))
            entries[writer] = chain
            if failure is not None:
                broken[writer] = failure
            vector[writer] = chain[-1].head if chain else self._raw_head(writer, newest)
        for chain in entries.values():
            for entry in chain:
                seen = seen.including(entry.seen)
                if (failed := self._unlike_seen(entry, entries)) is not None:
                    writer, sequence, error = failed
                    broken.setdefault(writer, (sequence, error))
        superseded = vector.superseded = _superseded(entries)
        left = {writer: error for writer, (at, error) in broken.items() if superseded.get(writer, 0) < at}
        return Log(entries, vector, seen, left)

    def heads(self) -> LogVector:
        """The newest entry of each writer, each checked by itself. Raises as `read`."""
        try:
            return LogVector({w: self.entry(w, newest).head for w, newest in sorted(self._newest().items())})
        except DataLoss:
            return self.read().vector  # it may be one that is not needed any more

    def sequences(self, writer_id: bytes) -> list[int]:
        """The numbers of a writer's entries that are there, ascending."""
        names = (_NAME.fullmatch(info.name) for info in self._store.list(f"log/{writer_id.hex()}/"))
        return sorted(int(found[2]) for found in names if found and int(found[2]))

    def entry(self, writer_id: bytes, sequence: int) -> LogEntry:
        """One entry, checked by itself. Raises DataLoss/CHECKSUM_MISMATCH, also when it is not there."""
        name = log_name(writer_id, sequence)
        try:
            content = self._store.get(name, 0, SEALED_OBJECT_MAX + 1)
        except ObjectMissing:
            raise damaged(name, "the entry is missing, and later ones follow") from None
        return _decode(name, content, self._keys)

    def _newest(self) -> dict[bytes, int]:
        return _newest(self._store, "log/")

    def _raw_head(self, writer: bytes, sequence: int) -> LogHead:
        """The head of a chain of which nothing newer than what is known can be read."""
        try:
            content = self._store.get(log_name(writer, sequence), 0, SEALED_OBJECT_MAX + 1)
        except ObjectMissing:
            content = b""
        return LogHead(sequence, blake3(content).digest())

    def _chain(
        self, writer: bytes, newest: int, known: LogHead | None
    ) -> tuple[list[LogEntry], tuple[int, DataLoss] | None]:
        """The entries from the newest back to the one that needs none before it, or to the one that is known; and
        where that failed, how."""
        tries = _TRIES
        while True:
            chain: list[LogEntry] = []
            try:
                self._follow(writer, newest, known, chain)
            except DataLoss as error:
                # A checkpoint may have been written meanwhile, and what lies before it been deleted.
                now, tries = self._newest().get(writer, 0), tries - 1
                if now > newest and tries:
                    newest = now
                    continue
                at = chain[-1].sequence - 1 if chain else newest
                return chain[::-1], (at, error)
            return chain[::-1], None

    def _follow(self, writer: bytes, newest: int, known: LogHead | None, chain: list[LogEntry]) -> None:
        first = known.sequence if known else 1
        for sequence in range(newest, first - 1, -1):
            if known and sequence == known.sequence:
                # Its bytes alone count: it was read before, or is one that nobody can read and nobody needs.
                name, head = log_name(writer, sequence), self._raw_head(writer, sequence)
                if chain and chain[-1].previous != head.hash:
                    raise damaged(name, "it is not the entry that the next one follows")
                if head.hash != known.hash:
                    raise damaged(name, "it is another entry than the one that was there before")
                break
            entry = self.entry(writer, sequence)
            if chain and chain[-1].previous != entry.hash:
                raise damaged(entry.name, "it is not the entry that the next one follows")
            chain.append(entry)
            if entry.is_checkpoint:
                break

    def _unlike_seen(
        self, entry: LogEntry, entries: Mapping[bytes, Sequence[LogEntry]]
    ) -> tuple[bytes, int, DataLoss] | None:
        """The first entry of another writer that is not the one that this one tells of."""
        for writer, head in entry.seen.items():
            chain = entries.get(writer)
            at = head.sequence - chain[0].sequence if chain else -1
            if chain and 0 <= at < len(chain) and chain[at].hash != head.hash:
                error = damaged(chain[at].name, f"it is not the entry that {entry.name} tells of")
                return writer, head.sequence, error
        return None


def _newest(store: ObjectStore, prefix: str) -> dict[bytes, int]:
    """The newest sequence of each writer, by writer id.

    A list may show neither a checkpoint that is written meanwhile nor the entries that go with it: it is told from the
    next one.
    """
    newest = _listed(store, prefix)
    for _ in range(_TRIES):
        again = _listed(store, prefix)
        if again == newest:
            break
        newest = again
    return newest


def _listed(store: ObjectStore, prefix: str) -> dict[bytes, int]:
    newest: dict[bytes, int] = {}
    for info in store.list(prefix):
        found = _NAME.fullmatch(info.name)
        if found and int(found[2]):
            writer = bytes.fromhex(found[1])
            newest[writer] = max(newest.get(writer, 0), int(found[2]))
    return newest


def _superseded(entries: Mapping[bytes, Sequence[LogEntry]]) -> dict[bytes, int]:
    """Up to which entry a writer's chain is not needed, as others say."""
    found: dict[bytes, int] = {}
    for chain in entries.values():
        for entry in chain:
            for fact in entry.facts:
                for one in (kept.fact for kept in fact.facts) if isinstance(fact, Checkpoint) else (fact,):
                    if isinstance(one, Superseded):
                        found[one.writer_id] = max(found.get(one.writer_id, 0), one.sequence)
    return found


class LogWriter:
    """Appends to the chain of one node; for one thread. Several processes of a node may do so at the same time."""

    def __init__(self, store: ObjectStore, keys: IndexKeys, writer: WriterKey, vector: Mapping[bytes, LogHead]) -> None:
        """`vector` is that of a log that was read: what the entries say was seen."""
        self._store = store
        self._keys = keys
        self._writer = writer
        self.vector = LogVector(vector)

    def append(self, facts: Sequence[Fact], now_us: int) -> LogEntry:
        """Add an entry; durable on return. After an error it may be there or not: adding it again does no harm.

        Raises DataLoss/CHECKSUM_MISMATCH when the chain went on from another entry than the one that was read, and
        ValueError for facts that fill more than 1 MiB.
        """
        while True:
            self._advance()
            entry = self._append_next(facts, now_us)
            if entry is not None:
                return entry

    def append_checkpoint(
        self, checkpoint: Checkpoint, now_us: int, *, keep_from: int = MAX_SEQUENCE
    ) -> LogEntry | None:
        """Add a checkpoint of all that was read, and remove the entries before it, those from `keep_from` on excepted;
        None, and nothing has changed, when there is a newer entry than was read. Raises as `append`."""
        entry = self._append_next([checkpoint], now_us)
        if entry is None:
            return None
        for sequence in LogReader(self._store, self._keys).sequences(entry.writer_id):
            if sequence < min(entry.sequence, keep_from):
                self._store.delete(log_name(entry.writer_id, sequence))
        return entry

    def _append_next(self, facts: Sequence[Fact], now_us: int) -> LogEntry | None:
        """Add the entry behind the last that is known, unless there is one."""
        writer_id = self._writer.writer_id
        last = self.vector.get(writer_id)
        sequence = last.sequence + 1 if last else 1
        name = log_name(writer_id, sequence)
        entry, content = self._make(sequence, last, facts, now_us)
        if not self._store.create_if_absent(name, content):
            return None  # another process of this node was faster
        # Where a checkpoint was followed by deletions, there may have been room for it before the newest entry.
        if self._newest() != sequence and not self._is_followed(entry):
            return None
        self.vector[writer_id] = entry.head
        return entry

    def _advance(self) -> None:
        """Learn of what other processes of this node have added."""
        writer_id, newest = self._writer.writer_id, self._newest()
        last = self.vector.get(writer_id)
        lists = 0
        while last is not None and newest < last.sequence and lists < _LISTS:
            newest = self._newest()  # the chain may have been cut during each list before
            lists += 1
        if last is not None and newest < last.sequence:
            raise damaged(log_name(writer_id, last.sequence), "it was there before and is gone")
        if newest == (last.sequence if last else 0):
            return
        log = LogReader(self._store, self._keys).salvage(self.vector)
        if (error := log.broken.get(writer_id)) is not None:
            raise error
        self.vector[writer_id] = log.vector[writer_id]

    def _newest(self) -> int:
        writer_id = self._writer.writer_id
        return _newest(self._store, f"log/{writer_id.hex()}/").get(writer_id, 0)

    def _is_followed(self, entry: LogEntry) -> bool:
        try:
            following = LogReader(self._store, self._keys).entry(entry.writer_id, entry.sequence + 1)
        except DataLoss:
            return False
        return following.previous == entry.hash

    def _make(self, sequence: int, last: LogHead | None, facts: Sequence[Fact], now_us: int) -> tuple[LogEntry, bytes]:
        writer = self._writer
        previous = last.hash if last else None
        seen = LogVector({other: head for other, head in self.vector.items() if other != writer.writer_id})
        text = to_json(
            {
                "version": VERSION,
                "writer": writer.writer_id.hex(),
                "sequence": sequence,
                "time": now_us,
                "public_key": writer.public.hex(),
                "previous": previous.hex() if previous else None,
                "seen": {
                    other.hex(): {"sequence": head.sequence, "hash": head.hash.hex()} for other, head in seen.items()
                },
                "facts": [encode_fact(fact) for fact in facts],
            }
        )
        signed = text + writer.sign(CONTEXT_LOG + self._keys.uuid + text)
        content = self._keys.seal(log_name(writer.writer_id, sequence), _LENGTH.pack(len(text)) + signed)
        entry = LogEntry(
            writer.writer_id, sequence, now_us, writer.public, previous, seen, tuple(facts), blake3(content).digest()
        )
        return entry, content


def _decode(name: str, sealed: bytes, keys: IndexKeys) -> LogEntry:
    content = keys.open(name, sealed)
    length = _LENGTH.unpack_from(content)[0] if len(content) >= _LENGTH.size else 0
    if len(content) != _LENGTH.size + length + SIGNATURE:
        raise damaged(name, "its length is not the one that it states")
    text, signature = content[_LENGTH.size : -SIGNATURE], content[-SIGNATURE:]
    with damage_of(name):
        values = JsonObject.parse(text)
        version = values.integer("version")
        if version != VERSION:
            raise unsupported(name, version)
        public, writer = values.hexadecimal("public_key", KEY), values.hexadecimal("writer", UUID)
        if not is_signed(public, CONTEXT_LOG + keys.uuid + text, signature):
            raise Malformed("it is not signed by its writer")
        sequence = values.integer("sequence", 1, MAX_SEQUENCE)
        if writer != writer_id_of(public) or log_name(writer, sequence) != name:
            raise Malformed("writer or sequence is not that of its name")
        previous = values.hexadecimal("previous", KEY) if values.has("previous") else None
        if (previous is None) != (sequence == 1):
            raise Malformed("previous is not what it must be at its place in the chain")
        return LogEntry(
            writer_id=writer,
            sequence=sequence,
            time_us=values.integer("time", high=_MAX_TIME),
            public_key=public,
            previous=previous,
            seen=_seen(values.child("seen"), writer),
            facts=tuple(decode_fact(fact) for fact in values.children("facts")),
            hash=blake3(sealed).digest(),
        )


def _seen(values: JsonObject, own: bytes) -> LogVector:
    seen = LogVector()
    for writer in values.keys():  # noqa: SIM118 - no dict
        if not is_object_id(writer) or writer == own.hex():
            raise Malformed("seen has a key that is no other writer's id")
        head = values.child(writer)
        seen[bytes.fromhex(writer)] = LogHead(head.integer("sequence", 1, MAX_SEQUENCE), head.hexadecimal("hash", KEY))
    return seen
