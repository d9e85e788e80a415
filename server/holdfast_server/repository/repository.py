"""Creating and opening a repository, its key slots, and what it holds as the index key shows it."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from blake3 import blake3

from holdfast_server.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    HoldfastError,
    Reason,
    Unavailable,
    invalid_field,
)
from holdfast_server.repository.config import (
    FIRST_EPOCH,
    MAX_CONFIG,
    MAX_LEVEL,
    MIN_LEVEL,
    RepositoryConfig,
    fingerprint_of,
    stated_uuid,
)
from holdfast_server.repository.content_keys import KEY, ContentKeys
from holdfast_server.repository.crypto import UUID, IndexKeys
from holdfast_server.repository.facts import KeyEpoch
from holdfast_server.repository.format import CONFIG_NAME, SEALED_OBJECT_MAX, damaged, log_name
from holdfast_server.repository.json_object import is_run_id
from holdfast_server.repository.keys import RepositoryKeys, WriterKey
from holdfast_server.repository.log import LogHead, LogReader, LogVector
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.receipt import Receipt
from holdfast_server.repository.slot_opening import list_slots, open_slot
from holdfast_server.repository.slots import (
    NewSlot,
    OpenedSlot,
    Slot,
    SlotInfo,
    SlotKind,
    make_slot,
)
from holdfast_server.repository.snapshots import Snapshot, Tombstone, read_run_end, snapshot_ids
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = [
    "ClassCount",
    "Created",
    "Repository",
    "RepositoryCounts",
    "create_repository",
    "open_from_slots",
    "stated_id",
]

MAX_NEW_SLOTS: Final = 16


@dataclass(frozen=True, slots=True, repr=False)
class Created:
    """A new repository: all its keys (`keys.content` also when it is sealed: the caller drops it), and the recovery
    key, to be shown once, if one was asked for. Never shown itself, and refuses to be pickled."""

    config: RepositoryConfig
    fingerprint: bytes
    keys: RepositoryKeys
    slots: list[SlotInfo]
    recovery_key: str | None

    def __repr__(self) -> str:
        return f"Created({self.config.uuid.hex()}, …)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


def create_repository(
    store: ObjectStore,
    *,
    sealed: bool,
    slots: Sequence[NewSlot],
    compression_level: int,
    now_us: int,
    software: str = "holdfast",
) -> Created:
    """Make a repository in a store: its key slots, then its config, which commits it. Makes one passphrase's key at a
    time, each 0.2 s.

    Raises AlreadyExists/REPOSITORY_EXISTS when the store has one, InvalidArgument/INVALID_FIELD for what cannot be, and
    the store's own errors. What failed leaves no repository, but may leave key slots of none, which are ignored.
    """
    _check_new(sealed, slots, compression_level)
    _refuse_second(store)
    uuid, index_key = secrets.token_bytes(UUID), secrets.token_bytes(KEY)
    keys, content = IndexKeys(index_key, uuid), ContentKeys.generate()
    made = [make_slot(new, keys, OpenedSlot(index_key, content), now_us) for new in slots]
    config = RepositoryConfig(uuid, now_us, sealed, compression_level, content.public(FIRST_EPOCH), software)
    written = config.encode(keys)
    for slot in made:
        store.put(slot.name, [slot.content])
    if not store.create_if_absent(CONFIG_NAME, written):
        for slot in made:
            with contextlib.suppress(HoldfastError):
                store.delete(slot.name)
        raise _exists(store)
    return Created(
        config,
        fingerprint_of(written),
        RepositoryKeys(index_key, content, uuid, WriterKey.generate()),
        [slot.info for slot in made],
        next((slot.recovery_key for slot in made if slot.recovery_key is not None), None),
    )


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Objects of one class, and their bytes."""

    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RepositoryCounts:
    """What a listing and the snapshots tell. `original_size` is the bytes of all files of all snapshots, `stored_size`
    those in the store; `classes` counts each class of objects. What chunks there are is told by the index."""

    snapshots: int
    objects: int
    packs: int
    original_size: int
    stored_size: int
    classes: Mapping[str, ClassCount]


class Repository:
    """An opened repository as the index key shows it. Thread-safe; needs no content key."""

    def __init__(self, store: ObjectStore, keys: RepositoryKeys, config: RepositoryConfig, fingerprint: bytes) -> None:
        """Use `open`."""
        self.store = store
        self.keys = keys
        self.index_keys = IndexKeys(keys.index_key, config.uuid)
        self.config = config
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, store: ObjectStore, keys: RepositoryKeys, fingerprint: bytes | None) -> Repository:
        """Read and check the config; `fingerprint` (32 bytes) is that of the config seen before, if it was.

        Raises DataLoss/CHECKSUM_MISMATCH for a damaged config, FailedPrecondition/REPOSITORY_REPLACED for that of
        another repository, FailedPrecondition/FORMAT_UNSUPPORTED for another version, Unavailable/STORAGE_UNREACHABLE
        when there is none.
        """
        content = _stored_config(store)
        found = fingerprint_of(content)
        try:
            config = RepositoryConfig.decode(content, IndexKeys(keys.index_key, keys.uuid))
        except DataLoss:
            with contextlib.suppress(DataLoss):
                if found != fingerprint and stated_uuid(content) != keys.uuid:
                    raise _replaced(store) from None
            raise
        if fingerprint is not None and not hmac.compare_digest(found, fingerprint):
            raise _replaced(store)
        return cls(store, keys, config, found)

    def slots(self, on_damage: Callable[[DataLoss | FailedPrecondition], None] | None = None) -> list[SlotInfo]:
        """The key slots, oldest first. Raises DataLoss/CHECKSUM_MISMATCH for a damaged one, and
        FailedPrecondition/FORMAT_UNSUPPORTED for one of another version; or tells `on_damage` of it and goes on."""
        tell, infos = on_damage or _raise, []
        for slot in self.key_slots(self._told().removed_slots, tell):
            try:
                infos.append(slot.info(self.index_keys))
            except DataLoss as error:
                tell(error)
        return sorted(infos, key=lambda info: (info.create_us, info.slot_id))

    def unlock(self, secret: str) -> ContentKeys:
        """The content keys by a passphrase, the content of a key file or a recovery key: those of all epochs that were
        sealed to its slot. Each slot of a passphrase takes 0.2 s, or what it states.

        Raises FailedPrecondition/KEY_WRONG when no slot takes it; DataLoss/CHECKSUM_MISMATCH, or
        FailedPrecondition/FORMAT_UNSUPPORTED, when one is damaged or of another version that might have.
        """
        told = self._told()
        slot, opened = open_slot(self.store, self.config.uuid, told.removed_slots, secret, self.index_keys)
        return self._checked(slot, opened, told.epochs)

    def _told(self) -> LogState:
        """What the log says, as far as it is whole: older content must open whatever became of later entries."""
        return LogState.of(LogReader(self.store, self.index_keys).salvage())

    def _checked(self, slot: Slot, opened: OpenedSlot, epochs: Mapping[int, KeyEpoch]) -> ContentKeys:
        if not hmac.compare_digest(opened.index_key, self.keys.index_key):
            raise damaged(slot.name, "it gives the index key of another repository")
        content = opened.content
        if FIRST_EPOCH not in content.epochs or content.public(FIRST_EPOCH) != self.config.public_key:
            raise damaged(slot.name, "it gives content keys of another repository")
        later: dict[int, bytes] = {}
        for told in epochs.values():
            # A copy that does not open, or a key that does not fit, is damage of what is sealed to it, and of no more.
            with contextlib.suppress(DataLoss):
                private = slot.open_epoch(opened, told)
                if private is not None:
                    later[told.epoch] = private
        return content.including(later)

    def key_slots(
        self, removed: Collection[str], on_damage: Callable[[DataLoss | FailedPrecondition], None]
    ) -> Iterator[Slot]:
        """The key slots that count: not those in `removed`, of which the log says that they were."""
        return list_slots(self.store, self.config.uuid, removed, on_damage)

    def snapshots(self, on_damage: Callable[[DataLoss], None] | None = None) -> Iterator[Snapshot]:
        """The committed snapshots, in no order, with names and locks as they were committed; one that was removed and
        came back is none.

        Raises DataLoss/CHECKSUM_MISMATCH for a damaged one, or tells `on_damage` of it and goes on.
        """
        removed = self._told().removed
        for run_id in snapshot_ids(self.store):
            if run_id in removed:
                continue
            try:
                found = self.snapshot(run_id)
            except DataLoss as error:
                (on_damage or _raise)(error)
                continue
            if found is not None:
                yield found

    def snapshot(self, run_id: str) -> Snapshot | None:
        """The snapshot of a run; None when it committed none. Raises DataLoss/CHECKSUM_MISMATCH for a damaged one."""
        found = self.run_end(run_id)
        return found if isinstance(found, Snapshot) else None

    def run_end(self, run_id: str) -> Snapshot | Tombstone | None:
        """How a run ended; None when it has neither committed nor been buried. Raises as `snapshot`."""
        return read_run_end(self.store, self.index_keys, run_id)

    def receipt(self, now_us: int) -> Receipt:
        """The newest entry of each writer's log, signed by this node. Raises DataLoss/CHECKSUM_MISMATCH."""
        return Receipt.sign(self.config.uuid, self.log_heads(), self.keys.writer, now_us)

    def log_heads(self) -> LogVector:
        """The newest entry of each writer's log. Raises DataLoss/CHECKSUM_MISMATCH."""
        return LogReader(self.store, self.index_keys).heads()

    def lacks(self, known: Mapping[bytes, LogHead], heads: LogVector) -> list[bytes]:
        """The writers of whom the log lacks an entry that was seen before, or has another one in its place.

        `known` are the newest entries ever seen, `heads` those that were read now. When it names any, the store was
        rolled back, or shows another history that began behind an older state. Raises DataLoss/CHECKSUM_MISMATCH for a
        damaged entry.
        """
        behind = heads.behind(known)
        for writer, head in known.items():
            newest = heads.get(writer)
            if newest is not None and head.sequence < newest.sequence and self._is_other(writer, head):
                behind.append(writer)
        return behind

    def _is_other(self, writer: bytes, head: LogHead) -> bool:
        """Whether a writer has another entry than the one that was seen; what lies before a checkpoint may be gone."""
        try:
            content = self.store.get(log_name(writer, head.sequence), 0, SEALED_OBJECT_MAX + 1)
        except ObjectMissing:
            return False
        if blake3(content).digest() == head.hash:
            return False
        reader = LogReader(self.store, self.index_keys)
        if head.sequence <= reader.salvage().vector.superseded.get(writer, 0):
            return False  # nobody can read it, and nobody needs it any more
        reader.entry(writer, head.sequence)
        return True

    def statistics(self) -> RepositoryCounts:
        """Count the objects by a listing, and the content by the snapshots. Raises as `snapshot`."""
        objects: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for info in self.store.list(""):
            kind, _, rest = info.name.partition("/")
            if kind == "runs" and not is_run_id(rest):
                continue  # a probe of the store
            objects[kind] += 1
            sizes[kind] += info.size
        count = original_size = 0
        for snapshot in self.snapshots():
            count += 1
            original_size += snapshot.counts.bytes
        return RepositoryCounts(
            snapshots=count,
            objects=objects.total(),
            packs=objects["packs"],
            original_size=original_size,
            stored_size=sizes.total(),
            classes={kind: ClassCount(number, sizes[kind]) for kind, number in sorted(objects.items())},
        )


def open_from_slots(store: ObjectStore, secret: str) -> Repository:
    """Open a repository of which nothing is left but itself and a passphrase, the content of a key file or a recovery
    key. Its keys are all that it has, the content keys of a sealed one too (the caller drops them), and a new writer
    key. Writes nothing; takes as long as `Repository.unlock`.

    Nothing says that it is the newest state of that repository: whoever has no receipt cannot know. Raises
    FailedPrecondition/KEY_WRONG when no slot takes the secret, DataLoss/CHECKSUM_MISMATCH when a slot is damaged that
    might have, or the config is not what was written with the index key that the slot gave; and as `Repository.open`.
    """
    uuid, removed = stated_id(store), set[str]()
    while True:
        slot, opened = open_slot(store, uuid, removed, secret)
        writer = WriterKey.generate()
        found = Repository.open(store, RepositoryKeys(opened.index_key, opened.content, uuid, writer), None)
        told = found._told()
        if slot.slot_id.hex() not in told.removed_slots:
            keys = RepositoryKeys(opened.index_key, found._checked(slot, opened, told.epochs), uuid, writer)
            return Repository(store, keys, found.config, found.fingerprint)
        removed = told.removed_slots


def stated_id(store: ObjectStore) -> bytes:
    """The id, 16 bytes, that the config of a store states; nothing has proved it yet. Raises as `Repository.open`."""
    return stated_uuid(_stored_config(store))


def _stored_config(store: ObjectStore) -> bytes:
    try:
        return store.get(CONFIG_NAME, 0, MAX_CONFIG + 1)
    except ObjectMissing:
        raise Unavailable(
            Reason.STORAGE_UNREACHABLE,
            f"there is no repository at {store}: its object {CONFIG_NAME} is missing",
            metadata={"location": str(store), "object": CONFIG_NAME},
        ) from None


def _check_new(sealed: bool, slots: Sequence[NewSlot], compression_level: int) -> None:
    if not MIN_LEVEL <= compression_level <= MAX_LEVEL:
        raise invalid_field("compression_level", f"a level is {MIN_LEVEL} to {MAX_LEVEL}")
    if sealed and not slots:
        raise invalid_field("keys", "a sealed repository without a key could never be read")
    if len(slots) > MAX_NEW_SLOTS:
        raise invalid_field("keys", f"at most {MAX_NEW_SLOTS} keys can be made at once")
    if sum(new.kind is SlotKind.RECOVERY for new in slots) > 1:
        raise invalid_field("keys", "at most one recovery key can be made at once")


def _refuse_second(store: ObjectStore) -> None:
    try:
        store.size(CONFIG_NAME)
    except ObjectMissing:
        return
    raise _exists(store)


def _exists(store: ObjectStore) -> AlreadyExists:
    location = str(store)
    return AlreadyExists(
        Reason.REPOSITORY_EXISTS, f"there is a repository at {location} already", metadata={"location": location}
    )


def _replaced(store: ObjectStore) -> FailedPrecondition:
    location = str(store)
    return FailedPrecondition(
        Reason.REPOSITORY_REPLACED,
        f"the repository at {location} is not the one that was there before",
        metadata={"location": location},
    )


def _raise(error: DataLoss | FailedPrecondition) -> NoReturn:
    raise error
