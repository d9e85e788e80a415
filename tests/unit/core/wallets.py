"""What tests of wallet backups share: files of every kind that holds coins, and a wallet that is backed up."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pyrage

from holdfast_server.archive.contents import open_contents
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.sealing import parse_identity, parse_recipients
from holdfast_server.archive.verify import verify_archive
from holdfast_server.core.archive_file import ProvedArchive
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.publish import create_partial
from holdfast_server.core.verify import StoredArchive
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.wallets import ccv2, format9, stack
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.envelope import KeyParameters, Keyring, WalletKey
from tests.canary import Canary
from tests.keys import PRIVATE, PUBLIC

FORMATS = [one for one in ArchiveFormat if one.writable]
KEY = WalletKey.derive("secret", KeyParameters(bytes(16), 64, 1, 1))
OTHER_KEY = WalletKey.derive("other", KeyParameters(bytes(16), 64, 1, 1))

#: In every authenticity number of these tests.
MARKER = bytes.fromhex("c0ffee0ddba11ade")
CANARY = Canary(MARKER)


def ans(seed: int) -> bytes:
    rng = Random(seed)
    return b"".join(MARKER + rng.randbytes(8) for _ in range(25))


def v3(seed: int) -> Coin:
    return Coin(denomination=seed % 5 - 2, serial=seed, ans=ans(seed))


def v2(seed: int) -> Coin:
    return Coin(0, seed + 1, ans(seed), generation=Generation.V2)


def v1(seed: int) -> Coin:
    return Coin(0, seed + 1, ans(seed), generation=Generation.V1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(data: bytes | None) -> bytes:
    coin = b"" if data is None else chunk(b"cLDc", data)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(4)))
    return b"\x89PNG\r\n\x1a\n" + header + coin + pixels + chunk(b"IEND", b"")


def jpeg(coin: Coin) -> bytes:
    start = bytes.fromhex("ffd8ffe001c34a46494600010101006000601d05")
    tail = bytes(16) + b"\x11" * 13 + b"\0\x50\x01" + coin.serial.to_bytes(3, "big")
    return start + coin.ans + tail + b"\xff\xd9"


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def exposed(seed: int) -> dict[str, tuple[bytes, Sequence[Coin]]]:
    """A file of every kind that shows coins, and the coins that can be read in it, by a fitting name."""
    one, more = format9.encode_single(v3(seed)), [v3(seed + 1), v3(seed + 2)]
    old = stack.encode([v1(seed)])
    return {
        "Bank/single.bin": (one, [v3(seed)]),
        "Bank/multi.bin": (format9.encode_many(more), more),
        "Fracked/1.CloudCoin.1.7.bin": (ccv2.encode_single(v2(seed)), [v2(seed)]),
        "Import/old.stack": (old, [v1(seed)]),
        "Gallery/note.png": (png(one), [v3(seed)]),
        "Gallery/note.jpg": (jpeg(v1(seed)), [v1(seed)]),
        "Export/sent.zip": (zipped({"a.bin": one, "b.stack": old}), [v3(seed), v1(seed)]),
        "Export/plain.zip": (zipped({"a.bin": one}, zipfile.ZIP_STORED), [v3(seed)]),
        "no name at all": (one, [v3(seed)]),
        "Corrupted/cut.bin": (one[:-50], []),
        "Corrupted/headless.bin": (one[10:], []),
        "Corrupted/cut.png": (png(one)[:-40], []),
        "Corrupted/cut.stack": (old[: len(old) // 2], []),
        "Recovery/journal.txt": (b"coin " + ans(seed).hex().encode(), []),
        "Recovery/deep/raw": (ans(seed), []),
        "ID/me.key": (b"\r\n".join(ans(seed)[at : at + 16].hex().encode() for at in range(0, 400, 16)), []),
    }


def harmless() -> dict[str, bytes]:
    """Files that are stored as they are."""
    foreign = bytearray(format9.encode_single(Coin(0, 5, bytes(range(200)) * 2)))
    foreign[5] = 4
    return {
        "config.toml": b"[wallet]\n",
        "transactions.csv": b"Symbol,Task ID\n",
        "Bank/locked elsewhere.bin": bytes(foreign),
        "Templates/picture.png": png(None),
        "Receipts/one.json": b'{"amount": "10"}',
        "Bank/nothing.bin": b"",
    }


@dataclass
class Wallet:
    """A folder that is backed up as a wallet."""

    base: Path
    pool: CompressorPool
    format: ArchiveFormat = ArchiveFormat.TAR_GZ
    sealed: bool = False
    number: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def source(self) -> Path:
        return self.base / "wallet"

    @property
    def archive(self) -> Path:
        return self.base / f"archive-{self.number}"

    def put(self, name: str | bytes, content: bytes) -> Path:
        path = self.source / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def backup(self, key: WalletKey | None = KEY, *, fail_on_error: bool = False) -> ProvedArchive:
        self.number += 1
        plan = ArchivePlan(
            "id", "name", "s", "WALLET", "S", [], 1_700_000_000_000_000, "test", format=self.format,
            fail_on_error=fail_on_error, wallet_key=key,
            recipients=parse_recipients([PUBLIC], "r") if self.sealed else None,
        )  # fmt: skip
        folder = os.open(self.base, os.O_RDONLY)
        fd = create_partial(folder, os.fsencode(self.archive.name))
        try:
            with OpenFolder(os.open(self.source, os.O_RDONLY), os.fsencode(self.source)) as source:
                return write_archive(source, plan, fd, self.pool, Control(), Progress(), self.problems.append)
        finally:
            os.close(folder)
            os.close(fd)

    def stored(self, written: ProvedArchive) -> StoredArchive:
        found = written.statistics
        return StoredArchive(
            os.fsencode(self.base), os.fsencode(self.archive.name), self.format, written.size, written.sha256,
            found.original_size, found.files, "id", written.sealed,
        )  # fmt: skip

    def plain_archive(self) -> bytes:
        """The archive's bytes, unsealed."""
        if not self.sealed:
            return self.archive.read_bytes()
        plain: bytes = pyrage.decrypt(self.archive.read_bytes(), list(parse_identity(PRIVATE).keys))
        return plain

    def entries(self) -> dict[bytes, tuple[ManifestEntry, bytes]]:
        """What the archive holds, proved against its manifest; a hard link has the content of what it names."""
        return entries_of(self.plain_archive(), self.format)

    def restored(self, *keys: WalletKey) -> dict[bytes, bytes]:
        """The wallet's files as the archive and the keys give them back."""
        return opened(self.entries(), *keys)


def entries_of(archive: bytes, archive_format: ArchiveFormat) -> dict[bytes, tuple[ManifestEntry, bytes]]:
    found: dict[bytes, tuple[ManifestEntry, bytes]] = {}
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        verify_archive(open_reader(archive_format, file, limits=Limits(), check=lambda: None), check=lambda: None)
        reader = open_reader(archive_format, file, limits=Limits(), check=lambda: None)
        contents = open_contents(reader, check=lambda: None, on_progress=lambda *_: None)
        for entry, blocks in contents.read(lambda _: True):
            content = b"".join(blocks)
            if entry.member.kind is MemberKind.HARDLINK:
                content = found[entry.member.link_target][1]
            assert entry.member.path not in found
            found[entry.member.path] = (entry, content)
    return found


def opened(entries: dict[bytes, tuple[ManifestEntry, bytes]], *keys: WalletKey) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for entry, content in entries.values():
        if entry.member.kind in (MemberKind.FILE, MemberKind.HARDLINK):
            assert entry.source_path not in found
            found[entry.source_path] = Keyring(keys).open(content) if entry.encryption else content
    return found


def on_disk(root: Path) -> dict[bytes, bytes]:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {os.fsencode(path.relative_to(root)): path.read_bytes() for path in files}
