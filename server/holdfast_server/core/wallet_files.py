"""What becomes of a wallet's files on their way into its backup: their coins are counted, and while the wallet is
unlocked whatever may show coins goes in as an envelope (`wallets.envelope`), named as the file with `.hfcc` behind it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from holdfast_server.archive.manifest import EntryEncryption
from holdfast_server.core.reading import FileReader
from holdfast_server.errors import HoldfastError
from holdfast_server.records import frozen_record
from holdfast_server.storage.tree import TreeEntry
from holdfast_server.wallets import envelope
from holdfast_server.wallets.census import Census
from holdfast_server.wallets.coin import Coin
from holdfast_server.wallets.coin_file import CoinFile, read_coin_file
from holdfast_server.wallets.envelope import ContentTag, Keyring, StreamEncryption, WalletKey
from holdfast_server.wallets.exposure import FIRST_SIZE, is_doubtful, is_envelope, is_exposed, may_be_exposed

__all__ = ["LargeEnvelope", "LargeFile", "StoredFile", "StoredName", "WalletFiles"]

#: Longest name of a file on common systems.
_MAX_NAME = 255


@frozen_record
class StoredFile:
    """A file as it goes into the archive. `coins` are those that its content in the source showed."""

    path: bytes
    content: bytes
    encryption: EntryEncryption | None
    coins: tuple[Coin, ...]


@dataclass(frozen=True, slots=True)
class StoredName:
    """The first name of a file with several, as it is in the archive: its member, and what a further name needs."""

    path: bytes
    encryption: EntryEncryption | None = None
    coins: Census = field(default_factory=Census)

    @classmethod
    def of(cls, stored: StoredFile) -> StoredName:
        coins = Census()
        for coin in stored.coins:
            coins.add(b"", coin)
        return cls(stored.path, stored.encryption, coins)


class LargeFile:
    """A file too large to be held in memory, on its way into the archive as it is.

    `size` is what the archive's member will have. Once its blocks are taken, `read` says how many bytes of the file
    there were, to be compared with `plain_size`.
    """

    def __init__(self, path: bytes, reader: FileReader) -> None:
        self.path = path
        self.plain_size = self.size = reader.before.st_size
        self.read = 0

    def blocks(self, content: Iterable[bytes]) -> Iterator[bytes]:
        """What goes into the archive, from the file's own blocks."""
        for block in content:
            self.read += len(block)
            yield block

    def encryption(self) -> EntryEncryption | None:
        """For the manifest; final once the last block was taken."""
        return None


class LargeEnvelope(LargeFile):
    """A file too large to be held in memory, on its way into the archive as an envelope.

    With `check` the file is read once beforehand for its content tag, `check` called between blocks; then `blocks`
    raises ValueError when the content is no longer the same. Without it, the tag is random and anything goes in:
    what is missing of the size at opening is zeros, as in an archive that takes nothing back.
    """

    def __init__(
        self,
        path: bytes,
        original: bytes | None,
        reader: FileReader,
        key: WalletKey,
        check: Callable[[], None] | None,
    ) -> None:
        super().__init__(path, reader)
        self._key_id = key.key_id
        self._original = original
        self._sha256 = hashlib.sha256()
        self._stream = StreamEncryption(key, self.plain_size, _content_tag(key, reader, check) if check else None)
        self._padded = check is None
        self.size = self._stream.size

    def blocks(self, content: Iterable[bytes]) -> Iterator[bytes]:
        return self._stream.blocks(self._hashed(super().blocks(content)))

    def _hashed(self, content: Iterable[bytes]) -> Iterator[bytes]:
        for block in content:
            self._sha256.update(block)
            yield block
        missing = self.plain_size - self.read if self._padded else 0
        while missing > 0:
            zeros = bytes(min(envelope.CHUNK, missing))
            missing -= len(zeros)
            self._sha256.update(zeros)
            yield zeros

    def encryption(self) -> EntryEncryption:
        return EntryEncryption(self._key_id, self.plain_size, self._sha256.digest(), self._original)


def _content_tag(key: WalletKey, reader: FileReader, check: Callable[[], None]) -> bytes:
    tag = ContentTag(key)
    for block in reader.blocks():
        check()
        tag.update(block)
    return tag.digest()


class WalletFiles:
    """One backup's view of a wallet's files. With `key` the wallet is unlocked.

    `census` counts with the content in hand: coins of files that are too large to be parsed, or that no key here opens,
    are not in it.
    """

    def __init__(self, key: WalletKey | None) -> None:
        self.key = key
        self.census = Census()
        self._keyring = Keyring([key] if key else ())

    def store(self, entry: TreeEntry, content: bytes) -> StoredFile:
        """How a file that is held in memory goes into the archive."""
        parsed = read_coin_file(content)
        coins = self._coins(content, parsed)
        if self.key is None or not self._encrypts(entry.path, content, parsed):
            return StoredFile(entry.path, content, None, coins)
        path, original = _envelope_path(entry)
        encryption = EntryEncryption(self.key.key_id, len(content), hashlib.sha256(content).digest(), original)
        return StoredFile(path, envelope.encrypt(content, self.key), encryption, coins)

    def store_large(self, entry: TreeEntry, reader: FileReader, check: Callable[[], None] | None) -> LargeFile:
        """The same of a large file; `check` as in LargeEnvelope."""
        if self.key is None or not self._encrypts_large(entry.path, reader):
            return LargeFile(entry.path, reader)
        return LargeEnvelope(*_envelope_path(entry), reader, self.key, check)

    def link_path(self, entry: TreeEntry, first: StoredName) -> tuple[bytes, bytes | None] | None:
        """How a further name of a stored file is called in the archive, and its own name where that has to be said.

        None: it must not be a link, because under this name the file would have been encrypted.
        """
        if first.encryption is not None:
            return _envelope_path(entry)
        if self.key is not None and is_doubtful(entry.path) and not is_doubtful(first.path):
            return None
        return entry.path, None

    def count(self, path: bytes, coins: Iterable[Coin]) -> None:
        """Count the coins of a file that is in the archive now."""
        folder, slash, _ = path.partition(b"/")
        for coin in coins:
            self.census.add(folder if slash else b"", coin)

    def count_link(self, path: bytes, first: StoredName) -> None:
        """Count those of a further name of it: whoever restores both names finds them in both."""
        folder, slash, _ = path.partition(b"/")
        self.census.add_all(folder if slash else b"", first.coins)

    def _encrypts(self, path: bytes, content: bytes, parsed: CoinFile) -> bool:
        return is_exposed(path, content, parsed)

    def _encrypts_large(self, path: bytes, reader: FileReader) -> bool:
        return may_be_exposed(path, reader.before.st_size, os.pread(reader.fd, FIRST_SIZE, 0))

    def _coins(self, content: bytes, parsed: CoinFile) -> tuple[Coin, ...]:
        if self.key is None or not is_envelope(content, len(content)):
            return parsed.coins
        try:
            return read_coin_file(self._keyring.open(content)).coins
        except HoldfastError:
            return ()  # another key's, or damaged: as opaque as what other programs encrypted


def _envelope_path(entry: TreeEntry) -> tuple[bytes, bytes | None]:
    """The name of a file's envelope, and the file's own where the former does not tell it.

    The name is one that no other member has. Names that begin with this one come after it in the walk, so what the
    folder holds of them is known; whatever appears in it later is not visited.
    """
    folder, name, suffix = entry.path[: -len(entry.name)], entry.name, envelope.SUFFIX
    if len(name) + len(suffix) > _MAX_NAME:
        digest = b"-" + hashlib.sha256(name).hexdigest()[:16].encode()
        return folder + name[: _MAX_NAME - len(suffix) - len(digest)] + digest + suffix, entry.path
    taken = set()
    for other in reversed(entry.parent.pending):
        if not other.startswith(name):
            break
        taken.add(other)
    if name + suffix not in taken:
        return entry.path + suffix, None
    number = 2
    while {name + b"-%d" % number, name + b"-%d" % number + suffix} & taken:
        number += 1
    return entry.path + b"-%d" % number + suffix, entry.path
