"""Reads a Holdfast repository without Holdfast: from docs/format.md, "Repository", and from nothing in the product.

    python tests/vectors/reader.py FOLDER --{passphrase,key,recovery-key,keys}-file FILE {list,restore RUN_ID TARGET}

Damage is named on standard error, never given out, and makes the exit status 1. Tags and ids of all that is used are
checked here, signatures of the log and all else by `auditor`. Needs `cryptography` 50, `blake3` and `zstandard`.
"""

import base64
import functools
import glob
import io
import json
import os
import re
import struct
import sys
import unicodedata
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CONTEXT = b"holdfast repository 1 "
SLOT_KINDS = {"passphrase": 1, "key": 2, "recovery-key": 3}
DATA, TREE, EXTENTS, ROOT, LIST = 1, 2, 3, 4, 5
FILE, DIRECTORY, SYMLINK, HARDLINK = 1, 2, 3, 4
XATTRS, ENCRYPTED, PAGED, DIGEST = 4, 8, 16, 32
FLAGS_OF = {FILE: 63, DIRECTORY: XATTRS, SYMLINK: XATTRS, HARDLINK: XATTRS | ENCRYPTED}
ID, RUN_ID = "[0-9a-f]{32}", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: What bytes that are damaged, keys that are wrong and objects that are gone raise.
FAILURES = (AttributeError, InvalidTag, LookupError, OSError, TypeError, ValueError, zstandard.ZstdError)
#: A chunk record, the pack that it is of, and the segments there.
Place = namedtuple("Place", "chunk_id check kind zero segment number offset length size small_files pack segments")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


class Fields(io.BytesIO):
    """Bytes, taken field after field."""

    def take(self, size: int) -> bytes:
        taken = self.read(size)
        require(len(taken) == size, "ends too early")
        return taken

    def numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def sized(self, layout: str) -> bytes:
        return self.take(*self.numbers(layout))

    def more(self) -> bool:
        return self.tell() < len(self.getbuffer())


def kdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def gcm(key: bytes, number: int, aad: bytes, message: bytes) -> bytes:
    return AESGCM(key).decrypt(number.to_bytes(12, "little"), message, aad)


def hpke_open(private: bytes, info: bytes, message: bytes) -> bytes:
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    seed, scalar = mlkem.MLKEM768PrivateKey.from_seed_bytes(private[:64]), private[64:]
    pair = hpke.MLKEM768X25519PrivateKey(seed, x25519.X25519PrivateKey.from_private_bytes(scalar))
    return suite.decrypt(message, pair, info)


def unpack(frame: bytes, size: int) -> bytes:
    """The content of one zstd frame, which has to state its size: nothing larger is ever unpacked."""
    require(zstandard.get_frame_parameters(frame).content_size == size, "the frame states another size")
    return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)


class Entry:
    """The next entry of a tree page. An extent is an id, zeros for a hole; offset; length."""

    def __init__(self, kind: int, page: Fields, folder: bytes) -> None:
        flags, mode, uid, gid, mtime, name_length, tail_length = page.numbers("BHIIqHI")
        name, tail = page.take(name_length), Fields(page.take(tail_length))
        require(kind in FLAGS_OF and not flags & ~FLAGS_OF[kind] and mode <= 0o7777, "unknown type, flags or mode")
        self.kind, self.folder, self.name = kind, folder, name
        if kind == FILE:
            self.size, self.digest = tail.numbers("Q")[0], tail.take(16) if flags & DIGEST else b""
            parts = [tail.take(32 if flags & PAGED else 40) for _ in range(*tail.numbers("I"))]
            self.pages, self.extents = (parts, b"") if flags & PAGED else ([], b"".join(parts))
            require(bool(self.size) == bool(parts), "a file whose size and extents differ")
        elif kind in (SYMLINK, HARDLINK):
            self.target = tail.sized("I")
            require(self.target != b"", "a link to nowhere")
        xattrs = [(tail.sized("H"), tail.sized("I")) for _ in range(*tail.numbers("H"))] if flags & XATTRS else []
        require(bool(xattrs) == bool(flags & XATTRS) and xattrs == sorted(dict(xattrs).items()), "no such attributes")
        encryption = tail.take(16 + 8 + 32) if flags & ENCRYPTED else b""
        stored = (tail.sized("H") or name + b".hfcc") if encryption else name
        for each in (name, stored):
            require(each not in (b"", b".", b"..") and not set(b"/\0") & set(each), f"{each!r} is no name")
        require(not tail.more(), "an entry that goes on behind its end")
        self.path, self.restored = os.path.join(folder, name), os.path.join(folder, stored)
        self.attributes = {"mode": mode, "uid": uid, "gid": gid, "mtime_ns": mtime, "xattrs": xattrs}


def set_attributes(path: bytes, attributes: dict[str, Any]) -> None:
    """Owner (for root only), extended attributes, mode and time, in the order in which none undoes another."""
    if os.geteuid() == 0:
        os.chown(path, attributes["uid"], attributes["gid"], follow_symlinks=False)
    for name, value in attributes["xattrs"]:
        os.setxattr(path, name, value, follow_symlinks=False)
    if not os.path.islink(path):
        os.chmod(path, attributes["mode"])
    os.utime(path, ns=(attributes["mtime_ns"],) * 2, follow_symlinks=False)


class Repository:
    """A repository in a folder. `problems` are damages in spite of which it was read."""

    def __init__(self, folder: str) -> None:
        self.folder, self.problems, self.content_keys, self.gone = folder, list[str](), dict[int, bytes](), set[str]()
        self.facts, self.places = list[dict[str, Any]](), dict[tuple[int, bytes], list[Place]]()

    def names(self, kind: str, pattern: str) -> list[str]:
        """Names of the objects of a class. Whatever is called otherwise, or was removed, is ignored."""
        found, like = glob.glob(f"{kind}/**", root_dir=self.folder, recursive=True), re.compile(f"{kind}/{pattern}")
        return sorted(name for name in found if like.fullmatch(name) and name.split("/")[1] not in self.gone)

    def read(self, name: str, offset: int = 0, length: int = 64 << 20) -> bytes:
        with open(os.path.join(self.folder, name), "rb") as file:
            return os.pread(file.fileno(), length, offset)

    def attempt(self, name: str, work: Callable[..., object], *arguments: object) -> None:
        """Does what may fail without harm to the rest."""
        try:
            work(*arguments)
        except FAILURES as error:
            self.problems.append(f"{name}: {error!r}")

    def open_object(self, name: str) -> bytes:
        sealed = self.read(name)
        require(len(sealed) <= 32 << 20, "too large")
        key = kdf(self.index_key, sealed[:32], CONTEXT + b"object " + self.uuid + name.encode())
        plain = Fields(gcm(key, 0, b"", sealed[32:]))
        (form, size), content = plain.numbers("BI"), plain.read()
        require(form <= 1 and size <= 64 << 20 and (form or len(content) == size), "wrong form or size")
        return unpack(content, size) if form else content

    def record(self, name: str) -> dict[str, Any]:
        """The JSON of a snapshot or run."""
        value: dict[str, Any] = json.loads(self.open_object(name))
        require(value["version"] == 1 and name.endswith("/" + value["run_id"]), f"{name}: wrong version or name")
        return value

    def open(self, way: str, content: bytes) -> None:
        """Opens the repository with the content of a file: a secret of a key slot, or the keys that a node keeps."""
        self.config = Fields(self.read("config"))
        require(self.config.numbers("8sHH") == (b"HOLDFAST", 1, 0), "config: unknown format or version")
        self.uuid = bytes.fromhex(json.loads(self.config.sized("I"))["uuid"])
        if way == "keys":
            kept = json.loads(content)
            require((kept["version"], kept["uuid"]) == (1, self.uuid.hex()), "keys of another repository")
            self.content_keys = {key["epoch"]: bytes.fromhex(key["private"]) for key in kept.get("content_keys", [])}
            return self.use(bytes.fromhex(kept["index_key"]))
        for name in self.names("keys", ID):
            self.attempt(name, self.try_slot, name, SLOT_KINDS[way], content)
        return require(bool(self.content_keys), "no key slot opens with this")

    def try_slot(self, name: str, kind: int, secret: bytes) -> None:
        """Reads a slot; if it is of that kind and no other has opened, opens it if that is its secret."""
        slot = Fields(self.read(name))
        magic, version, stated, size = slot.numbers("8sHHI")
        require((magic, version) == (b"HFKEYSLT", 1) and size <= 1 << 20, "unknown format or version")
        header, before, sealed = json.loads(slot.take(size)), slot.getvalue()[: 16 + size], slot.take(144)
        require(slot.read() == blake3(before + sealed).digest(), "is damaged")
        require(name == "keys/" + header["slot_id"], "is another slot")
        if stated != kind or header["uuid"] != self.uuid.hex() or self.content_keys:
            return
        try:
            opened = gcm(self.wrapping_key(kind, header["kdf"], secret), 0, before, sealed)
        except InvalidTag:
            return  # The hash of the slot was right: it is another secret's.
        self.use(opened[:32])
        slot_id, facts = header["slot_id"], [fact for fact in self.facts[::-1] if fact["type"] == "key_epoch"]
        later = [{**fact, "sealed": fact["sealed"][slot_id]} for fact in facts if slot_id in fact["sealed"]]
        for copy in header["content"] + later if slot_id not in self.gone else []:
            info = CONTEXT + b"content key" + self.uuid + bytes.fromhex(slot_id) + struct.pack("<I", copy["epoch"])
            self.content_keys[copy["epoch"]] = hpke_open(opened[32:], info, base64.b64decode(copy["sealed"]))

    def wrapping_key(self, kind: int, way: dict[str, Any], secret: bytes) -> bytes:
        """The key of a slot, from the content of the file that its secret is in."""
        salt = base64.b64decode(way["salt"])
        if kind == SLOT_KINDS["passphrase"]:
            memory, passes, lanes = way["memory_kib"], way["passes"], way["lanes"]
            require(way["name"] == "argon2id" and len(salt) == 16, "unknown derivation")
            require(8 * lanes <= memory <= 1 << 20 and 1 <= passes <= 16 and 1 <= lanes <= 16, "refused cost")
            phrase = unicodedata.normalize("NFC", secret.decode().removesuffix("\n")).encode()
            return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(phrase)
        require(way["name"] == "hkdf-sha256" and len(salt) == 32, "unknown derivation")
        if kind == SLOT_KINDS["key"]:
            return kdf(secret, salt, CONTEXT + b"key file" + self.uuid)
        shown = re.sub(r"[\s-]", "", secret.decode()).upper()
        decoded = base64.b32decode(shown.removeprefix("HFRK1"))
        right = blake3(b"holdfast recovery key" + decoded[:32]).digest()[:3] == decoded[32:]
        require(shown.startswith("HFRK1") and right, "this is no recovery key, or one with a wrong letter")
        return kdf(decoded[:32], salt, CONTEXT + b"recovery key" + self.uuid)

    def use(self, index_key: bytes) -> None:
        """Reads what the index key opens: config, log, index, and the directories of packs that no index names."""
        self.index_key, before = index_key, self.config.getvalue()[: self.config.tell()]
        mac = blake3(before, key=kdf(self.index_key, self.uuid, CONTEXT + b"config")).digest()
        require(self.config.getvalue() == before + mac, "config: is damaged or another's")
        for name in self.names("log", ID + "/[0-9]{16}"):
            self.attempt(name, self.read_log_entry, name)
        self.facts.sort(key=lambda fact: fact["time"])
        self.gone = {each for fact in self.facts for key in ("run_ids", "slot_ids") for each in fact.get(key, ())}
        for name in self.names("index", ID):
            self.attempt(name, self.read_index, name)
        indexed = {place.pack for places in self.places.values() for place in places}
        for name in sorted({*self.names("packs", ID)} - indexed):
            self.attempt(name, self.read_directory, name)

    def read_log_entry(self, name: str) -> None:
        """Learns what the entry says. Who signed it, and whether others are missing, is for `auditor`."""
        entry = json.loads(Fields(self.open_object(name)).sized("I"))
        for fact in entry["facts"]:
            facts = fact["state"]["facts"] if fact["type"] == "checkpoint" else [fact]
            self.facts += [{"time": entry["time"], **each} for each in facts]

    def read_index(self, name: str) -> None:
        content = Fields(self.open_object(name))
        for _ in range(*content.numbers("I")):
            self.read_pack_record(content)
        require(not content.more(), "bytes behind its end")

    def read_directory(self, name: str) -> None:
        """Reads the record that a pack carries itself."""
        size = os.path.getsize(os.path.join(self.folder, name))
        trailer = self.read(name, size - 64)
        key = kdf(self.index_key, trailer[:32], CONTEXT + b"pack" + self.uuid + bytes.fromhex(name[6:]))
        length, stated, zero = struct.unpack("<IIQ", gcm(key, 0, b"", trailer[32:]))
        require(stated == size <= 64 << 20 and 16 <= length <= size - 64 and zero == 0, "its trailer is wrong")
        self.read_pack_record(Fields(gcm(key, 1, b"", self.read(name, size - 64 - length, length))))

    def read_pack_record(self, record: Fields) -> None:
        """Learns where the chunks of a pack are."""
        pack_id, _, *counts = record.numbers("16sIHII")
        segments = [(*record.numbers("16sBI"), record.sized("H")) for _ in range(counts[0])]
        for _ in range(counts[1]):
            place = Place(*record.numbers("32s16sBBHIIIII"), f"packs/{pack_id.hex()}", segments)
            self.places.setdefault((place.kind, place.chunk_id), []).append(place)
        record.take(20 * counts[2])

    @functools.cache  # noqa: B019 - a process has one repository
    def data_key(self, segment_id: bytes, tier: int, epoch: int, sealed: bytes) -> bytes:
        if tier == 2:
            return kdf(self.index_key, segment_id, CONTEXT + b"list segment" + self.uuid)
        require(epoch in self.content_keys, f"the content key of epoch {epoch} is needed: give the secret of a slot")
        info = CONTEXT + b"segment" + self.uuid + segment_id + struct.pack("<I", epoch)
        return hpke_open(self.content_keys[epoch], info, sealed)

    def open_message(self, kind: int, chunk_id: bytes, place: Place) -> bytes:
        require(place.length - 16 <= place.size <= 4 << 20, "a wrong length")
        segment = place.segments[place.segment]
        aad = b"HFM1" + bytes([kind]) + self.uuid + segment[0] + struct.pack("<I", place.number) + chunk_id
        message = self.read(place.pack, place.offset, place.length)
        plain = gcm(self.data_key(*segment), place.number, aad, message)
        content = plain if len(plain) == place.size else unpack(plain, place.size)
        id_key = kdf(self.index_key, self.uuid, CONTEXT + b"chunk id " + bytes([kind]))
        require(blake3(content, key=id_key).digest() == chunk_id, "is another chunk")
        return content

    @functools.lru_cache(maxsize=16)  # noqa: B019 - a process has one repository
    def chunk(self, kind: int, chunk_id: bytes) -> bytes:
        """The content of a chunk, from any pack that holds it whole."""
        failure = "is in no pack"
        for place in self.places.get((kind, chunk_id), []):
            try:
                return self.open_message(kind, chunk_id, place)
            except FAILURES as error:
                failure = f"{place.pack}: {error!r}"
        raise ValueError(f"chunk {chunk_id.hex()} of type {kind}: {failure}")

    def page_entries(self, level: int, page_id: bytes) -> Iterator[Entry]:
        """The entries in a tree page and below."""
        page, folder = Fields(self.chunk(TREE, page_id)), None
        require(page.numbers("B") == (level,) and page.more(), "a tree page is empty or of another level")
        while page.more():
            if level > 0:
                _, _, child = page.sized("I"), page.sized("H"), page.take(32)
                yield from self.page_entries(level - 1, child)
                continue
            (kind,) = page.numbers("B")
            if kind == 0:
                folder, (kind,) = page.sized("I"), page.numbers("B")
            require(folder is not None, "a tree page begins without a folder")
            yield Entry(kind, page, folder)

    def entries(self, tree: dict[str, Any] | None) -> Iterator[Entry]:
        """The entries of a snapshot's tree in their order; a hard link's target is what its file is restored as."""
        last, known, taken = (b"", b""), {b"": (DIRECTORY, b"")}, set[bytes]()
        for entry in self.page_entries(tree["level"], bytes.fromhex(tree["id"])) if tree else ():
            before, last = last, (entry.folder.replace(b"/", b"\0"), entry.name)
            require(before < last, f"{entry.path!r} is not in the order of the tree")
            require(known.get(entry.folder, (0,))[0] == DIRECTORY, f"{entry.path!r} is in no folder before it")
            require(entry.restored not in taken, f"{entry.restored!r} is there twice")
            if entry.kind == HARDLINK:
                kind, entry.target = known.get(entry.target, (0, b""))
                require(kind == FILE, f"{entry.path!r} links to no file before it")
            known[entry.path] = entry.kind, entry.restored
            taken.add(entry.restored)
            yield entry

    def content(self, entry: Entry) -> Iterator[tuple[bytes | None, int]]:
        """Pieces of a file: bytes, or None for a hole, and their length."""
        pages = [self.chunk(EXTENTS, page_id) for page_id in entry.pages]
        require(all(page and len(page) % 40 == 0 for page in pages), "an extent page is empty or cut")
        extents, size = Fields(entry.extents + b"".join(pages)), 0
        while extents.more():
            chunk_id, offset, length = extents.numbers("32sII")
            hole = not any(chunk_id)
            length = offset + (length << 32) if hole else length
            piece = None if hole else self.chunk(DATA, chunk_id)[offset : offset + length]
            require(length > 0 and (hole or len(piece) == length), "an extent is empty or outside of its chunk")
            yield piece, length
            size += length
        require(size == entry.size, "its extents are not as long as the file")

    def restore_entry(self, entry: Entry, target: bytes) -> None:
        path = os.path.join(target, entry.restored)
        if entry.kind == DIRECTORY:
            return os.mkdir(path, 0o700)
        if entry.kind == HARDLINK:
            return os.link(os.path.join(target, entry.target), path, follow_symlinks=False)
        if entry.kind == SYMLINK:
            os.symlink(entry.target, path)
            return set_attributes(path, entry.attributes)
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            try:
                for piece, length in self.content(entry):
                    file.write(piece) if piece is not None else file.seek(length, os.SEEK_CUR)
                file.truncate(entry.size)
            except FAILURES:
                os.unlink(path)
                raise
        return set_attributes(path, entry.attributes)

    def do_restore(self, run_id: str, target: str) -> None:
        """Makes the folder, and in it what the snapshot holds. A file that is not whole is left out, and a problem."""
        snapshot = self.record(f"snapshots/{run_id}")
        require(snapshot["state"] == "COMMITTED" and run_id not in self.gone, f"{run_id} has no snapshot")
        root, base = json.loads(self.chunk(ROOT, bytes.fromhex(snapshot["root"]))), os.fsencode(target)
        require(root["version"] == 1, "root: unknown version")
        own = root["attributes"]
        xattrs = [(base64.b64decode(name), base64.b64decode(value)) for name, value in own["xattrs"]]
        folders = [(base, {**own, "mode": int(own["mode"], 8), "xattrs": xattrs})]
        os.mkdir(base, 0o700)
        for entry in self.entries(root["tree"]):
            self.attempt(f"{entry.path!r}", self.restore_entry, entry, base)
            if entry.kind == DIRECTORY:
                folders.append((os.path.join(base, entry.path), entry.attributes))
        for path, attributes in reversed(folders):
            self.attempt(f"{path!r}", set_attributes, path, attributes)

    def run(self, option: str, path: str, command: str, *arguments: str) -> None:
        with open(path, "rb") as file:
            self.open(option.removeprefix("--").removesuffix("-file"), file.read())
        getattr(self, f"do_{command}")(*arguments)

    def do_list(self) -> None:
        """Prints one JSON object for each snapshot, with what the log says of it."""
        for name in self.names("snapshots", RUN_ID):
            snapshot = self.record(name)
            for fact in (fact for fact in self.facts if fact.get("run_id") == snapshot["run_id"]):
                snapshot |= {key: fact[key] for key in ("name", "locked") if key in fact}
            print(json.dumps(snapshot))


def main(arguments: list[str], usage: str | None = __doc__, kind: type[Repository] = Repository) -> int:
    """Does what the arguments say, which stand as in the usage; gives the exit status."""
    if len(arguments) < 4:
        sys.exit(usage)
    repository, (option, path, command, *others) = kind(arguments[0]), arguments[1:]
    repository.attempt(command, repository.run, option, path, command, *others)
    sys.stderr.writelines(f"{problem}\n" for problem in repository.problems)
    return 1 if repository.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
