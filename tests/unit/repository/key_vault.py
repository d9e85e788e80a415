"""A repository whose keys change, for tests."""

from __future__ import annotations

import json
import struct

from blake3 import blake3

from holdfast_server.errors import HoldfastError
from holdfast_server.repository import ContentKeys, NewSlot, Repository, RepositoryKeys, SlotKind, create_repository
from holdfast_server.repository.crypto import Segment
from holdfast_server.repository.facts import KeyEpoch, KeyRemoved
from holdfast_server.repository.key_changes import NewEpoch, add_slot, begin_epoch, remove_slot
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.sessions import _newest_key
from holdfast_server.storage.objects import MemoryObjects, ObjectStore
from tests.unit.repository.samples import NOW

OLD, NEW = "a key file of more than thirty-two bytes", "another key file, and more than thirty-two bytes"


class Vault:
    """A repository and this node's keys of it, as a data directory keeps them."""

    def __init__(self, *, sealed: bool) -> None:
        self.store: ObjectStore = MemoryObjects()
        slots = [NewSlot(SlotKind.KEY_FILE, OLD, "old")]
        made = create_repository(self.store, sealed=sealed, slots=slots, compression_level=3, now_us=NOW)
        self.sealed, self.fingerprint = sealed, made.fingerprint
        self.keys = made.keys.without_content() if sealed else made.keys
        self.old = made.slots[0].slot_id
        self._now = NOW

    def now(self) -> int:
        self._now += 1
        return self._now

    def opened(self, store: ObjectStore | None = None) -> Repository:
        return Repository.open(store or self.store, self.keys, self.fingerprint)

    def content(self) -> ContentKeys:
        return self.keys.content or self.opened().unlock(OLD)

    def keep(self, epoch: int, private: bytes) -> None:
        self.keys = self.keys.including(epoch, private)

    def rotate(self, store: ObjectStore | None = None, listed: tuple[str, ...] = ()) -> NewEpoch:
        repository = self.opened(store)
        return begin_epoch(repository, self.now, keep=None if self.sealed else self.keep, listed=listed)

    def add(self, secret: str = NEW, store: ObjectStore | None = None, content: ContentKeys | None = None) -> str:
        new = NewSlot(SlotKind.KEY_FILE, secret, "new")
        return add_slot(self.opened(store), new, content or self.content(), self.now()).info.slot_id

    def remove(self, slot_id: str, store: ObjectStore | None = None, *, listed: bool = False) -> None:
        remove_slot(self.opened(store), slot_id, self.now(), listed=listed)

    def state(self) -> LogState:
        repository = self.opened()
        return LogState.of(LogReader(self.store, repository.index_keys).read())

    def tell(self, fact: KeyEpoch | KeyRemoved, keys: RepositoryKeys | None = None) -> None:
        repository = self.opened()
        log = LogReader(self.store, repository.index_keys).read()
        writer = (keys or self.keys).writer
        LogWriter(self.store, repository.index_keys, writer, log.vector).append([fact], self.now())

    def segment(self) -> Segment:
        """What a backup seals to now."""
        repository = self.opened()
        return Segment.new_content(_newest_key(repository, self.state()), repository.config.uuid)


def opens(vault: Vault, segments: list[Segment], secret: str = OLD) -> bool:
    """Whether the secret, and the data directory if it can, open all of them."""
    repository = vault.opened()
    for content in filter(None, (repository.unlock(secret), vault.keys.content)):
        for one in segments:
            assert len(content.open_segment(vault.keys.uuid, one.segment_id, one.epoch, one.sealed)) == 32
    return True


def rewritten(store: ObjectStore, name: str, change: dict[str, object], *, drop: str = "") -> None:
    """Change the header of a slot, with a right hash at its end."""
    content = store.get(name)
    (length,) = struct.unpack_from("<I", content, 12)
    header = json.loads(content[16 : 16 + length]) | change
    header.pop(drop, None)
    text = json.dumps(header).encode()
    whole = content[:12] + struct.pack("<I", len(text)) + text + content[16 + length : -32]
    store.put(name, [whole + blake3(whole).digest()])


def raising(error: HoldfastError) -> None:
    raise error


def slot_ids(vault: Vault) -> set[str]:
    return {slot.slot_id for slot in vault.opened().slots()}
