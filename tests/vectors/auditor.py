"""Finds what is missing or wrong in a Holdfast repository beside what `reader` uses: from docs/format.md alone too.

    python -m tests.vectors.auditor FOLDER --{passphrase,key,recovery-key,keys}-file FILE check

Reads every byte of every object. It checks chains and signatures of the log, what pack records state, the stored bytes
of all chunks, lists of chunks, and digests. `list` and `restore` work as the reader's, and report all that as well.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.vectors import reader
from tests.vectors.reader import CONTEXT, DATA, ID, LIST, ROOT, RUN_ID, TREE, Entry, Fields, Place, kdf, require

FACTS = {
    "committed", "renamed", "locked", "removed", "condemned", "swept",
    "key_epoch", "key_removed", "superseded", "checkpoint",
}  # fmt: skip


def padded(length: int) -> int:
    """The PADMÉ size."""
    exponent = length.bit_length() - 1
    step = 1 << exponent - exponent.bit_length()
    return -(-length // step) * step


class Auditor(reader.Repository):
    """A repository of which everything is checked. `log` is hash and content of entries, `records` are by pack."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.log: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
        self.records: dict[str, bytes] = {}
        self.reached: set[tuple[int, bytes]] = set()

    def use(self, index_key: bytes) -> None:
        super().use(index_key)
        for key in self.log:
            self.attempt(f"log/{key[0]}", self.check_chain, *key)

    def facts_of(self, *kinds: str) -> list[dict[str, Any]]:
        """What the log says, oldest first."""
        return [fact for fact in self.facts if fact["type"] in kinds]

    # Log

    def read_log_entry(self, name: str) -> None:
        content = Fields(self.open_object(name))
        raw, signature = content.sized("I"), content.take(64)
        entry, writer, sequence = json.loads(raw), name[4:36], int(name[-16:])
        public = bytes.fromhex(entry["public_key"])
        named = (entry["version"], entry["writer"], entry["sequence"], blake3(public).digest()[:16].hex())
        require(named == (1, writer, sequence, writer) and not content.more(), "belongs elsewhere")
        require({fact["type"] for fact in entry["facts"]} <= FACTS, "has a fact of an unknown type")
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(public)
            key.verify(signature, CONTEXT + b"log" + self.uuid + raw)
        except InvalidSignature as error:
            raise ValueError("is not signed by its writer") from error
        super().read_log_entry(name)
        self.log[writer, sequence] = blake3(self.read(name)).hexdigest(), entry

    def check_chain(self, writer: str, sequence: int) -> None:
        """Finds entries of any writer that an entry knows, and that are gone or others now."""
        entry = self.log[writer, sequence][1]
        seen = {(other, at["sequence"]): at["hash"] for other, at in entry["seen"].items()}
        seen[writer, sequence - 1] = entry["previous"]
        require(sequence > 1 or entry["previous"] is None, "something is before its first entry")
        for (other, number), digest in seen.items():
            if (other, number) in self.log:
                require(self.log[other, number][0] == digest, f"log/{other}/{number:016} is not what was written")
            elif number > 0:
                later = (key for key in self.log if key[0] == other and key[1] > number)
                kept = any(fact["type"] == "checkpoint" for key in later for fact in self.log[key][1]["facts"])
                require(kept, f"log/{other}/{number:016} is gone: the repository was rolled back or damaged")

    # Packs

    def read_pack_record(self, record: Fields) -> None:
        start = record.tell()
        pack, self.pack_size, self.messages_end = self.check_pack_record(record)
        raw = record.getvalue()[start : record.tell()]
        require(self.records.get(pack, raw) == raw, f"another record of {pack} says otherwise")
        self.pack, self.directory = pack, record
        if pack not in self.records:
            self.records[pack] = raw
            record.seek(start)
            super().read_pack_record(record)

    def read_directory(self, name: str) -> None:
        super().read_directory(name)
        size, end, directory = os.path.getsize(os.path.join(self.folder, name)), self.messages_end, self.directory
        require((self.pack, self.pack_size) == (name, size), "its directory is another's")
        lengths = end + len(directory.getvalue()) + 16 + 64, padded(end + directory.tell() + 16 + 64)
        require(lengths == (size, size), "its parts have wrong lengths")
        require(not any(directory.read()), "bytes behind its directory")

    def check_pack_record(self, record: Fields) -> tuple[str, int, int]:
        """Name and size of a pack, and the end of its last message."""
        pack_id, size, *counts = record.numbers("16sIHII")
        require(size <= 64 << 20 and counts[1] <= 4096 and counts[2] <= 196608, "wrong pack")
        segments, end, small = [], 0, []
        for _ in range(counts[0]):
            segments.append((*record.numbers("16sBI"), record.sized("H")))
            require((segments[-1][1], len(segments[-1][3])) in ((1, 1168), (2, 0)), "no such segment")
        for _ in range(counts[1]):
            chunk = Place(*record.numbers("32s16sBBHIIIII"), "", segments)
            known = chunk.kind in range(1, 6) and chunk.zero == 0 and chunk.segment < len(segments)
            require(known, "no such chunk")
            require(segments[chunk.segment][1] == (2 if chunk.kind == LIST else 1), "a chunk in the wrong tier")
            lengths = 16 <= chunk.length <= chunk.size + 16 <= (4 << 20) + 16
            require(chunk.offset == end and lengths, "a wrong length")
            require(chunk.number < 1 << 31 and (chunk.kind == DATA or not chunk.small_files), "a wrong number")
            small.append((chunk.small_files, chunk.size))
            end += chunk.length
        for files, content in small:
            fits = sum(record.numbers("16sI")[1] for _ in range(files)) <= content
            require(fits, "small files outside their chunk")
        require(sum(files for files, _ in small) == counts[2] and end < size, "its parts do not fit")
        return f"packs/{pack_id.hex()}", size, end

    def check_message(self, kind: int, chunk_id: bytes, place: Place) -> None:
        """Compares what is stored with the index; opens it if there are keys for it."""
        message = self.read(place.pack, place.offset, place.length)
        check = blake3(message, key=kdf(self.index_key, self.uuid, CONTEXT + b"check")).digest()[:16]
        require(check == place.check, f"chunk {chunk_id.hex()} of type {kind} is damaged")
        if kind == LIST or self.content_keys:
            self.open_message(kind, chunk_id, place)

    # Snapshots

    def chunk(self, kind: int, chunk_id: bytes) -> bytes:
        self.reached.add((kind, chunk_id))
        return super().chunk(kind, chunk_id)

    def page_entries(self, level: int, page_id: bytes) -> Iterator[Entry]:
        page = Fields(self.chunk(TREE, page_id))
        if page.numbers("B") == (level,) and level > 0:
            while page.more():
                first, child = (page.sized("I"), page.sized("H")), page.take(32)
                entry = next(super().page_entries(level - 1, child))
                require((entry.folder, entry.name) == first, "a tree page names another first entry")
        yield from super().page_entries(level, page_id)

    def content(self, entry: Entry) -> Iterator[tuple[bytes | None, int]]:
        require(not entry.digest or entry.size <= 4 << 20, "a large file has the digest of a small one")
        digest = blake3(key=kdf(self.index_key, self.uuid, CONTEXT + b"small file"))
        for piece, length in super().content(entry):
            if entry.digest:
                require(length <= entry.size, "an extent is longer than the file")
                digest.update(bytes(length) if piece is None else piece)
            yield piece, length
        require(entry.digest in (b"", digest.digest()[:16]), "is another file")

    def listed(self, level: int, page_id: bytes) -> Iterator[tuple[int, bytes, int]]:
        """Type, id and live bytes of the chunks in a list page and below."""
        page = Fields(self.chunk(LIST, page_id))
        require(page.numbers("B") == (level,) and page.more(), "a list page is empty or of another level")
        while page.more():
            if level > 0:
                yield from self.listed(level - 1, page.take(32))
            else:
                yield page.numbers("B32sI")

    def check_snapshot(self, name: str) -> None:
        """Reads all that a snapshot holds; without content keys, the list of its chunks only."""
        snapshot = self.record(name)
        if snapshot["state"] == "TOMBSTONE":
            return
        listed = list(self.listed(snapshot["list"]["level"], bytes.fromhex(snapshot["list"]["id"])))
        chunks = {(kind, chunk_id): live for kind, chunk_id, live in listed}
        require(len(chunks) == len(listed) == snapshot["list"]["chunks"], "its list has another length")
        for (kind, chunk_id), live in chunks.items():
            places = self.places.get((kind, chunk_id), [])
            require(kind != LIST and bool(places), f"chunk {chunk_id.hex()} of type {kind} is in no pack")
            require(live <= places[0].size, f"more of chunk {chunk_id.hex()} is live than there is")
        if self.content_keys:
            self.reached = set()
            root = json.loads(self.chunk(ROOT, bytes.fromhex(snapshot["root"])))
            require(root["version"] == 1, "root: unknown version")
            for entry in self.entries(root["tree"]):
                if entry.kind == reader.FILE:
                    for _ in self.content(entry):
                        pass
            require(self.reached == set(chunks), "its list is not what it reaches")

    def do_check(self) -> None:
        """Reads every byte of every object."""
        gone = {pack for fact in self.facts_of("condemned", "swept") for pack in fact["packs"]}
        removed = {run for fact in self.facts_of("removed") for run in fact["run_ids"]}
        snapshots, packs = self.names("snapshots", RUN_ID), self.names("packs", ID)
        for name in self.names("keys", ID):
            self.attempt(name, self.try_slot, name, 0, b"")
        for name in self.names("runs", RUN_ID):
            self.attempt(name, self.record, name)
        for name in packs:
            self.attempt(name, self.read_directory, name)
        for (kind, chunk_id), places in self.places.items():
            for place in places:
                if place.pack in packs or place.pack[6:] not in gone:
                    self.attempt(place.pack, self.check_message, kind, chunk_id, place)
        for name in snapshots:
            self.attempt(name, self.check_snapshot, name)
        for fact in self.facts_of("committed"):
            name = f"snapshots/{fact['run_id']}"
            if name not in snapshots and fact["run_id"] not in removed:
                self.problems.append(f"{name}: was committed, never removed, and is gone")
        if not self.content_keys:
            print("the content tier was compared with the index only: there is no content key")


def main(arguments: list[str]) -> int:
    return reader.main(arguments, __doc__, Auditor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
