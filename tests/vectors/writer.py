"""Writes repositories without Holdfast, from docs/format.md as `reader` does: for what Holdfast would not write itself.

It cuts as it is told, keeps everything in memory and does nothing safely.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors.auditor import padded
from tests.vectors.reader import CONTEXT, DATA, EXTENTS, LIST, ROOT, TREE, kdf

FILE, DIRECTORY, SYMLINK, HARDLINK = 1, 2, 3, 4
SPARSE, XATTRS, ENCRYPTED, PAGED, DIGEST = 1, 4, 8, 16, 32
SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
#: What a key file holds.
SECRET = b"a key file, which has enough bytes"
COUNTS = ("files", "directories", "symlinks", "hardlinks", "bytes", "files_skipped", "files_ignored", "warnings")
TIME_US = 1_700_000_000_000_000
TIME_NS = TIME_US * 1000


class KeyPair:
    """A private key of 96 bytes and its public half."""

    def __init__(self) -> None:
        seed, scalar = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
        self.private = seed.private_bytes_raw() + scalar.private_bytes_raw()
        self.public = seed.public_key().public_bytes_raw() + scalar.public_key().public_bytes_raw()
        self._pair = hpke.MLKEM768X25519PublicKey(seed.public_key(), scalar.public_key())

    def seal(self, info: bytes, content: bytes) -> bytes:
        return SUITE.encrypt(content, self._pair, info)


def gcm(key: bytes, number: int, aad: bytes, content: bytes) -> bytes:
    return AESGCM(key).encrypt(number.to_bytes(12, "little"), content, aad)


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sized(layout: str, content: bytes) -> bytes:
    return struct.pack("<" + layout, len(content)) + content


def record(
    kind: int, name: bytes, tail: bytes = b"", flags: int = 0, mode: int = 0o644, mtime_ns: int = TIME_NS
) -> bytes:
    """An entry as it stands in a page of level 0."""
    owner = os.geteuid(), os.getegid()
    return struct.pack("<BBHIIqHI", kind, flags, mode, *owner, mtime_ns, len(name), len(tail)) + name + tail


def extent(chunk_id: bytes | None, offset: int, length: int) -> bytes:
    """A part of a chunk, or a hole of that length."""
    return (
        struct.pack("<32sQ", bytes(32), length) if chunk_id is None else struct.pack("<32sII", chunk_id, offset, length)
    )


def file_tail(size: int, *extents: bytes) -> bytes:
    return struct.pack("<QI", size, len(extents)) + b"".join(extents)


def page(*folders: tuple[bytes, list[bytes]]) -> bytes:
    """A page of level 0: paths of folders with the records of their entries."""
    return b"\0" + b"".join(b"\0" + sized("I", path) + b"".join(records) for path, records in folders)


class Writer:
    """A new repository in a folder, with one key slot, for a key file that holds `secret`."""

    def __init__(self, folder: Path, secret: bytes = SECRET) -> None:
        self.folder, self.uuid, self.index_key = folder, os.urandom(16), os.urandom(32)
        self.content, self.signer, self.objects = KeyPair(), ed25519.Ed25519PrivateKey.generate(), dict[str, bytes]()
        self.entries: list[bytes] = []
        self.live: dict[tuple[int, bytes], int] = {}
        config = {"uuid": self.uuid.hex(), "create_time": TIME_US, "sealed": False, "compression_level": 3}
        config["software"] = "a test"
        config["content_key"] = {"epoch": 1, "public": text(self.content.public)}
        clear = struct.pack("<8sHH", b"HOLDFAST", 1, 0) + sized("I", json.dumps(config).encode())
        self.epoch, self.slots = 1, dict[bytes, KeyPair]()
        self.put("config", clear + blake3(clear, key=self.derived(b"config")).digest())
        self.put_slot(os.urandom(16), secret)
        self.begin_pack()

    @property
    def writer_id(self) -> str:
        return blake3(self.signer.public_key().public_bytes_raw()).digest()[:16].hex()

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.objects[name] = content

    def derived(self, purpose: bytes) -> bytes:
        return kdf(self.index_key, self.uuid, CONTEXT + purpose)

    def put_slot(self, slot_id: bytes, secret: bytes) -> None:
        pair, salt, name = KeyPair(), os.urandom(32), f"keys/{slot_id.hex()}"
        self.slots[slot_id] = pair
        header = {
            "uuid": self.uuid.hex(),
            "slot_id": slot_id.hex(),
            "create_time": TIME_US,
            "kdf": {"name": "hkdf-sha256", "salt": text(salt)},
            "public": text(pair.public),
            "binding": text(blake3(slot_id + struct.pack("<H", 2) + pair.public, key=self.derived(b"slot")).digest()),
            "label": text(self.sealed(f"{name}/label", b"a file")),
            "content": [{"epoch": self.epoch, "sealed": self.sealed_content_key(slot_id)}],
        }
        before = struct.pack("<8sHH", b"HFKEYSLT", 1, 2) + sized("I", json.dumps(header).encode())
        wrapping = kdf(secret, salt, CONTEXT + b"key file" + self.uuid)
        both = before + gcm(wrapping, 0, before, self.index_key + pair.private)
        self.put(name, both + blake3(both).digest())

    def sealed_content_key(self, slot_id: bytes) -> str:
        info = CONTEXT + b"content key" + self.uuid + slot_id + struct.pack("<I", self.epoch)
        return text(self.slots[slot_id].seal(info, self.content.private))

    def begin_epoch(self) -> None:
        """Another content key for all packs from here on."""
        self.content, self.epoch = KeyPair(), self.epoch + 1
        copies = {slot_id.hex(): self.sealed_content_key(slot_id) for slot_id in self.slots}
        self.log({"type": "key_epoch", "epoch": self.epoch, "public": text(self.content.public), "sealed": copies})
        self.begin_pack()

    def sealed(self, name: str, content: bytes) -> bytes:
        salt = os.urandom(32)
        key = kdf(self.index_key, salt, CONTEXT + b"object " + self.uuid + name.encode())
        frame = zstandard.compress(content)
        form = len(frame) < len(content)
        return salt + gcm(key, 0, b"", struct.pack("<BI", form, len(content)) + (frame if form else content))

    def put_sealed(self, name: str, content: bytes) -> None:
        self.put(name, self.sealed(name, content))

    # Chunks and packs

    def begin_pack(self) -> None:
        self.pack_id, self.messages = os.urandom(16), b""
        self.chunks: list[bytes] = []
        self.small_files: list[bytes] = []
        self.segments = [(1, self.epoch, os.urandom(16), os.urandom(32)), (2, 0, os.urandom(16), b"")]

    def chunk(self, kind: int, content: bytes, small_files: tuple[int, ...] = ()) -> bytes:
        """Puts a chunk into the pack that is open; `small_files` are the sizes of those that it begins with."""
        chunk_id = blake3(content, key=self.derived(b"chunk id " + bytes([kind]))).digest()
        number, at, which = len(self.chunks), 0, kind == LIST
        tier, _, segment_id, key = self.segments[which]
        if tier == 2:
            key = kdf(self.index_key, segment_id, CONTEXT + b"list segment" + self.uuid)
        aad = b"HFM1" + bytes([kind]) + self.uuid + segment_id + struct.pack("<I", number) + chunk_id
        frame = zstandard.compress(content)
        message = gcm(key, number, aad, frame if len(frame) < len(content) else content)
        check = blake3(message, key=self.derived(b"check")).digest()[:16]
        where = len(self.messages), len(message), len(content), len(small_files)
        self.chunks.append(struct.pack("<32s16sBBHIIIII", chunk_id, check, kind, 0, which, number, *where))
        self.messages += message
        for size in small_files:
            digest = blake3(content[at : at + size], key=self.derived(b"small file")).digest()[:16]
            self.small_files.append(struct.pack("<16sI", digest, size))
            at += size
        if kind != LIST:
            self.live[kind, chunk_id] = len(content)
        return chunk_id

    def end_pack(self, indexed: bool = True) -> str:
        """Puts the open pack, and an index object for it unless that is left to the reader; gives the pack's name."""
        numbers = len(self.segments), len(self.chunks), len(self.small_files)
        segments = []
        for tier, epoch, segment_id, key in self.segments:
            info = CONTEXT + b"segment" + self.uuid + segment_id + struct.pack("<I", epoch)
            sealed = self.content.seal(info, key) if tier == 1 else b""
            segments.append(struct.pack("<16sBI", segment_id, tier, epoch) + sized("H", sealed))
        parts = b"".join([*segments, *self.chunks, *self.small_files])
        size = padded(len(self.messages) + 30 + len(parts) + 16 + 64)
        directory = struct.pack("<16sIHII", self.pack_id, size, *numbers) + parts
        zeros = bytes(size - len(self.messages) - len(directory) - 16 - 64)
        salt, name = os.urandom(32), f"packs/{self.pack_id.hex()}"
        key = kdf(self.index_key, salt, CONTEXT + b"pack" + self.uuid + self.pack_id)
        closed = gcm(key, 1, b"", directory + zeros)
        trailer = salt + gcm(key, 0, b"", struct.pack("<IIQ", len(closed), size, 0))
        self.put(name, self.messages + closed + trailer)
        if indexed:
            self.put_sealed(f"index/{os.urandom(16).hex()}", struct.pack("<I", 1) + directory)
        self.begin_pack()
        return name

    # Snapshots and log

    def snapshot(
        self, *pages: bytes, tree: tuple[int, bytes] | None = None, list_pages: int = 1, **changes: Any
    ) -> str:
        """Commits the one page of level 0, or the tree, with all chunks since the last snapshot; gives the run id."""
        run_id = str(uuid.uuid4())
        for content in pages:
            tree = 0, self.chunk(TREE, content)
        attributes = {"mode": "0755", "mtime_ns": TIME_NS, "uid": os.geteuid(), "gid": os.getegid(), "xattrs": []}
        top = {"level": tree[0], "id": tree[1].hex()} if tree else None
        root = {"version": 1, "attributes": attributes, "tree": top, "ignore": [], "problems": [], "key_ids": []}
        root_id = self.chunk(ROOT, json.dumps(root).encode())
        listed = [struct.pack("<B32sI", *key, live) for key, live in self.live.items()]
        parts = [b"".join(listed[number::list_pages]) for number in range(list_pages)]
        page_ids = [self.chunk(LIST, b"\0" + part) for part in parts]
        page_id = page_ids[0] if list_pages == 1 else self.chunk(LIST, b"\1" + b"".join(page_ids))
        found = {
            "version": 1,
            "run_id": run_id,
            "state": "COMMITTED",
            "name": "a backup",
            "locked": False,
            "source": {"source_id": "a", "kind": "DIRECTORY", "display_name": "A"},
            "create_time": TIME_US,
            "complete_time": TIME_US,
            "counts": dict.fromkeys(COUNTS, 0),
            "stored_size": 0,
            "complete": True,
            "writer": self.writer_id,
            "software": "a test",
            "list": {"level": int(list_pages > 1), "id": page_id.hex(), "chunks": len(self.live)},
            "root": root_id.hex(),
        }
        self.end_pack()
        self.live = {}
        self.put_sealed(f"snapshots/{run_id}", json.dumps(found | changes).encode())
        self.log({"type": "committed", "run_id": run_id})
        return run_id

    def log(self, *facts: dict[str, Any], **changes: Any) -> str:
        """Adds an entry to the chain of the one writer; gives its name."""
        sequence = len(self.entries) + 1
        entry = {
            "version": 1,
            "writer": self.writer_id,
            "sequence": sequence,
            "time": TIME_US + sequence,
            "public_key": self.signer.public_key().public_bytes_raw().hex(),
            "previous": blake3(self.entries[-1]).hexdigest() if self.entries else None,
            "seen": {},
            "facts": list(facts),
        }
        raw, name = json.dumps(entry | changes).encode(), f"log/{self.writer_id}/{sequence:016d}"
        self.put_sealed(name, sized("I", raw) + self.signer.sign(CONTEXT + b"log" + self.uuid + raw))
        self.entries.append(self.objects[name])
        return name


def small_file(writer: Writer, name: bytes, content: bytes, **values: Any) -> bytes:
    chunk = writer.chunk(DATA, content, (len(content),))
    return record(FILE, name, file_tail(len(content), extent(chunk, 0, len(content))), **values)


def two_levels(writer: Writer) -> str:
    """A snapshot with everything in it: pages of two levels, paged extents, holes, links, hostile names."""
    noise = os.urandom(3000)
    chunk = writer.chunk(DATA, b"one" + b"two" * 1000, (3, 3000))
    digest = blake3(b"one", key=writer.derived(b"small file")).digest()[:16]
    one = record(FILE, b"\x01\xff \n", struct.pack("<Q16sI", 3, digest, 1) + extent(chunk, 0, 3), DIGEST, 0o4711)
    kept = struct.pack("<H", 1) + sized("H", b"user.key") + sized("I", b"\0value")
    two = record(FILE, b"a", file_tail(3000, extent(chunk, 3, 3000)) + kept, XATTRS, 0o400, -1_500_000_000)
    sealed = bytes(16) + struct.pack("<Q32s", 9, bytes(32))
    coin = record(FILE, b"coin", file_tail(3, extent(chunk, 0, 3)) + sealed + sized("H", b""), ENCRYPTED)
    again = record(HARDLINK, b"coin2", sized("I", b"coin") + sealed + sized("H", b"coin2-2.hfcc"), ENCRYPTED)
    writer.end_pack(indexed=False)
    data = writer.chunk(DATA, noise)
    ends = [
        writer.chunk(EXTENTS, extent(data, 0, 1000) + extent(None, 0, 5 << 32)),
        writer.chunk(EXTENTS, extent(data, 7, 9)),
    ]
    paged = struct.pack("<QI", 1009 + (5 << 32), 2) + b"".join(ends)
    big = record(FILE, b"big", paged, PAGED | SPARSE)
    first = page(
        (b"", [one, two, coin, again, record(DIRECTORY, b"d", mode=0o500), record(DIRECTORY, b"d!", mode=0o755)])
    )
    second = page(
        (b"d", [big, record(DIRECTORY, b"e", mode=0o755), record(SYMLINK, b"l", sized("I", b"../\xff"))]),
        (b"d/e", [two]),
    )
    third = page((b"d!", [record(FILE, b"empty", file_tail(0)), record(HARDLINK, b"h", sized("I", b"d/e/a"))]))
    firsts = (b"", b"\x01\xff \n"), (b"d", b"big"), (b"d!", b"empty")
    children = b"".join(
        sized("I", folder) + sized("H", name) + writer.chunk(TREE, content)
        for (folder, name), content in zip(firsts, (first, second, third), strict=True)
    )
    return writer.snapshot(tree=(1, writer.chunk(TREE, b"\x01" + children)))


#: Does something to a repository.
Make = Callable[[Writer], Any]
